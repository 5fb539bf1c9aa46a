"""The pages of a search for a client that may be slow: read in one snapshot, or in several."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Protocol

from mig.database.database import Snapshot
from mig.hypermedia.document import Link
from mig.search.item_limit import ItemLimit
from mig.search.order import PagePosition
from mig.search.results import Preparation, RowEncoder, SearchResults
from mig.search.search import Search


class SnapshotOpener(Protocol):
    """A function that opens a snapshot for a stream."""

    def __call__(self, *, is_resumed: bool) -> AbstractAsyncContextManager[Snapshot]:
        """Return a snapshot; a resumed stream waits for its connection as long as it takes."""
        ...


class PageStream(Protocol):
    """The pages of an answer, until ``is_complete`` is set.

    ``links`` are those of the document, besides ``next`` and ``resumed``. ``row_count``,
    ``item_count``, ``has_items``, ``next_position``, ``total`` and ``resumption`` are as in
    :class:`SearchStream`.
    """

    is_complete: bool
    row_count: int
    item_count: int
    has_items: bool
    next_position: PagePosition | None
    total: int | None
    resumption: Search | None
    links: Sequence[Link]

    async def read_page(self) -> bytes:
        """Return the next page, which may be empty."""
        ...

    async def aclose(self) -> None:
        """Give back what the stream holds."""
        ...


class SearchStream:
    """The pages of a search, which can give its connection back between two of them.

    The next page then comes from a new snapshot, and starts after the last row that was read
    (docs/decisions/0042). ``resumption`` is the search for all that did not come from the first
    snapshot. The other attributes are as in :class:`SearchResults`, for all snapshots; ``total`` is
    of the first one.

    :param open_snapshot: opens the snapshots.
    :param make_encoder: makes an encoder for each snapshot: what it caches takes much memory.
    :param get_page_bytes: returns how large an encoded page may be.
    :param preparation: the time for rows that must be read before the first byte.
    :param is_connection_needed: returns whether others need the connection more than a client that
        has paused for some seconds.
    :param item_limit: ends the pages when there are enough items, if there is such a limit.
    """

    def __init__(
        self,
        search: Search,
        *,
        open_snapshot: SnapshotOpener,
        make_encoder: Callable[[], RowEncoder[Any]],
        get_page_bytes: Callable[[], int],
        preparation: Preparation,
        is_connection_needed: Callable[[float], bool],
        item_limit: ItemLimit | None = None,
    ) -> None:
        self._item_limit = item_limit
        self._remaining_search = search
        self._open_snapshot = open_snapshot
        self._make_encoder = make_encoder
        self._get_page_bytes = get_page_bytes
        self._preparation = preparation
        self._is_connection_needed = is_connection_needed
        self._results: SearchResults[Any] | None = None
        self._pages: AsyncGenerator[bytes, None] | None = None
        self._snapshot_exit = AsyncExitStack()
        self._earlier_row_count = 0
        self._earlier_item_count = 0
        self.is_complete = False
        self.row_count = 0
        self.item_count = 0
        self.has_items = False
        self.next_position: PagePosition | None = None
        self.total: int | None = None
        self.resumption: Search | None = None
        self.links: Sequence[Link] = ()

    @property
    def held_bytes(self) -> int:
        """How much memory the ids of agents take that were found before the search."""
        return sum(map(len, self._remaining_search.targeted_agents or ()))

    def should_suspend(self, paused_seconds: float) -> bool:
        """Return whether to give the connection back to a client that pauses.

        A page that is being fetched ahead is not cancelled, since it would be fetched again.
        """
        is_busy = self._results is not None and self._results.is_fetching
        return not is_busy and self._is_connection_needed(paused_seconds)

    async def read_page(self) -> bytes:
        """Return the next page, which may be empty; there is one until ``is_complete`` is set.

        :raises InvalidInputError: as :meth:`SearchResults.open` does.
        :raises UnavailableError: when the database cannot be reached, or not in time.
        """
        if self._results is None or self._pages is None:
            self._results, self._pages = await self._open()
        page = await anext(self._pages)
        self.row_count = self._earlier_row_count + self._results.row_count
        self.item_count = self._earlier_item_count + self._results.item_count
        self.has_items = self._results.has_items
        self.next_position = self._results.next_position
        self.is_complete = self._results.is_complete
        return page

    async def _open(self) -> tuple[SearchResults[Any], AsyncGenerator[bytes, None]]:
        is_resumed = self.resumption is not None
        snapshot = await self._snapshot_exit.enter_async_context(
            self._open_snapshot(is_resumed=is_resumed)
        )
        results = SearchResults(
            snapshot,
            self._remaining_search,
            self._make_encoder(),
            self._get_page_bytes,
            self._preparation,
            has_items=self.has_items,
            item_limit=self._item_limit,
        )
        await results.open()
        if not is_resumed:
            self.total = results.total
        return results, results.encode_pages()

    async def suspend(self) -> None:
        """Give the connection back, after a page."""
        results = self._results
        await self.aclose()
        if results is not None and results.position is not None and not self.is_complete:
            self._earlier_row_count += results.row_count
            self._earlier_item_count += results.item_count
            self._remaining_search = self._remaining_search.continue_after(
                results.position, results.row_count
            )
            self.resumption = self.resumption or self._remaining_search

    async def aclose(self) -> None:
        """Give the connection back, and cancel what is still running on it."""
        pages, self._pages, self._results = self._pages, None, None
        try:
            if pages is not None:
                await pages.aclose()
        finally:
            await self._snapshot_exit.aclose()
