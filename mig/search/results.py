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
from mig.search.filters import SOURCES, resolve_filters
from mig.search.kinds import MAX_COUNT, Position
from mig.search.parameters import Search

FIRST_PAGES: Final = (10, 40)
PAGE_ROWS: Final = 100
PAGE_BYTES: Final = 1_000_000


class StoredRow(Protocol):
    """What every row of a search has: its place in the order."""

    @property
    def id(self) -> str: ...
    @property
    def sort_time(self) -> str: ...


Stored = TypeVar("Stored", bound=StoredRow)


class Encoder(Protocol[Stored]):
    """What rows become: records, or the items of a report."""

    @property
    def columns(self) -> Columns[Stored]:
        """The columns that it needs."""
        ...

    @property
    def separator(self) -> bytes:
        """What is written between two of its records or items."""
        ...

    def prepare(self, query: QueryFunction, rows: Sequence[Stored]) -> Awaitable[None]:
        """Load what else the rows of a page need."""
        ...

    def encode(self, row: Stored) -> bytes:
        """Return what a row becomes; nothing for one without items."""
        ...

    def weigh(self, rows: Sequence[Stored]) -> int:
        """Return the bytes of what came with the rows of a page and may be large."""
        ...

    def count_complete(self, rows: Sequence[Stored]) -> int:
        """Return how many rows come before the first one of which something was left out.

        What is too large for a page is left out of it.
        """
        ...

    def complete(self, query: QueryFunction, row: Stored) -> Awaitable[Stored]:
        """Return a row with what was left out of it, unless that is too large to be read."""
        ...


class Results(Generic[Stored]):
    """The rows of a search, encoded page by page.

    ``rows`` counts what was encoded so far; ``next`` is where the next page starts, once all
    pages have been taken and rows were left over.
    """

    def __init__(self, snapshot: Snapshot, search: Search, encoder: Encoder[Stored]) -> None:
        self._snapshot = snapshot
        self._search = search
        self._encoder = encoder
        self._last: Position | None = None
        self.rows = 0
        self.next: Position | None = None

    async def open(self) -> None:
        """Resolve the filters and open the cursor.

        :raises InvalidInputError: for a cursor with an impossible time.
        """
        source = SOURCES[self._search.type]
        condition = await resolve_filters(self._snapshot.query, self._search)
        if cursor := self._search.cursor:
            condition &= Condition(
                f"({source.time}, id) < (%s::timestamptz, %s::numeric)", (cursor.time, cursor.id)
            )
        # the alias matters: `order by id` would mean the text that is selected, and sort by it
        sql = (
            f"select {self._encoder.columns.sql} from {source.table} {source.alias}"
            f"{condition.where()}"
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

    async def pages(self) -> AsyncGenerator[bytes, None]:
        """Yield encoded pages, separated within and between them; a page may be empty."""
        sizes = _PageSizes()
        separator, read = self._encoder.separator, self._encoder.columns.read_row
        before: list[bytes] = []
        ahead = self._snapshot.fetch(sizes.next)
        try:
            while True:
                asked = sizes.next
                rows = list(map(read, await ahead))
                sizes.adapt(self._encoder.weigh(rows), len(rows))
                is_last = len(rows) < asked
                rows = self._within_limit(rows)
                is_last = is_last or self.next is not None
                await self._encoder.prepare(self._snapshot.query, rows)
                complete = self._encoder.count_complete(rows)
                first, large = rows[:complete], rows[complete:]
                # the next page is on its way while this one is encoded
                if not (is_last or large):
                    ahead = self._snapshot.fetch(sizes.next)
                async for part in self._parts(first, large):
                    items = [item for item in map(self._encoder.encode, part) if item]
                    self.rows += len(part)
                    yield separator.join(before + items) if items else b""
                    if items:
                        before = [b""]
                if is_last:
                    return
                if large:
                    ahead = self._snapshot.fetch(sizes.next)
        finally:
            _ignore_failure(ahead)

    async def _parts(
        self, rows: list[Stored], large: list[Stored]
    ) -> AsyncGenerator[list[Stored], None]:
        """Yield *rows* at once, *large* one by one with what comes with no page."""
        yield rows
        for row in large:
            yield [await self._encoder.complete(self._snapshot.query, row)]

    def _within_limit(self, rows: list[Stored]) -> list[Stored]:
        left = self._search.limit - self.rows
        within = rows[:left]
        if within:
            self._last = Position(time=within[-1].sort_time, id=within[-1].id)
        if len(rows) > left:
            self.next = self._last
        return within


class _PageSizes:
    """How many rows to fetch next: few at first, later about :data:`PAGE_BYTES` of them."""

    def __init__(self) -> None:
        self._first = iter(FIRST_PAGES)
        self.next = next(self._first)

    def adapt(self, size: int, rows: int) -> None:
        """Take note of the *size* in bytes of *rows* rows."""
        fitting = PAGE_BYTES * rows // size if size else PAGE_ROWS
        self.next = max(1, min(next(self._first, PAGE_ROWS), fitting))


def _ignore_failure(ahead: Deferred[list[Row]]) -> None:
    ahead.addErrback(lambda _: None)
