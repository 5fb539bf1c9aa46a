"""SQL statements with the type of the rows that they answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from mig.model.row import Columns, Row, make_row_reader

Record = TypeVar("Record")

Parameters = Sequence[object] | Mapping[str, object]


class Statement(Generic[Record]):
    """A SQL statement, and what a row of its answer becomes.

    :param reader: columns, or what makes a record of a row.
    :param name: of a statement that each connection plans once; unique in this program. Its
        parameters are then written as ``%(name)s``.
    :param types: the PostgreSQL types of the parameters of such a statement.
    """

    def __init__(
        self,
        sql: str,
        reader: Columns[Record] | Callable[[Row], Record],
        *,
        name: str = "",
        types: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.execute_sql = sql
        self.prepare_sql = ""
        self._read_row = reader.read_row if isinstance(reader, Columns) else reader
        if name:
            types = types or {}
            numbers = {parameter: f"${n}" for n, parameter in enumerate(types, 1)}
            values = ", ".join(f"%({parameter})s" for parameter in types)
            self.prepare_sql = f"prepare {name} ({', '.join(types.values())}) as {sql % numbers}"
            self.execute_sql = f"execute {name} ({values})"

    def read_records(self, rows: Iterable[Row]) -> list[Record]:
        """Return the records of the rows of an answer."""
        return [self._read_row(row) for row in rows]


class QueryFunction(Protocol):
    """Runs a statement with its parameters and answers the records of all of its rows."""

    def __call__(
        self, statement: Statement[Record], parameters: Parameters = ..., /
    ) -> Awaitable[list[Record]]: ...


class IdRow(NamedTuple):
    """The row of a statement that selects an id, as text."""

    id: str


def select_ids(sql: str) -> Statement[IdRow]:
    """Return the statement *sql*, which selects ids as text."""
    return Statement(sql, make_row_reader(IdRow))


def id_array(ids: Iterable[str]) -> str:
    """Return ids as the text of a PostgreSQL array."""
    return f"{{{','.join(ids)}}}"
