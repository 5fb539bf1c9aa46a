"""Searches and compliance reports: parameters → pages of rows → a format → the client."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from twisted.internet.interfaces import IReactorTime
from whenever import Instant

from mig.access.caller import Caller
from mig.api.documents import Documents
from mig.api.errors import refused
from mig.compliance.encoder import ComplianceEncoder
from mig.database.database import Database
from mig.errors import InvalidInputError
from mig.formats.format import Ending, Format
from mig.hypermedia.document import Data, Item, Link
from mig.limits import Limits
from mig.model.search import SearchParameters
from mig.search.parameters import Search, parse_search
from mig.search.records import encode_records
from mig.search.results import Encoder, Results
from mig.web.request import Request


class Searches:
    """Answers searches.

    :param reactor: the clock of the default search window.
    """

    def __init__(
        self, reactor: IReactorTime, database: Database, documents: Documents, limits: Limits
    ) -> None:
        self._reactor = reactor
        self._database = database
        self._documents = documents
        self._limits = limits

    async def get(self, request: Request, caller: Caller) -> bytes | None:
        """A search, streamed in the format that it asks for."""
        now = Instant.from_timestamp(self._reactor.seconds())
        pairs = request.parse_query()
        try:
            search = parse_search(pairs, now)
        except InvalidInputError as refusal:
            return _refuse(request, refusal, parse_search([], now).parameters())
        format_ = self._documents.choose(request)
        if request.method == b"HEAD":
            request.negotiate_media_type(format_.media_types)
            return b""
        await self._documents.stream(request, format_, self._document(request, format_, search))
        return None

    async def _document(
        self, request: Request, format_: Format, search: Search
    ) -> AsyncGenerator[bytes, None]:
        """Yield the document: its first chunk is the head and the first page."""
        href = request.build_url()
        async with self._database.snapshot(f"mig-api {request.operation}") as snapshot:
            results = Results(snapshot, search, self._encoder(format_, search))
            await results.open()
            pending = format_.head(href)
            is_empty = True
            async with aclosing(results.pages()) as pages:
                async for page in pages:
                    request.rows = results.rows
                    is_empty = is_empty and not page
                    yield pending + page
                    pending = b""
        is_first_page_of_records = not search.report and search.cursor is None
        yield format_.tail(
            Ending(
                href=href,
                is_empty=is_empty,
                links=self._links(search, results),
                parameters=search.parameters() if is_first_page_of_records else None,
            )
        )

    def _encoder(self, format_: Format, search: Search) -> Encoder[Any]:
        urls = self._documents.urls
        if search.report == "complianceitems":
            return ComplianceEncoder(format_, urls, self._limits)
        return encode_records(search.type, format_, urls, self._limits.result_bytes)

    def _links(self, search: Search, results: Results[Any]) -> list[Link]:
        if results.next is None:
            return []
        parameters = dict(search.texts)
        parameters |= {"after": search.after.format_iso(), "limit": str(search.limit)}
        parameters |= {"offset": "", "cursor": str(results.next)}
        href = self._documents.urls.for_search((n, text) for n, text in parameters.items() if text)
        return [Link(rel="next", href=href)]


def _refuse(request: Request, refusal: InvalidInputError, parameters: SearchParameters) -> bytes:
    """Return the refusal of a search, with the defaults as an item: clients of 2014 expect it."""
    data = [Data(name=parameters.noun, value=parameters)]
    return refused(request, refusal, items=[Item(href=request.build_url(), data=data)])
