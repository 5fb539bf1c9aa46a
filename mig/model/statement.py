"""SQL statements with the type of their records."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from mig.model.row import Columns, Row, make_row_reader

Record = TypeVar("Record")

Parameters = Sequence[object] | Mapping[str, object]


class Statement(Generic[Record]):
    """A SQL statement, and how a row of its answer becomes a record.

    :param reader: columns, or a function that makes a record of a row.
    :param name: the name of a prepared statement, unique in this program. Each connection plans it
        once (docs/decisions/0006). Its parameters are written as ``%(name)s``.
    :param types: the PostgreSQL types of the parameters of a prepared statement.
    :param writes: whether the server must confirm that the effect of the statement is durable.
    """

    def __init__(
        self,
        sql: str,
        reader: Columns[Record] | Callable[[Row], Record],
        *,
        name: str = "",
        types: Mapping[str, str] | None = None,
        writes: bool = False,
    ) -> None:
        self.name = name
        self.writes = writes
        self.execute_sql = sql
        self.prepare_sql = ""
        self.read_row = reader.read_row if isinstance(reader, Columns) else reader
        if name:
            types = types or {}
            numbers = {parameter: f"${n}" for n, parameter in enumerate(types, 1)}
            values = ", ".join(f"%({parameter})s" for parameter in types)
            self.prepare_sql = f"prepare {name} ({', '.join(types.values())}) as {sql % numbers}"
            self.execute_sql = f"execute {name} ({values})"

    def read_records(self, rows: Iterable[Row]) -> list[Record]:
        """Return the records of all rows of an answer."""
        return [self.read_row(row) for row in rows]


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A condition that must hold for a prepared statement to run.

    It is sent in one message with that statement and runs just before it, so it costs no round trip
    (docs/decisions/0060).

    :param condition: a prepared statement that divides by zero when the condition does not hold.
    :param parameters: its parameters; no guarded statement may have one of the same name.
    """

    condition: Statement[None]
    parameters: Mapping[str, object]


def make_condition(sql: str, *, name: str, types: Mapping[str, str]) -> Statement[None]:
    """Return the condition of a guard: that ``sql``, which begins with ``from``, finds a row."""
    return Statement(f"select 1 / count(*) {sql}", lambda _: None, name=name, types=types)


class QueryFunction(Protocol):
    """A function that runs a statement with its parameters and returns all of its records."""

    def __call__(
        self, statement: Statement[Record], parameters: Parameters = ..., /
    ) -> Awaitable[list[Record]]:
        """Run ``statement`` and return its records."""
        ...


class IdRow(NamedTuple):
    """The row of a statement that selects an id, as text."""

    id: str


def select_ids(sql: str) -> Statement[IdRow]:
    """Return the statement ``sql``, which must select ids as text."""
    return Statement(sql, make_row_reader(IdRow))


def id_array(ids: Iterable[str]) -> str:
    """Return ids as a PostgreSQL array in text form."""
    return f"{{{','.join(ids)}}}"
