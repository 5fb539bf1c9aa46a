"""Commands, with their action and agent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from operator import attrgetter
from typing import Annotated, Final, NamedTuple, NoReturn, Protocol, TypeVar

import msgspec
from msgspec import Meta, Raw

from mig.errors import UnreadableError
from mig.model.action import Action, ActionRow
from mig.model.agent import Agent, AgentRow
from mig.model.record import (
    SCHEMA_REFERENCE,
    Id,
    Json,
    StoredRecord,
    Time,
    UnreadableRecord,
    encode_json,
    make_raw_id,
    make_raw_json,
    quote_id,
    read_record,
)
from mig.model.row import Columns, Row, id_sql, make_row_reader
from mig.model.statement import QueryFunction, Statement
from mig.values import format_time

MAX_INLINE_BYTES: Final = 262_144
"""Larger results are left out of a page of rows, which could hold any amount otherwise."""

_IS_LARGE: Final = (
    # the stored size first: it needs no decompression (docs/decisions/0011), and results are
    # assumed to compress to an eighth at best
    f"pg_column_size(c.results) > {MAX_INLINE_BYTES // 8}"
    f" and octet_length(c.results::text) > {MAX_INLINE_BYTES}"
)
_RESULTS: Final = f"case when {_IS_LARGE} then null else c.results end::text"
_OMITTED_BYTES: Final = f"case when {_IS_LARGE} then octet_length(c.results::text) end"


class CommandRow(NamedTuple):
    """The columns of a command. ``omitted_bytes`` is the size of results that were left out."""

    id: Annotated[str, id_sql("c.id")]
    actionid: Annotated[str | None, id_sql("c.actionid")]
    agentid: Annotated[str | None, id_sql("c.agentid")]
    status: Annotated[str, "c.status"]
    starttime: Annotated[str, "c.starttime::text"]
    finishtime: Annotated[str | None, "c.finishtime::text"]
    results: Annotated[str | None, _RESULTS]
    omitted_bytes: Annotated[int | None, _OMITTED_BYTES]

    @property
    def sort_time(self) -> str:
        """The time that searches are ordered by."""
        return self.starttime


class ResultsRow(NamedTuple):
    """The columns of a command that a report needs."""

    id: Annotated[str, id_sql("c.id")]
    actionid: Annotated[str | None, id_sql("c.actionid")]
    agentid: Annotated[str | None, id_sql("c.agentid")]
    starttime: Annotated[str, "c.starttime::text"]
    finishtime: Annotated[str | None, "c.finishtime::text"]
    results: Annotated[str | None, _RESULTS]
    omitted_bytes: Annotated[int | None, _OMITTED_BYTES]

    @property
    def sort_time(self) -> str:
        """The time that searches are ordered by."""
        return self.starttime


class SummaryRow(NamedTuple):
    """The columns of a command that a summary needs."""

    id: Annotated[str, id_sql("c.id")]
    actionid: Annotated[str | None, id_sql("c.actionid")]
    agentid: Annotated[str | None, id_sql("c.agentid")]
    starttime: Annotated[str, "c.starttime::text"]
    finishtime: Annotated[str | None, "c.finishtime::text"]
    results: Annotated[str | None, _RESULTS]
    omitted_bytes: Annotated[int | None, _OMITTED_BYTES]
    status: Annotated[str, "c.status"]

    @property
    def sort_time(self) -> str:
        """The time that searches are ordered by."""
        return self.starttime


_NOTHING: Final = Raw("{}")
"""What a command has in place of an action or agent that is not in the database."""


class ReferenceRow(NamedTuple):
    """The columns of an action or agent that a reference to it needs."""

    id: Annotated[str, id_sql("id")]
    name: Annotated[str, "name"]


class Reference(msgspec.Struct, gc=False):
    """The id and name of an action or agent; both are null when it is not in the database."""

    id: Id
    name: str | None

    @classmethod
    def from_row(cls, row: ReferenceRow | ActionRow | AgentRow) -> Reference:
        """Return the reference to the action or agent of a row.

        :raises UnreadableError: for an id that cannot be served.
        """
        return cls(make_raw_id(row.id), row.name)


_NO_REFERENCE: Final = Reference(Raw("null"), None)


class FlatCommand(StoredRecord, gc=False):
    """A command with the ids and names of its action and agent instead of the whole."""

    noun = "command"
    action: Reference
    agent: Reference
    status: str
    results: Json
    starttime: Time
    finishtime: Time

    @classmethod
    def from_row(
        cls,
        row: CommandRow,
        action: Reference | None,
        agent: Reference | None,
        *,
        max_bytes: int,
    ) -> FlatCommand:
        """Return the command of a row.

        :param max_bytes: the size of the largest results that are read.
        :raises UnreadableError: for an id or a time that cannot be served, and for larger results.
        """
        command_id = make_raw_id(row.id)
        if row.omitted_bytes is not None:
            reject_omitted_results(row.omitted_bytes, max_bytes)
        return cls(
            command_id,
            _NO_REFERENCE if action is None else action,
            _NO_REFERENCE if agent is None else agent,
            row.status,
            make_raw_json(row.results, "[]"),
            format_time(row.starttime),
            format_time(row.finishtime),
        )

    def write_ids_as_text(self) -> None:
        """Let the command and its references have their ids as JSON strings."""
        super().write_ids_as_text()
        self.action, self.agent = map(_quote_reference, (self.action, self.agent))


def _quote_reference(reference: Reference) -> Reference:
    """Return a reference with its id as a JSON string, since many commands share one."""
    if reference is _NO_REFERENCE:
        return reference
    return Reference(quote_id(reference.id), reference.name)


def _describe_part(record: type[StoredRecord]) -> dict[str, object]:
    """Return the JSON schema of a record within a command."""
    reference = SCHEMA_REFERENCE.format(name=record.__name__)
    return {"anyOf": [{"$ref": reference}, {"type": "object", "maxProperties": 0}]}


class Command(StoredRecord, gc=False):
    """A command; ``action`` and ``agent`` are ``{}`` when they are not in the database."""

    noun = "command"
    flat = FlatCommand
    action: Annotated[Raw, Meta(extra_json_schema=_describe_part(Action))]
    agent: Annotated[Raw, Meta(extra_json_schema=_describe_part(Agent))]
    status: str
    results: Json
    starttime: Time
    finishtime: Time

    @classmethod
    def from_row(
        cls, row: CommandRow, action: Raw | None, agent: Raw | None, *, max_bytes: int
    ) -> Command:
        """Return the command of a row, with its action and agent, which are encoded already.

        :param max_bytes: the size of the largest results that are read.
        :raises UnreadableError: for an id or a time that cannot be served, and for larger results.
        """
        command_id = make_raw_id(row.id)
        if row.omitted_bytes is not None:
            reject_omitted_results(row.omitted_bytes, max_bytes)
        return cls(
            command_id,
            _NOTHING if action is None else action,
            _NOTHING if agent is None else agent,
            row.status,
            make_raw_json(row.results, "[]"),
            format_time(row.starttime),
            format_time(row.finishtime),
        )


COMMAND: Final = Columns(CommandRow)
COMMAND_RESULTS: Final = Columns(ResultsRow)
COMMAND_SUMMARY: Final = Columns(SummaryRow)
_ACTION: Final = COMMAND.make_next(ActionRow)
_AGENT: Final = _ACTION.make_next(AgentRow)


class _JoinedRow(NamedTuple):
    """A command with its action and agent; outer joins fill missing ones with nulls."""

    command: CommandRow
    action: ActionRow
    agent: AgentRow


def _read_joined(row: Row) -> _JoinedRow:
    return _JoinedRow(COMMAND.read_part(row), _ACTION.read_part(row), _AGENT.read_part(row))


_COMMAND_BY_ID: Final = Statement(
    f"""
