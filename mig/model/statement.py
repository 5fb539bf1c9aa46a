"""SQL statements with the type of their records."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
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
        self.sql = self.execute_sql = sql
        self.types = types or {}
        self.prepare_sql = ""
        self.read_row = reader.read_row if isinstance(reader, Columns) else reader
        if name:
            numbers = {parameter: f"${n}" for n, parameter in enumerate(self.types, 1)}
            declared = ", ".join(self.types.values())
            self.prepare_sql = f"prepare {name} ({declared}) as {sql % numbers}"
            self.execute_sql = f"execute {name} ({self.placeholders})"

    @property
    def placeholders(self) -> str:
        """The parameters of a prepared statement, in order."""
        return ", ".join(f"%({parameter})s" for parameter in self.types)

    def read_records(self, rows: Iterable[Row]) -> list[Record]:
        """Return the records of all rows of an answer."""
        return [self.read_row(row) for row in rows]


@dataclass(frozen=True, kw_only=True, eq=False)
class Condition:
    """A condition that a guard adds to prepared statements: that ``sql`` finds a row.

    :param name: unique in this program.
    :param sql: begins with ``from``; its parameters are written as in a :class:`Statement`.
    :param types: the PostgreSQL types of its parameters, none of which a guarded statement has.
    """

    name: str
    sql: str
    types: Mapping[str, str]


class Guard:
    """A condition with its values, which must hold for a prepared statement to run.

    It becomes a part of the statement, so it costs neither a round trip nor a statement of its own
    (docs/decisions/0060).
    """

    def __init__(self, condition: Condition, values: Mapping[str, int | bytes]) -> None:
        self.condition = condition
        # written once: the driver would need longer for them than for everything else
        self._literals = ", ".join(_write_literal(values[name]) for name in condition.types)

    def add_to(self, statement: Statement[Record]) -> Statement[Record]:
        """Return a statement that fails with a division by zero when the condition does not hold.

        PostgreSQL evaluates the condition once and first, since it depends on no row.
        """
        return _add_condition(statement, self.condition)

    def format_execute(self, statement: Statement[Record], guarded: Statement[Record]) -> str:
        """Return the SQL that executes ``guarded``, with the parameters of ``statement``."""
        return f"execute {guarded.name} ({self._literals}, {statement.placeholders})"


@cache  # as many as there are conditions and guarded statements
def _add_condition(statement: Statement[Record], condition: Condition) -> Statement[Record]:
    return Statement(
        f"select * from ({statement.sql}) as guarded"
        f" where (select 1 / count(*) {condition.sql}) = 1",
        statement.read_row,
        name=f"{statement.name}_if_{condition.name}",
        types={**condition.types, **statement.types},
    )


def _write_literal(value: int | bytes) -> str:
    return f"decode('{value.hex()}', 'hex')" if isinstance(value, bytes) else f"{value:d}"


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
