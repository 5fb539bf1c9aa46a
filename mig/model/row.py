"""Stored JSON, served exactly as stored, and ids as plain integers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from msgspec import Raw

from mig.database.prepared import Prepared
from mig.errors import Unreadable

Value = TypeVar("Value")

Row = Sequence[Any]
Rows = list[tuple[Any, ...]]
Parameters = Sequence[Any] | Mapping[str, Any]
RunSQL = Callable[[str, Parameters], Awaitable[Rows]]
"""Runs one SQL statement with its parameters and answers all of its rows."""
RunQuery = Callable[[str | Prepared, Parameters], Awaitable[Rows]]
"""The same, also for a statement that is to be planned once."""


def stored_json(text: str | None, otherwise: str = "null") -> Raw:
    """The JSON *text* of a column, to be served to the letter."""
    return Raw(otherwise if text is None else text)


def whole_number(text: str) -> str:
    """A stored numeric id, which is the same in JSON.

    :raises Unreadable: for what is no whole number (a column of type numeric holds NaN, too).
    """
    if not text.isdigit():
        raise Unreadable(f"the id {text!r} is not a whole number")
    return text


def number(text: str) -> Raw:
    """A stored numeric id as a JSON number.

    :raises Unreadable: as :func:`whole_number`.
    """
    return Raw(whole_number(text))


def id_array(ids: Iterable[str]) -> str:
    """Ids as the text of a PostgreSQL array."""
    return f"{{{','.join(ids)}}}"


class Lookup(Generic[Value]):
    """Rows found by their ids, each made into a value once and kept, at most *bound* of them.

    *sql* selects the id first and takes one parameter, an array of ids. *build* makes the value;
    what it cannot read is kept as :class:`Unreadable` and raised to whoever asks for that id.
    """

    def __init__(self, sql: str, build: Callable[[Row], Value], *, bound: int) -> None:
        self._sql = sql
        self._build = build
        self._bound = bound
        self._values: dict[str, Value] = {}
        self._unreadable: dict[str, str] = {}

    async def load(self, query: RunQuery, ids: Iterable[str | None]) -> None:
        """Make sure that *ids* can be asked for until the next call."""
        wanted = {id for id in ids if id is not None}
        new = wanted.difference(self._values).difference(self._unreadable)
        if len(self._values) + len(self._unreadable) + len(new) > self._bound:
            self._values.clear()
            self._unreadable.clear()
            new = wanted
        if new:
            for row in await query(self._sql, (id_array(new),)):
                try:
                    self._values[row[0]] = self._build(row)
                except Unreadable as reason:
                    self._unreadable[row[0]] = str(reason)

    def get(self, id: str) -> Value | None:
        """The value under *id*, ``None`` when there is no such row.

        :raises Unreadable: when there is one that cannot be read.
        """
        value = self._values.get(id)
        if value is None and id in self._unreadable:
            raise Unreadable(self._unreadable[id])
        return value
