"""The results of a search: its rows, in order, encoded page by page."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from psycopg2 import DataError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from mig.compliance.selection import LatestAnswers
from mig.database.database import Snapshot
from mig.errors import InvalidInputError
from mig.model.row import Columns, Row, make_row_reader
from mig.model.statement import QueryFunction, Statement
from mig.reactor import run_in_slices
from mig.search.condition import Condition
from mig.search.filters import SEARCHED_TABLES, resolve_filters
from mig.search.item_limit import ItemLimit
from mig.search.kinds import MAX_COUNT
from mig.search.order import PagePosition, SearchRow, make_cursor_error
from mig.search.search import Search

FIRST_PAGE_ROWS: Final = (10, 40)  # small first pages: the first byte comes sooner
MAX_PAGE_ROWS: Final = 200  # docs/decisions/0011
TARGET_PAGE_BYTES: Final = 330_000
PART_ROWS: Final = 8
PART_BYTES: Final = 65_536
"""After so many rows, or so many bytes of results, others may have their turn."""

ENCODED_BYTES: Final = 2
"""How many bytes a byte of results becomes, roughly, before any has been encoded."""


AnySearchRow = TypeVar("AnySearchRow", bound=SearchRow)


class _CountRow(NamedTuple):
    rows: int


_read_count: Final = make_row_reader(_CountRow)


class RowEncoder(Protocol[AnySearchRow]):
    """Encodes rows as records, or as the items of a report."""

    @property
    def columns(self) -> Columns[AnySearchRow]:
        """The columns that the encoder needs."""
        ...

    @property
    def separator(self) -> bytes:
        """The bytes between two records or items."""
        ...

    @property
    def item_count(self) -> int:
        """How many compliance items there are in the rows that have been encoded."""
        ...

    def load_related(self, query: QueryFunction, rows: Sequence[AnySearchRow]) -> Awaitable[None]:
        """Load the related records that the rows of a page need."""
        ...

    def encode_row(self, row: AnySearchRow) -> bytes:
        """Return the record or items of a row; empty for a row without items."""
        ...

    def weigh_rows(self, rows: Sequence[AnySearchRow]) -> int:
        """Return the size of the results in these rows, for the size of the next page and parts."""
        ...

    def count_complete(self, rows: Sequence[AnySearchRow]) -> int:
        """Return how many rows precede the first one of which a large value was left out."""
        ...

    def complete_row(self, query: QueryFunction, row: AnySearchRow) -> Awaitable[AnySearchRow]:
        """Return a row with the value that was left out, unless it is too large to be read."""
        ...


class Preparation:
    """What is done before the first byte of an answer, and how long it may take.

    :param clock: measures it, from now on.
    :param seconds: what it may take; a statement that is running then is not ended.
    """

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        self.clock = clock
        self._seconds = seconds
        self._began = clock.seconds()

    def check_time(self) -> None:
        """Refuse the search when it has taken too long.

        :raises InvalidInputError: then; a later request would take as long.
        """
        if self.clock.seconds() - self._began > self._seconds:
            raise InvalidInputError(
                f"to read the commands takes more than {self._seconds:g} s; ask for fewer agents"
                " or actions, or for a later after"
            )


class SearchResults(Generic[AnySearchRow]):
    """The rows of a search, encoded page by page.

    ``row_count`` is the number of rows that have been encoded, ``item_count`` that of the
    compliance items in them, and ``position`` that of the last row. ``is_complete`` tells that all
    pages have been encoded. If there are more rows than the limit then, ``next_position`` is where
    the next search begins. ``total`` is how many rows there are without limit and cursor, if the
    search asks for it.

    :param get_page_bytes: returns how large an encoded page may be.
    :param preparation: the time for rows that must be read before the first byte.
    :param has_items: whether items precede the first page.
    :param item_limit: ends the pages when there are enough items, if there is such a limit.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        search: Search,
        encoder: RowEncoder[AnySearchRow],
        get_page_bytes: Callable[[], int],
        preparation: Preparation,
        *,
        has_items: bool = False,
        item_limit: ItemLimit | None = None,
    ) -> None:
        self._item_limit = item_limit
        self._snapshot = snapshot
        self._search = search
        self._encoder = encoder
        self._get_page_bytes = get_page_bytes
        self._preparation = preparation
        self.has_items = has_items
        self.position = self._last_position = search.cursor
        self.row_count = 0
        self.item_count = 0
        self.is_complete = False
        self.next_position: PagePosition | None = None
        self.total: int | None = None

    @property
    def is_fetching(self) -> bool:
        """Whether the database is preparing a page."""
        return self._snapshot.is_busy

    async def open(self) -> None:
        """Resolve the filters and open the cursor.

        :raises InvalidInputError: for a cursor with an impossible time.
        :raises RequestError: as the encoder does for rows before the cursor.
        """
        source, order = SEARCHED_TABLES[self._search.type], self._search.order
        condition = await resolve_filters(self._snapshot.query, self._search)
        if self._search.has_total:
            self.total = await self._count_rows(condition)
        if cursor := self._search.cursor:
            following = order.build_condition(source.alias, cursor)
            if self._search.needs_earlier_rows:
                earlier = condition & following.negate()
                await self._encode_unseen(earlier, self._search.without_pages())
            condition &= following
        if self._search.latest is not None and self._search.needs_earlier_rows:
            await self._rehearse(condition, self._search.latest)
        await self._declare_cursor(condition)

    async def _count_rows(self, condition: Condition) -> int:
        source = SEARCHED_TABLES[self._search.type]
        counted = f"{source.table} {source.alias}{condition.build_where_clause()}"
        count = Statement(f"select count(*) from {counted}", _read_count)
        [found] = await self._snapshot.query(count, condition.parameters)
        return found.rows

    async def _rehearse(self, condition: Condition, latest: LatestAnswers) -> None:
        """Refuse too many answers before the first byte (docs/decisions/0112)."""
        latest.begin_rehearsal()
        await self._encode_unseen(condition, self._search.with_limit(self._search.limit))
        await run_in_slices(self._preparation.clock, latest.end_rehearsal())

    async def _encode_unseen(self, condition: Condition, search: Search) -> None:
        """Let the encoder see rows that are not part of the answer."""
        unseen = SearchResults(
            self._snapshot, search, self._encoder, self._get_page_bytes, self._preparation
        )
        await unseen._declare_cursor(condition)
        await unseen.read_to_end()
        await self._snapshot.close_cursor()

    async def read_to_end(self) -> None:
        """Let the encoder see all rows, before anything of the answer is sent.

        :raises InvalidInputError: when it takes too long.
        """
        async with aclosing(self.encode_pages()) as pages:
            async for _ in pages:
                self._preparation.check_time()

    async def _declare_cursor(self, condition: Condition) -> None:
        source, order = SEARCHED_TABLES[self._search.type], self._search.order
        sql = (
            f"select {self._encoder.columns.sql} from {source.table} {source.alias}"
            f"{condition.build_where_clause()} {order.build_clause(source.alias)}"
            " limit %s offset %s"
        )
        # one row more than the limit, which says whether there are more
        limit = min(self._search.limit + 1, MAX_COUNT)
        parameters = (*condition.parameters, limit, self._search.offset)
        try:
            await self._snapshot.declare_cursor(sql, parameters)
        except DataError:  # the pattern of a cursor also matches a 31st of February
            if self._search.cursor is None:
                raise
            raise make_cursor_error() from None

    async def encode_pages(self) -> AsyncGenerator[bytes, None]:
        """Yield encoded pages, with separators within and between them; a page may be empty."""
        sizes = _PageSizer(self._get_page_bytes)
        separator, read_row = self._encoder.separator, self._encoder.columns.read_row
        ahead = self._snapshot.fetch(sizes.next_size)
        try:
            while True:
                fetched = sizes.next_size
                rows = list(map(read_row, await ahead))
                sizes.adapt_to_page(self._encoder.weigh_rows(rows), len(rows))
                is_last = len(rows) < fetched
                rows = self._cut_at_limit(rows)
                is_last = is_last or self.next_position is not None
                await self._encoder.load_related(self._snapshot.query, rows)
                complete_count = self._encoder.count_complete(rows)
                complete, rest = rows[:complete_count], rows[complete_count:]
                # PostgreSQL prepares the next page while this one is encoded. Not so before large
                # results: their statements need the connection, which runs one at a time.
                if not (is_last or rest):
                    ahead = self._snapshot.fetch(sizes.next_size)
                remaining = len(rows)
                async for part in self._complete_rows(complete, rest):
                    part, items = await self._encode_rows(part)
                    # joined before all items but the first, an empty one adds a separator
                    page = separator.join([b"", *items] if self.has_items and items else items)
                    if part:
                        self.row_count += len(part)
                        self.position = self._search.order.read_position(part[-1])
                        sizes.note_encoded_size(len(page), len(part))
                    self.has_items = self.has_items or bool(items)
                    remaining -= len(part)
                    if self._ends_early():
                        await ahead  # a statement that still runs would cost the connection
                        is_last, remaining = True, 0
                    self.is_complete = is_last and not remaining
                    yield page
                    if self.is_complete:
                        return
                if is_last:
                    return
                if rest:
                    ahead = self._snapshot.fetch(sizes.next_size)
        finally:
            _ignore_failure(ahead)

    async def _encode_rows(
        self, rows: Sequence[AnySearchRow]
    ) -> tuple[list[AnySearchRow], list[bytes]]:
        """Return the items of rows, and the rows of which the answer has all or some.

        Others have their turn between parts of them: a row may have many items, also such as are
        left out.
        """
        kept: list[AnySearchRow] = []
        items: list[bytes] = []
        await run_in_slices(self._preparation.clock, self._encode_parts(rows, kept, items))
        return kept, items

    def _encode_parts(
        self, rows: Sequence[AnySearchRow], kept: list[AnySearchRow], items: list[bytes]
    ) -> Iterator[None]:
        """Encode rows in short steps."""
        encode_row, limit = self._encoder.encode_row, self._item_limit
        before = self._encoder.item_count
        if limit is None:
            size = max(1, self._encoder.weigh_rows(rows))
            step = max(1, min(PART_ROWS, PART_BYTES * len(rows) // size))
            for begin in range(0, len(rows), step):
                items += filter(None, map(encode_row, rows[begin : begin + step]))
                yield
            kept += rows
            self.item_count += self._encoder.item_count - before
            return
        taken_before = limit.item_count
        for row in rows:
            limit.take_row(row, encode_row(row), kept, items)
            if limit.next_position is not None:
                break
            yield
        if self._encoder.item_count > before:  # not all of what was encoded is sent
            self.item_count += limit.item_count - taken_before

    def _ends_early(self) -> bool:
        """Return whether there are enough items; then the next page starts where they end."""
        if self._item_limit is None or self._item_limit.next_position is None:
            return False
        self.next_position = self._item_limit.next_position
        return True

    async def _complete_rows(
        self, complete: list[AnySearchRow], rest: list[AnySearchRow]
    ) -> AsyncGenerator[list[AnySearchRow], None]:
        """Yield ``complete`` together, then ``rest`` one by one, each with what was left out."""
        yield complete
        for row in rest:
            yield [await self._encoder.complete_row(self._snapshot.query, row)]

    def _cut_at_limit(self, rows: list[AnySearchRow]) -> list[AnySearchRow]:
        """Return the rows within the limit; note where the next page starts if some remain."""
        allowed = self._search.limit - self.row_count
        kept = rows[:allowed]
        if kept:
            self._last_position = self._search.order.read_position(kept[-1])
        if len(rows) > allowed:
            self.next_position = self._last_position
        return kept


class _PageSizer:
    """The size of the next page: few rows at first, later about :data:`TARGET_PAGE_BYTES`.

    :param get_page_bytes: returns how large an encoded page may be.
    """

    def __init__(self, get_page_bytes: Callable[[], int]) -> None:
        self._get_page_bytes = get_page_bytes
        self._bytes_per_row = 1  # of the last page; an encoded one, as soon as there is one
        self._first = iter(FIRST_PAGE_ROWS)
        self.next_size = next(self._first)

    def adapt_to_page(self, size: int, rows: int) -> None:
        """Choose the next size after a page of ``rows`` rows with ``size`` bytes of results."""
        fitting = TARGET_PAGE_BYTES * rows // size if size else MAX_PAGE_ROWS
        self._bytes_per_row = max(self._bytes_per_row, size * ENCODED_BYTES // max(1, rows))
        allowed = self._get_page_bytes() // self._bytes_per_row
        self.next_size = max(1, min(next(self._first, MAX_PAGE_ROWS), fitting, allowed))

    def note_encoded_size(self, size: int, rows: int) -> None:
        """Note that ``rows`` rows became ``size`` bytes of an answer."""
        self._bytes_per_row = max(1, size // rows)


def _ignore_failure(ahead: Deferred[list[Row]]) -> None:
    """Consume the failure of a page that nobody waits for, which Twisted would log."""
    ahead.addErrback(lambda _: None)
