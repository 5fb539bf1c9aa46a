"""A cache of records that are needed repeatedly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar, cast

from mig.errors import UnreadableError
from mig.model.statement import QueryFunction, Statement, id_array


class _IdentifiedRow(Protocol):
    @property
    def id(self) -> str: ...
    def __iter__(self) -> Iterator[object]: ...


RowType = TypeVar("RowType", bound=_IdentifiedRow)
ValueType = TypeVar("ValueType")


class RecordCache(Generic[RowType, ValueType]):
    """At most ``bound`` values by id, each built once from its row.

    Before more are loaded, all are dropped if they could be more, or if their rows have more than
    ``max_bytes`` together: a single action may have several megabytes.

    ``find`` returns the value of an id, or ``None`` if :meth:`get` must tell why there is none.

    ``statement`` takes ``parameters``, and then an array of ids. When ``build`` cannot read a row,
    the cache keeps the reason and raises it as :class:`UnreadableError` for that id.
    """

    def __init__(
        self,
        statement: Statement[RowType],
        build: Callable[[RowType], ValueType],
        *,
        bound: int,
        max_bytes: int,
        parameters: tuple[object, ...] = (),
    ) -> None:
        self._statement = statement
        self._parameters = parameters
        self._build = build
        self._bound = bound
        self._max_bytes = max_bytes
        self._size = 0
        self._values: dict[str, ValueType] = {}
        # the dictionary's own method: a report calls it twice for each command
        self.find: Callable[[str | None], ValueType | None] = cast(Any, self._values.get)
        # as text: each time an exception is raised again its traceback grows, and keeps the results
        # of every command that asked (docs/decisions/0016)
        self._unreadable: dict[str, str] = {}

    async def load(self, query: QueryFunction, ids: Iterable[str | None]) -> None:
        """Load the values of ``ids``; :meth:`get` then has them until the next call."""
        needed = set(filter(None, ids))
        # set.difference(dict) takes time by the size of the set, dict.keys() - set by that of the
        # dict (docs/decisions/0016)
        new = needed.difference(self._values).difference(self._unreadable)
        count = len(self._values) + len(self._unreadable) + len(new)
        if new and (count > self._bound or self._size > self._max_bytes):
            self._size = 0
            self._values.clear()
            self._unreadable.clear()
            new = needed
        if new:
            for row in await query(self._statement, (*self._parameters, id_array(new))):
                self._size += sum(len(value) for value in row if isinstance(value, str))
                try:
                    self._values[row.id] = self._build(row)
                except UnreadableError as reason:
                    self._unreadable[row.id] = str(reason)

    def get(self, record_id: str | None) -> ValueType | None:
        """Return the value of ``record_id``, or ``None`` if there is no such row.

        :raises UnreadableError: when the row cannot be read.
        """
        if record_id is None:
            return None
        value = self._values.get(record_id)
        if value is None and record_id in self._unreadable:
            raise UnreadableError(self._unreadable[record_id])
        return value
