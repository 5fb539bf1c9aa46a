"""From a search to rows: filters become ids on the small tables, then one table is streamed.

The streamed query never joins (a join, and an order over it, cost more than everything else
together): conditions on actions, agents and investigators are resolved to ids first.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from psycopg2 import DataError
from twisted.internet.defer import Deferred

from mig.database.pool import Rows, Snapshot
from mig.errors import InvalidInput
from mig.hypermedia.document import SEPARATOR
from mig.model.command import with_results
from mig.model.row import Row, RunQuery, id_array
from mig.search.parameters import MAX_COUNT, PARAMETERS, STATUS_WORDS, Cursor, Search

MOST_IDS: Final = 20_000
"""More matching rows than this are not written into the query but left a subselect."""

FIRST_PAGES: Final = (10, 40)
PAGE_ROWS: Final = 100
PAGE_BYTES: Final = 1_000_000
BODY: Final = -3
SIZE: Final = -2
"""Where a row of commands has its results, and their size if they were left out; the sort time is
the last column of every row."""


@dataclass(frozen=True)
class Condition:
    """SQL with its parameters; an empty one holds for every row."""

    sql: str = ""
    parameters: tuple[Any, ...] = ()

    def __and__(self, other: Condition) -> Condition:
        if not self.sql or not other.sql:
            return self if self.sql else other
        return Condition(f"{self.sql} and {other.sql}", self.parameters + other.parameters)

    def where(self) -> str:
        return f" where {self.sql}" if self.sql else ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The table of a type, and the time that its rows are ordered by."""

    table: str
    alias: str
    time: str


SOURCES: Final = {
    "action": Source(table="actions", alias="a", time="validfrom"),
    "command": Source(table="commands", alias="c", time="starttime"),
    "agent": Source(table="agents", alias="g", time="starttime"),
    "investigator": Source(table="investigators", alias="i", time="createdat"),
}


class Format(Protocol):
    """What rows become: a list of records, or a report."""

    @property
    def columns(self) -> str: ...

    def prepare(self, query: RunQuery, rows: Rows) -> Awaitable[None]: ...

    def items(self, row: Row) -> bytes: ...


def _conditions(search: Search, table: str) -> Condition:
    """What the search's parameters demand of the rows of *table*."""
    condition = Condition()
    own = SOURCES[search.type].table
    for parameter in PARAMETERS:
        sql = parameter.conditions.get(table)
        if sql is None or (parameter.own and table != own):
            continue
        if parameter.name == "after":
            condition &= Condition(sql, (_microseconds_up(search.after),))
        elif parameter.name in search.values:
            condition &= _condition(parameter.name, sql, search)
    return condition


def _condition(name: str, sql: str, search: Search) -> Condition:
    value = search.values[name]
    if name == "before":
        return Condition(sql, (_microseconds_down(value),))
    if name == "foundanything":
        return Condition(sql, ("true" if value else "false",))
    if name == "status":
        statuses = STATUS_WORDS.get(search.type, {}).get(value.lower())
        if statuses:
            return Condition("status = any(%s)", (list(statuses),))
    if value == "%":
        return Condition()
    return Condition(sql, (value,))


def _microseconds_down(time: Any) -> str:
    """The time cut to what a column can hold."""
    return str(time.round("microsecond", mode="floor").format_iso())


def _microseconds_up(time: Any) -> str:
    try:
        return str(time.round("microsecond", mode="ceil").format_iso())
    except ValueError:
        return "10000-01-01T00:00:00Z"


async def _ids(query: RunQuery, table: str, condition: Condition) -> list[str] | Condition:
    """The ids of the rows that match, or a subselect when they are many."""
    select = Condition(f"select id from {table}{condition.where()}", condition.parameters)
    limited = f"select id::text from ({select.sql} limit {MOST_IDS + 1}) few"
    rows = await query(limited, select.parameters)
    if len(rows) > MOST_IDS:
        return select
    return [row[0] for row in rows]


async def _belongs(query: RunQuery, column: str, table: str, condition: Condition) -> Condition:
    """That *column* is the id of a row of *table* that matches."""
    if not condition.sql:
        return Condition()
    found = await _ids(query, table, condition)
    if isinstance(found, Condition):
        return Condition(f"{column} in ({found.sql})", found.parameters)
    if len(found) == 1:  # an index on the column then also has the order
        return Condition(f"{column} = %s::numeric", (found[0],))
    return Condition(f"{column} = any(%s::numeric[])", (id_array(found),))


def _within(column: str, select: str, condition: Condition) -> Condition:
    """That *column* is among what *select* answers; nothing when nothing is demanded of it."""
    if not condition.sql:
        return condition
    return Condition(f"{column} in ({select}{condition.where()})", condition.parameters)


async def _signed(query: RunQuery, search: Search) -> Condition:
    """That an action is signed by the investigators that the search names."""
    signers = _conditions(search, "investigators")
    signer = await _belongs(query, "investigatorid", "investigators", signers)
    return _within("id", "select actionid from signatures", signer)


