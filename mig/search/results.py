"""From a search to pages: its rows, newest first, encoded as they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from psycopg2 import DataError
from twisted.internet.defer import Deferred

from mig.database.database import Snapshot
from mig.errors import InvalidInputError
from mig.model.row import Columns, Row
from mig.model.statement import QueryFunction
from mig.search.condition import Condition
from mig.search.filters import SEARCHED_TABLES, resolve_filters
from mig.search.kinds import MAX_COUNT, PagePosition
from mig.search.parameters import Search

FIRST_PAGE_ROWS: Final = (10, 40)
MAX_PAGE_ROWS: Final = 100
TARGET_PAGE_BYTES: Final = 1_000_000


class SearchRow(Protocol):
    """What every row of a search has: its place in the order."""

    @property
    def id(self) -> str: ...
    @property
    def sort_time(self) -> str: ...


AnySearchRow = TypeVar("AnySearchRow", bound=SearchRow)


class RowEncoder(Protocol[AnySearchRow]):
    """What rows become: records, or the items of a report."""

    @property
    def columns(self) -> Columns[AnySearchRow]:
        """The columns that it needs."""
        ...

    @property
    def separator(self) -> bytes:
        """What is written between two of its records or items."""
        ...

    def load_related(self, query: QueryFunction, rows: Sequence[AnySearchRow]) -> Awaitable[None]:
        """Load what else the rows of a page need."""
        ...

    def encode_row(self, row: AnySearchRow) -> bytes:
        """Return what a row becomes; nothing for one without items."""
        ...

    def weigh_rows(self, rows: Sequence[AnySearchRow]) -> int:
        """Return the bytes of what came with the rows of a page and may be large."""
        ...

    def count_complete(self, rows: Sequence[AnySearchRow]) -> int:
        """Return how many rows come before the first one of which something was left out.

        What is too large for a page is left out of it.
        """
        ...

    def complete_row(self, query: QueryFunction, row: AnySearchRow) -> Awaitable[AnySearchRow]:
        """Return a row with what was left out of it, unless that is too large to be read."""
        ...


class SearchResults(Generic[AnySearchRow]):
    """The rows of a search, encoded page by page.

    ``row_count`` counts what was encoded so far; ``next_position`` is where the next page
    starts, once all pages have been taken and rows were left over.
    """

    def __init__(
        self, snapshot: Snapshot, search: Search, encoder: RowEncoder[AnySearchRow]
    ) -> None:
        self._snapshot = snapshot
        self._search = search
        self._encoder = encoder
        self._last_position: PagePosition | None = None
        self.row_count = 0
        self.next_position: PagePosition | None = None

    async def open(self) -> None:
        """Resolve the filters and open the cursor.

        :raises InvalidInputError: for a cursor with an impossible time.
        """
        source = SEARCHED_TABLES[self._search.type]
        condition = await resolve_filters(self._snapshot.query, self._search)
        if cursor := self._search.cursor:
            condition &= Condition(
                f"({source.time}, id) < (%s::timestamptz, %s::numeric)", (cursor.time, cursor.id)
            )
        # the alias matters: `order by id` would mean the text that is selected, and sort by it
        sql = (
            f"select {self._encoder.columns.sql} from {source.table} {source.alias}"
            f"{condition.build_where_clause()}"
            f" order by {source.alias}.{source.time} desc, {source.alias}.id desc"
            " limit %s offset %s"
        )
        limit = min(self._search.limit + 1, MAX_COUNT)
        parameters = (*condition.parameters, limit, self._search.offset)
        try:
            await self._snapshot.declare_cursor(sql, parameters)
        except DataError:
            if self._search.cursor is None:
                raise
            message = "cursor must be taken from the next link of an earlier page"
            raise InvalidInputError(message, "cursor") from None

    async def encode_pages(self) -> AsyncGenerator[bytes, None]:
        """Yield encoded pages, separated within and between them; a page may be empty."""
        sizes = _PageSizer()
        separator, read = self._encoder.separator, self._encoder.columns.read_row
        before: list[bytes] = []
        ahead = self._snapshot.fetch(sizes.next_size)
        try:
            while True:
                asked = sizes.next_size
                rows = list(map(read, await ahead))
                sizes.adapt_to_page(self._encoder.weigh_rows(rows), len(rows))
                is_last = len(rows) < asked
                rows = self._apply_limit(rows)
                is_last = is_last or self.next_position is not None
                await self._encoder.load_related(self._snapshot.query, rows)
                complete = self._encoder.count_complete(rows)
                first, large = rows[:complete], rows[complete:]
                # the next page is on its way while this one is encoded
                if not (is_last or large):
                    ahead = self._snapshot.fetch(sizes.next_size)
                async for part in self._complete_rows(first, large):
                    items = [item for item in map(self._encoder.encode_row, part) if item]
                    self.row_count += len(part)
                    yield separator.join(before + items) if items else b""
                    if items:
                        before = [b""]
                if is_last:
                    return
                if large:
                    ahead = self._snapshot.fetch(sizes.next_size)
        finally:
            _ignore_failure(ahead)

    async def _complete_rows(
        self, rows: list[AnySearchRow], large: list[AnySearchRow]
    ) -> AsyncGenerator[list[AnySearchRow], None]:
        """Yield *rows* at once, *large* one by one with what comes with no page."""
        yield rows
        for row in large:
            yield [await self._encoder.complete_row(self._snapshot.query, row)]

    def _apply_limit(self, rows: list[AnySearchRow]) -> list[AnySearchRow]:
        left = self._search.limit - self.row_count
        within = rows[:left]
        if within:
            self._last_position = PagePosition(time=within[-1].sort_time, id=within[-1].id)
        if len(rows) > left:
            self.next_position = self._last_position
        return within


class _PageSizer:
    """How many rows to fetch next: few at first, later about :data:`TARGET_PAGE_BYTES` of them."""

    def __init__(self) -> None:
        self._first = iter(FIRST_PAGE_ROWS)
        self.next_size = next(self._first)

    def adapt_to_page(self, size: int, rows: int) -> None:
        """Take note of the *size* in bytes of *rows* rows."""
        fitting = TARGET_PAGE_BYTES * rows // size if size else MAX_PAGE_ROWS
        self.next_size = max(1, min(next(self._first, MAX_PAGE_ROWS), fitting))


def _ignore_failure(ahead: Deferred[list[Row]]) -> None:
    ahead.addErrback(lambda _: None)
