"""Records that are needed again and again, found by their ids and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from mig.errors import UnreadableError
from mig.model.statement import QueryFunction, Statement, id_array


class _IdentifiedRow(Protocol):
    @property
    def id(self) -> str: ...


RowType = TypeVar("RowType", bound=_IdentifiedRow)
ValueType = TypeVar("ValueType")


class RecordCache(Generic[RowType, ValueType]):
    """Values by id, each built once from its row and kept, at most *bound* of them.

    *statement* takes one parameter, an array of ids. What *build* cannot read is kept as the reason
    and raised as :class:`UnreadableError` to everyone who asks for that id.
    """

    def __init__(
        self, statement: Statement[RowType], build: Callable[[RowType], ValueType], *, bound: int
    ) -> None:
        self._statement = statement
        self._build = build
        self._bound = bound
        self._values: dict[str, ValueType] = {}
        # as text: an exception that is raised again keeps the frames of everyone who asked
        self._unreadable: dict[str, str] = {}

    async def load(self, query: QueryFunction, ids: Iterable[str | None]) -> None:
        """Make sure that *ids* can be asked for until the next call."""
        needed = {id_ for id_ in ids if id_ is not None}
        # set.difference(dict) costs by the size of the set; dict.keys() - set by that of the dict
        new = needed.difference(self._values).difference(self._unreadable)
        if len(self._values) + len(self._unreadable) + len(new) > self._bound:
            self._values.clear()
            self._unreadable.clear()
            new = needed
        if new:
            for row in await query(self._statement, (id_array(new),)):
                try:
                    self._values[row.id] = self._build(row)
                except UnreadableError as reason:
                    self._unreadable[row.id] = str(reason)

    def get(self, record_id: str | None) -> ValueType | None:
        """Return the value under *record_id*, ``None`` when there is no such row.

        :raises UnreadableError: when there is one that cannot be read.
        """
        if record_id is None:
            return None
        value = self._values.get(record_id)
        if value is None and record_id in self._unreadable:
            raise UnreadableError(self._unreadable[record_id])
        return value