async def _matching(query: RunQuery, search: Search) -> Condition:
    """The condition on the searched table that all parameters together make.

    What is demanded of another table holds for one and the same command: an agent found by an
    action's name and a command's id has that command, and it is of such an action.
    """
    own = _conditions(search, SOURCES[search.type].table)
    if search.type == "command":
        return own & await _of_actions(query, search) & await _of_agents(query, search)
    commands = _conditions(search, "commands")
    if search.type == "agent":
        commands &= await _of_actions(query, search)
        return own & _within("id", "select agentid from commands", commands)
    commands &= await _of_agents(query, search)
    has_command = _within("id", "select actionid from commands", commands)
    if search.type == "action":
        return own & await _signed(query, search) & has_command
    actions = _conditions(search, "actions") & has_command
    signed = await _belongs(query, "actionid", "actions", actions)
    return own & _within("id", "select investigatorid from signatures", signed)


async def _of_actions(query: RunQuery, search: Search) -> Condition:
    actions = _conditions(search, "actions") & await _signed(query, search)
    return await _belongs(query, "actionid", "actions", actions)


async def _of_agents(query: RunQuery, search: Search) -> Condition:
    return await _belongs(query, "agentid", "agents", _conditions(search, "agents"))


class Results:
    """The rows of a search, newest first, encoded page by page.

    ``rows`` counts what was encoded so far; ``more`` is where the next page starts, once all
    pages have been taken and rows were left over.
    """

    def __init__(self, snapshot: Snapshot, search: Search, format: Format) -> None:
        self._snapshot = snapshot
        self._search = search
        self._format = format
        self.rows = 0
        self.more: Cursor | None = None
        self._last: Cursor | None = None

    async def open(self) -> None:
        """Resolve the filters and open the cursor."""
        source = SOURCES[self._search.type]
        condition = await _matching(self._snapshot.query, self._search)
        if cursor := self._search.cursor:
            condition &= Condition(
                f"({source.time}, id) < (%s::timestamptz, %s::numeric)", (cursor.time, cursor.id)
            )
        sql = (
            f"select {self._format.columns}, {source.time}::text"
            f" from {source.table} {source.alias}{condition.where()}"
            f" order by {source.alias}.{source.time} desc, {source.alias}.id desc"
            " limit %s offset %s"
        )
        limit = min(self._search.limit + 1, MAX_COUNT)
        parameters = (*condition.parameters, limit, self._search.offset)
        try:
            await self._snapshot.declare(sql, parameters)
        except DataError:
            if self._search.cursor is None:
                raise
            message = "cursor must be taken from the next link of an earlier page"
            raise InvalidInput(message, "cursor") from None

    async def pages(self) -> AsyncGenerator[bytes, None]:
        """Encoded items, separated within and between the pages; a page may be empty."""
        sizes = _Sizes(self._search.type == "command")
        before: list[bytes] = []
        ahead = self._snapshot.fetch(sizes.next)
        try:
            while True:
                asked = sizes.next
                rows = await ahead
                sizes.received(rows)
                last = len(rows) < asked
                rows = self._within_limit(rows)
                last = last or self.more is not None
                await self._format.prepare(self._snapshot.query, rows)
                first, large = self._until_large(rows)
                if not (last or large):
                    ahead = self._snapshot.fetch(sizes.next)
                async for part in self._parts(first, large):
                    items = [item for item in map(self._format.items, part) if item]
                    self.rows += len(part)
                    yield SEPARATOR.join(before + items) if items else b""
                    if items:
                        before = [b""]
                if last:
                    return
                if large:
                    ahead = self._snapshot.fetch(sizes.next)
        finally:
            _forget(ahead)

    def _until_large(self, rows: Rows) -> tuple[Rows, Rows]:
        """The rows before the first one whose results are too large for a page, and the others."""
        if self._search.type == "command":
            for index, row in enumerate(rows):
                if row[SIZE] is not None:
                    return rows[:index], rows[index:]
        return rows, []

    async def _parts(self, rows: Rows, large: Rows) -> AsyncGenerator[list[Row], None]:
        """*rows* at once, *large* one by one with the results that come with no page."""
        yield [*rows]
        for row in large:
            full = await with_results(self._snapshot.query, row[:-1]) if row[SIZE] else row[:-1]
            yield [full]

    def _within_limit(self, rows: Rows) -> Rows:
        left = self._search.limit - self.rows
        within = rows[:left]
        if within:
            self._last = Cursor(time=within[-1][-1], id=within[-1][0])
        if len(rows) > left:
            self.more = self._last
        return within


class _Sizes:
    """How many rows to fetch next: few at first, later about :data:`PAGE_BYTES` of them."""

    def __init__(self, has_results: bool) -> None:
        self._has_results = has_results
        self._first = iter(FIRST_PAGES)
        self.next = next(self._first)

    def received(self, rows: Rows) -> None:
        size = sum(len(row[BODY] or "") for row in rows) if self._has_results else 0
        fitting = PAGE_ROWS if not size else PAGE_BYTES * len(rows) // size
        self.next = max(1, min(next(self._first, PAGE_ROWS), fitting))


def _forget(ahead: Deferred[Rows]) -> None:
    ahead.addErrback(lambda _: None)
