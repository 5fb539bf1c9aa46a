"""What a report or a summary needs of the actions and agents of commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple

from mig.model.agent import IS_CURRENT_SQL
from mig.model.row import Columns, id_sql, make_row_reader
from mig.model.statement import Statement


class ActionRow(NamedTuple):
    """The columns of an action."""

    id: Annotated[str, id_sql("id")]
    name: Annotated[str, "name"]
    description: Annotated[str | None, "description::text"]
    threat: Annotated[str | None, "threat::text"]
    operations: Annotated[str | None, "operations::text"]


_ACTION: Final = Columns(ActionRow)
ACTIONS: Final = Statement(
    f"""
select {_ACTION.sql}
from actions
where id = any(%s::numeric[])
""",
    _ACTION,
)


class AgentRow(NamedTuple):
    """An agent: whether it could be asked now, and up to two values that it is grouped by."""

    id: str
    is_current: bool
    first: str | None
    second: str | None


@dataclass(frozen=True, kw_only=True)
class AgentValues:
    """What agents are grouped by: SQL of a value for each name, and its parameters."""

    sql: tuple[str, ...] = ()
    parameters: tuple[object, ...] = ()

    def build_columns(self) -> str:
        """Return two columns of the select list, also when there are fewer values."""
        return ", ".join(f"({sql})::text" for sql in (*self.sql, "null", "null")[:2])

    def make_statement(self) -> Statement[AgentRow]:
        """Return the statement that reads the values of some agents."""
        return Statement(
            f"""
select {id_sql("id")}, {IS_CURRENT_SQL}, {self.build_columns()}
from agents
where id = any(%s::numeric[])
""",
            make_row_reader(AgentRow),
        )
