"""The home document, the root of the server, the heartbeat, and the client's address."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from mig.access.caller import Caller
from mig.api.documents import answer_collection
from mig.api.responder import refuse_parameters
from mig.formats import read_style
from mig.hypermedia import templates
from mig.hypermedia.document import Data, FieldSchemas, Item, Link
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
        return answer_collection(
            request,
            href=self._urls.for_home(),
            links=templates.list_home_links(self._urls),
            queries=templates.list_home_queries(
                self._urls, search=_list_fields(PARAMETERS), audit=_list_fields(AUDIT_PARAMETERS)
            ),
            schemas={
                "search": _list_schemas(PARAMETERS),
                "audit": _list_schemas(AUDIT_PARAMETERS),
            },
        )

    async def redirect_to_home(self, request: Request, caller: Caller) -> bytes:
        """Redirect from the root of the server to the API."""
        request.setHeader(b"location", self._urls.for_home().encode())
        link = Link(rel="home", href=self._urls.for_home())
        return answer_collection(request, links=[link], status=HTTPStatus.FOUND)

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
        return answer_collection(request, items=[item])

    async def get_style(self, request: Request, caller: Caller) -> bytes:
        """Return the style sheet of the pages for browsers."""
        refuse_parameters(request)
        return request.prepare_style(read_style())


def _list_fields(parameters: Iterable[Parameter]) -> list[Data]:
    """Return parameters as the fields of a query, which are all empty."""
    return [Data(name=p.name, value="", prompt=p.prompt) for p in parameters]


def _list_schemas(parameters: Iterable[Parameter]) -> FieldSchemas:
    """Return the JSON schemas of parameters, by name."""
    return {p.name: p.kind.build_json_schema() for p in parameters}
