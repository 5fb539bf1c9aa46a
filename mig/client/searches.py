"""Searches, page by page, in the fastest form that the service has."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, TypeVar

from mig.client.body import Response
from mig.client.documents import COLLECTION_JSON, check_media_type
from mig.client.errors import NotFoundError, RequestError
from mig.client.pages import CollectionPage, NextPages, UnreadableRecords
from mig.client.reading import NdjsonReader
from mig.client.records import Record
from mig.client.session import Session
from mig.hypermedia import urls

RecordType = TypeVar("RecordType", bound=Record)

_NDJSON: Final = "application/x-ndjson"
_NDJSON_QUERY: Final = (("format", "ndjson"), ("seal", "true"))
_TOTAL: Final = "X-Total-Count"
_BAD_REQUEST: Final = 400


class Searches:
    """The searches of one service, which has NDJSON or not."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._has_ndjson: bool | None = None  # nobody knows before the first search

    async def read_pages(
        self,
        query: list[tuple[str, str]],
        noun: str,
        record: type[RecordType],
        *,
        has_limit: bool,
    ) -> AsyncGenerator[list[RecordType], None]:
        """Yield the results of a search from all of its pages, as many at once as have arrived.

        :param noun: the name of the data that are results.
        :param has_limit: whether further pages would exceed a limit of the caller.
        """
        unreadable = UnreadableRecords()
        next_pages = NextPages()
        response = await self._start_search(query)
        while response:
            page: NdjsonReader[RecordType] | CollectionPage[RecordType]
            if response.media_type == _NDJSON:
                page = NdjsonReader(record)
            else:
                check_media_type(response, COLLECTION_JSON)
                page = CollectionPage(noun, record, response.media_type, has_limit=has_limit)
            async with aclosing(response.read_chunks()) as chunks:
                async for chunk in chunks:
                    if records := page.feed(chunk):
                        yield records
                    unreadable.add(page.take_unreadable())
            if records := page.close():
                yield records
            unreadable.add(page.take_unreadable())
            following = None if has_limit else next_pages.check(page.following)
            response = await self._session.get_page(urls.SEARCH, following) if following else None
        unreadable.check()

    async def _start_search(self, query: list[tuple[str, str]]) -> Response | None:
        """Return the first page of a search: as NDJSON where that is known."""
        try:
            if self._has_ndjson is not False:
                try:
                    response = await self._session.get(urls.SEARCH, [*query, *_NDJSON_QUERY])
                except RequestError as reason:
                    if reason.status != _BAD_REQUEST or self._has_ndjson:
                        raise
                else:
                    self._has_ndjson = response.media_type == _NDJSON
                    return response
            response = await self._session.get(urls.SEARCH, query)
        except NotFoundError as reason:
            if "no results found" in reason.message:  # an original API says so by this status
                return None
            raise
        self._has_ndjson = False
        return response

    async def count(self, query: list[tuple[str, str]]) -> int | None:
        """Return how many results a search has, or ``None`` when the service does not count."""
        try:
            response = await self._session.get(urls.SEARCH, [*query, ("total", "true")])
        except RequestError as reason:
            if reason.status == _BAD_REQUEST:
                return None
            raise
        response.abort()
        total = response.get_header(_TOTAL)
        return int(total) if total.isdecimal() else None