select {COMMAND.sql}, {_ACTION.sql}, {_AGENT.sql}
from commands c
left join actions a on a.id = c.actionid
left join agents g on g.id = c.agentid
where c.id = %(id)s
""",
    _read_joined,
    name="command_by_id",
    types={"id": "numeric"},
)


REFERENCE: Final = Columns(ReferenceRow)
ACTION_REFERENCES: Final = Statement(
    f"""
select {REFERENCE.sql}
from actions
where id = any(%s::numeric[])
""",
    REFERENCE,
)
AGENT_REFERENCES: Final = Statement(
    f"""
select {REFERENCE.sql}
from agents
where id = any(%s::numeric[])
""",
    REFERENCE,
)


def encode_action(row: ActionRow, *, ids_as_text: bool = False) -> Raw:
    """Return an action as it appears in a command, without counters.

    :raises UnreadableError: when it cannot be read.
    """
    return _encode_part(Action.from_row(row, counters={}), ids_as_text=ids_as_text)


def encode_agent(row: AgentRow, *, ids_as_text: bool = False) -> Raw:
    """Return an agent as it appears in a command.

    :raises UnreadableError: when it cannot be read.
    """
    return _encode_part(Agent.from_row(row), ids_as_text=ids_as_text)


def _encode_part(record: Action | Agent, *, ids_as_text: bool) -> Raw:
    if ids_as_text:
        record.write_ids_as_text()
    return Raw(encode_json(record))


class _FullResultsRow(NamedTuple):
    results: str | None


_RESULTS_BY_ID: Final = Statement(
    "select results::text from commands where id = %s", make_row_reader(_FullResultsRow)
)


class _RowWithResults(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def results(self) -> str | None: ...
    @property
    def omitted_bytes(self) -> int | None: ...
    def _replace(self: RowType, *, results: str | None, omitted_bytes: int | None) -> RowType: ...


RowType = TypeVar("RowType", bound=_RowWithResults)


class LinkedCommand(NamedTuple):
    """A command, and the id of its action."""

    command: Command | FlatCommand | UnreadableRecord
    actionid: str | None


async def load_omitted_results(query: QueryFunction, row: RowType, *, max_bytes: int) -> RowType:
    """Return a row with the results that were left out of it, unless they exceed ``max_bytes``.

    :raises UnreadableError: when the command has been deleted.
    """
    if row.omitted_bytes is None or row.omitted_bytes > max_bytes:
        return row
    for found in await query(_RESULTS_BY_ID, (row.id,)):
        return row._replace(results=found.results, omitted_bytes=None)
    raise UnreadableError("the command was deleted while it was being read")


# what is done with each row of a page is done in C where it can be
get_actionid = attrgetter("actionid")
get_agentid = attrgetter("agentid")
_get_results = attrgetter("results")
_get_omitted_bytes = attrgetter("omitted_bytes")


def measure_results(rows: Iterable[_RowWithResults]) -> int:
    """Return how many characters all results in ``rows`` have."""
    return sum(map(len, filter(None, map(_get_results, rows))))


def count_complete_rows(rows: Sequence[_RowWithResults]) -> int:
    """Return how many rows precede the first one whose results were left out."""
    if not any(map(_get_omitted_bytes, rows)):  # nearly always
        return len(rows)
    return next(n for n, row in enumerate(rows) if row.omitted_bytes is not None)


def reject_omitted_results(size: int, max_bytes: int) -> NoReturn:
    """Refuse results of ``size`` bytes that were left out because they exceed ``max_bytes``.

    :raises UnreadableError: always.
    """
    raise UnreadableError(f"its results have {size} bytes, more than {max_bytes}")


async def find_command(
    query: QueryFunction,
    command_id: int,
    *,
    max_bytes: int,
    is_flat: bool = False,
    ids_as_text: bool = False,
) -> LinkedCommand | None:
    """Return the command ``command_id``, or ``None`` if there is none.

    :param max_bytes: the size of the largest results that are read.
    :param is_flat: whether to return a :class:`FlatCommand`.
    :param ids_as_text: whether the ids of its action and agent are JSON strings.
    """
    for row in await query(_COMMAND_BY_ID, {"id": command_id}):
        command = await load_omitted_results(query, row.command, max_bytes=max_bytes)
        record: Command | FlatCommand | UnreadableRecord
        if is_flat:
            make_flat = _make_joined_flat_command
            record = read_record(Command.noun, make_flat, command, row, max_bytes=max_bytes)
        else:
            make = partial(_make_joined_command, ids_as_text=ids_as_text, max_bytes=max_bytes)
            record = read_record(Command.noun, make, command, row)
        return LinkedCommand(command=record, actionid=row.command.actionid)
    return None


# In both, every column of an outer join is null when there is no such row.


def _make_joined_command(
    command: CommandRow, row: _JoinedRow, *, max_bytes: int, ids_as_text: bool
) -> Command:
    action, agent = row.action, row.agent
    return Command.from_row(
        command,
        None if action.id is None else encode_action(action, ids_as_text=ids_as_text),
        None if agent.id is None else encode_agent(agent, ids_as_text=ids_as_text),
        max_bytes=max_bytes,
    )


def _make_joined_flat_command(
    command: CommandRow, row: _JoinedRow, *, max_bytes: int
) -> FlatCommand:
    return FlatCommand.from_row(
        command,
        None if row.action.id is None else Reference.from_row(row.action),
        None if row.agent.id is None else Reference.from_row(row.agent),
        max_bytes=max_bytes,
    )
