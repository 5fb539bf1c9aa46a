"""The orders of a search, and the end of a page in each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from mig.errors import InvalidInputError
from mig.search.condition import Condition

MAX_NAME_CHARACTERS: Final = 256
"""How much of a name decides its place: a cursor has as much of it in the URL."""

_TIME: Final = re.compile(
    r"-?infinity|[0-9]{4,6}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?\+00( BC)?",
    re.ASCII,
)
_NAME: Final = re.compile(rf".{{0,{MAX_NAME_CHARACTERS}}}", re.DOTALL)


class SearchRow(Protocol):
    """A row of a search, with its place in the usual order."""

    @property
    def id(self) -> str:
        """The id, as text."""
        ...

    @property
    def sort_time(self) -> str:
        """The time that searches are usually ordered by."""
        ...


@dataclass(frozen=True, kw_only=True)
class PagePosition:
    """The end of a page: the sort key of its last row, and the id, both as text.

    ``key`` is ``None`` in an order by id alone. With ``items``, only that many items of the row
    itself are before the position.
    """

    key: str | None
    id: str
    items: int = 0

    def __str__(self) -> str:
        row = f"{self.id}:{self.items}" if self.items else self.id
        return row if self.key is None else f"{self.key},{row}"


@dataclass(frozen=True, kw_only=True)
class SortColumn:
    """A column that rows are sorted by, before their id.

    ``key_sql`` is the SQL of the key in the table ``{alias}``, and ``type`` its SQL type;
    ``row_field`` is the field of a row that begins with it. ``key_pattern`` matches each key as
    text.
    """

    name: str
    key_sql: str = ""
    type: str = ""
    row_field: str = ""
    key_pattern: re.Pattern[str] = _NAME


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of the rows of a search: by a column and then by id, both in one direction."""

    column: SortColumn
    is_descending: bool

    def build_clause(self, alias: str) -> str:
        """Return the ``order by`` clause for a table."""
        direction = "desc" if self.is_descending else "asc"
        keys = [self.column.key_sql.format(alias=alias)] if self.column.key_sql else []
        # with the alias: a bare `order by id` sorts by the selected text (docs/decisions/0010)
        return "order by " + ", ".join(f"{key} {direction}" for key in [*keys, f"{alias}.id"])

    def build_condition(self, alias: str, position: PagePosition) -> Condition:
        """Return the condition that a row, or an item of it, comes after ``position``."""
        comparison = "<" if self.is_descending else ">"
        if position.items:
            comparison += "="
        if position.key is None:
            return Condition(f"{alias}.id {comparison} %s::numeric", (position.id,))
        key_sql = self.column.key_sql.format(alias=alias)
        return Condition(
            f"({key_sql}, {alias}.id) {comparison} (%s::{self.column.type}, %s::numeric)",
            (position.key, position.id),
        )

    def read_position(self, row: SearchRow) -> PagePosition:
        """Return the position of a row."""
        if not self.column.key_sql:
            return PagePosition(key=None, id=row.id)
        key: str = getattr(row, self.column.row_field)  # a time is shorter
        return PagePosition(key=key[:MAX_NAME_CHARACTERS], id=row.id)

    def check_position(self, position: PagePosition) -> None:
        """Refuse the position of another order.

        :raises InvalidInputError: when it cannot be one of this order.
        """
        key = position.key
        has_key = key is not None
        if has_key != bool(self.column.key_sql) or not self.column.key_pattern.fullmatch(key or ""):
            raise make_cursor_error()


def make_cursor_error() -> InvalidInputError:
    """Return the error for a cursor that is not of an earlier page."""
    return InvalidInputError("cursor must be taken from the next link of an earlier page", "cursor")


def make_time_column(name: str) -> SortColumn:
    """Return a column of a time."""
    return SortColumn(
        name=name,
        key_sql=f"{{alias}}.{name}",
        type="timestamptz",
        row_field="sort_time",
        key_pattern=_TIME,
    )


_ID: Final = SortColumn(name="id")
# in the order of the characters' numbers, which no locale and no update of one changes
_AGENT_NAME: Final = SortColumn(
    name="name",
    key_sql=f'left({{alias}}.name, {MAX_NAME_CHARACTERS}) collate "C"',
    type="text",
    row_field="name",
)
SORT_COLUMNS: Final[Mapping[str, Sequence[SortColumn]]] = {
    "action": (make_time_column("validfrom"), _ID),
    "command": (make_time_column("starttime"), _ID),
    "agent": (make_time_column("starttime"), _ID, _AGENT_NAME),
    "investigator": (make_time_column("createdat"), _ID),
}
"""The columns that the rows of a type can be sorted by. The usual order is by the first one."""


def get_usual_order(type_: str) -> Order:
    """Return the order of a search without ``sort``: newest first."""
    return Order(column=SORT_COLUMNS[type_][0], is_descending=True)
