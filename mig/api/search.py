"""Searches and compliance reports: parameters → pages of rows → a format → the client."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from whenever import Instant

from mig.access.caller import Caller
from mig.api.errors import answer_refusal
from mig.api.responder import Responder
from mig.database.database import Database
from mig.errors import InvalidInputError
from mig.formats.format import DocumentTail, Format
from mig.hypermedia.document import Data, Item, Link
from mig.limits import Limits
from mig.model.search import SearchParameters
from mig.reactor import WallClock
from mig.search.kinds import PagePosition
from mig.search.parameters import Search, parse_search
from mig.search.records import make_row_encoder
from mig.search.results import RowEncoder, SearchResults
from mig.web.request import Request


class SearchResource:
    """The handler of searches.

    :param wall_clock: the time of day, at which the default search window ends.
    """

    def __init__(
        self, wall_clock: WallClock, database: Database, responder: Responder, limits: Limits
    ) -> None:
        self._wall_clock = wall_clock
        self._database = database
        self._responder = responder
        self._limits = limits

    async def run_search(self, request: Request, caller: Caller) -> bytes | None:
        """Answer a search or a report, streamed in the format that the client prefers."""
        now = Instant.from_timestamp(self._wall_clock())
        pairs = request.parse_query()
        try:
            search = parse_search(pairs, now)
        except InvalidInputError as refusal:
            return _answer_invalid_search(request, refusal, parse_search([], now).echo_parameters())
        format_ = self._responder.choose_format(request)
        if request.method == b"HEAD":  # the query would run only to be thrown away
            request.set_headers()
            return b""
        encoder = make_row_encoder(search, format_, self._responder.urls, self._limits)
        document = self._encode_document(request, format_, search, encoder)
        await self._responder.stream_document(request, document)
        return None

    async def _encode_document(
        self, request: Request, format_: Format, search: Search, encoder: RowEncoder[Any]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the document; its first chunk is the head and the first page."""
        href = request.build_url()
        async with self._database.snapshot(f"mig-api {request.operation}") as snapshot:
            results = SearchResults(snapshot, search, encoder)
            await results.open()
            # The head leaves with the first page, so that an error of the query still becomes
            # an error answer: stream_response writes nothing before the first chunk.
            pending = format_.encode_head(href)
            is_empty = True
            async with aclosing(results.encode_pages()) as pages:
                async for page in pages:
                    request.rows = results.row_count
                    is_empty = is_empty and not page
                    yield pending + page
                    pending = b""
        is_first_page_of_records = not search.report and search.cursor is None
        yield format_.encode_tail(
            DocumentTail(
                href=href,
                is_empty=is_empty,
                links=self._link_next_page(search, results.next_position),
                parameters=search.echo_parameters() if is_first_page_of_records else None,
            )
        )

    def _link_next_page(self, search: Search, position: PagePosition | None) -> list[Link]:
        if position is None:
            return []
        parameters = dict(search.raw_values)
        # written out: the default of `after` moves with the clock, and that of `limit` may change
        parameters["limit"] = str(search.limit)
        if search.after is not None:
            parameters["after"] = search.after.format_iso()
        parameters |= {"offset": "", "cursor": str(position)}  # which continues after the offset
        href = self._responder.urls.for_search((n, text) for n, text in parameters.items() if text)
        return [Link(rel="next", href=href)]


def _answer_invalid_search(
    request: Request, refusal: InvalidInputError, parameters: SearchParameters
) -> bytes:
    """Refuse a search, with the default parameters as an item, which clients of 2014 expect."""
    data = [Data(name=parameters.noun, value=parameters)]
    return answer_refusal(request, refusal, items=[Item(href=request.build_url(), data=data)])
