"""The home document, the root of the server, the heartbeat, and the client's address."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from mig.access.caller import Caller
from mig.api.responder import refuse_parameters
from mig.formats.collection_json import write_document
from mig.hypermedia import templates
from mig.hypermedia.document import Data, Item, Link
from mig.hypermedia.urls import Urls
from mig.search.audit import AUDIT_PARAMETERS
from mig.search.parameters import PARAMETERS, Parameter
from mig.web.request import Request


class HomeResource:
    """The handlers that need no database."""

    def __init__(self, urls: Urls) -> None:
        self._urls = urls

    async def get_home(self, request: Request, caller: Caller) -> bytes:
        """Return links to every resource and search, for clients that know nothing of MIG."""
        refuse_parameters(request)
        document = write_document(
            self._urls.for_home(),
            links=templates.list_home_links(self._urls),
            queries=templates.list_home_queries(
                self._urls, search=_list_fields(PARAMETERS), audit=_list_fields(AUDIT_PARAMETERS)
            ),
        )
        return request.prepare_response(document)

    async def redirect_to_home(self, request: Request, caller: Caller) -> bytes:
        """Redirect from the root of the server to the API."""
        request.setHeader(b"location", self._urls.for_home().encode())
        link = Link(rel="home", href=self._urls.for_home())
        return request.prepare_response(
            write_document(request.build_url(), links=[link]), HTTPStatus.FOUND
        )

    async def get_client_address(self, request: Request, caller: Caller) -> bytes:
        """Return the client's address as text: agents of 2017 end when they do not get it."""
        refuse_parameters(request)
        return request.prepare_text(request.client_address.encode())

    async def get_heartbeat(self, request: Request, caller: Caller) -> bytes:
        """Return that the service runs."""
        refuse_parameters(request)
        # Existing monitoring looks for these words.
        data = [Data(name="heartbeat", value="gatorz say hi")]
        item = Item(href=request.build_url(), data=data)
        return request.prepare_response(write_document(request.build_url(), items=[item]))


def _list_fields(parameters: Iterable[Parameter]) -> list[Data]:
    """Return parameters as the fields of a query, which are all empty."""
    return [Data(name=p.name, value="", prompt=p.prompt) for p in parameters]
