"""Actions, and the counts of their commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

import msgspec

from mig.errors import UnreadableError
from mig.model.investigator import SIGNERS_OF_ACTION_SQL, Investigator, parse_signers
from mig.model.record import (
    Json,
    StoredRecord,
    Time,
    UnreadableRecord,
    make_raw_id,
    make_raw_json,
    read_record,
)
from mig.model.row import Columns, id_sql, make_row_reader
from mig.model.statement import QueryFunction, Statement, id_array
from mig.values import format_time

FINISHED_COMMAND_STATUSES: Final = ("success", "cancelled", "expired", "failed", "timeout")
"""The statuses of a command that has ended."""

MAX_LINKED_COMMANDS: Final = 1_000
"""How many commands the document of an action links to."""


class ActionRow(NamedTuple):
    """The columns of an action."""

    id: Annotated[str, id_sql("a.id")]
    name: Annotated[str, "a.name"]
    target: Annotated[str, "a.target"]
    description: Annotated[str | None, "a.description::text"]
    threat: Annotated[str | None, "a.threat::text"]
    validfrom: Annotated[str, "a.validfrom::text"]
    expireafter: Annotated[str, "a.expireafter::text"]
    operations: Annotated[str | None, "a.operations::text"]
    pgpsignatures: Annotated[str | None, "a.pgpsignatures::text"]
    status: Annotated[str | None, "a.status"]
    starttime: Annotated[str | None, "a.starttime::text"]
    finishtime: Annotated[str | None, "a.finishtime::text"]
    lastupdatetime: Annotated[str | None, "a.lastupdatetime::text"]
    syntaxversion: Annotated[int | None, "a.syntaxversion"]
    signers: Annotated[str | None, SIGNERS_OF_ACTION_SQL]

    @property
    def sort_time(self) -> str:
        """The time that searches are ordered by."""
        return self.validfrom


class Action(StoredRecord, gc=False):
    """An action, with the investigators who signed it and the counters of its commands."""

    noun = "action"
    name: str
    target: str
    description: Json
    threat: Json
    validfrom: Time
    expireafter: Time
    operations: Json
    pgpsignatures: list[str]
    investigators: list[Investigator]
    status: str
    starttime: Time
    finishtime: Time
    lastupdatetime: Time
    counters: dict[str, int]
    syntaxversion: int

    @classmethod
    def from_row(cls, row: ActionRow, counters: dict[str, int]) -> Action:
        """Return the action of a row, with the counters of its commands.

        :raises UnreadableError: for an id, a time or signatures that cannot be served.
        """
        return cls(
            make_raw_id(row.id),
            row.name,
            row.target,
            make_raw_json(row.description),
            make_raw_json(row.threat),
            format_time(row.validfrom),
            format_time(row.expireafter),
            make_raw_json(row.operations, "[]"),
            _read_signatures(row.pgpsignatures),
            parse_signers(row.signers),
            row.status or "",
            format_time(row.starttime),
            format_time(row.finishtime),
            format_time(row.lastupdatetime),
            counters,
            row.syntaxversion or 0,
        )

    def write_ids_as_text(self) -> None:
        """Let the action and its investigators have their ids as JSON strings."""
        super().write_ids_as_text()
        for investigator in self.investigators:
            investigator.write_ids_as_text()


_decode_signatures = msgspec.json.Decoder(list[str] | None).decode


def _read_signatures(column: str | None) -> list[str]:
    """Return the signatures in a column.

    :raises UnreadableError: when the column does not hold an array of strings. Where it is a
        varchar, PostgreSQL has not checked that it is JSON.
    """
    try:
        return _decode_signatures(column or "[]") or []
    except msgspec.MsgspecError:
        raise UnreadableError("its signatures are not an array of strings") from None


def make_counters(statuses: dict[str, int]) -> dict[str, int]:
    """Return an action's counters, without zeros, from how many commands have each status."""
    counts = {
        "sent": sum(statuses.values()) - statuses.get("prepared", 0),
        "done": sum(statuses.get(status, 0) for status in FINISHED_COMMAND_STATUSES),
        "inflight": statuses.get("sent", 0),
        **{status: statuses.get(status, 0) for status in FINISHED_COMMAND_STATUSES},
    }
    return {name: count for name, count in counts.items() if count}


ACTION: Final = Columns(ActionRow)

ACTIONS_BY_IDS: Final = Statement(
    f"""
select {ACTION.sql}
from actions a
where a.id = any(%s::numeric[])
""",
    ACTION,
)


class _StatusRow(NamedTuple):
    actionid: str
    status: str
    commands: int


# lateral: action by action, so that the index is used however many commands there are
# (docs/decisions/0010)
_STATUSES_BY_IDS: Final = Statement(
    f"""
select {id_sql("a.id")}, c.status, c.count
from unnest(%s::numeric[]) as a (id),
    lateral (select status, count(*) from commands where actionid = a.id group by status) c
""",
    make_row_reader(_StatusRow),
)


async def count_commands_by_status(
    query: QueryFunction, ids: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Return how many commands have each status, by the id of their action."""
    statuses: dict[str, dict[str, int]] = {action_id: {} for action_id in ids}
    if ids:
        for row in await query(_STATUSES_BY_IDS, (id_array(ids),)):
            statuses.setdefault(row.actionid, {})[row.status] = row.commands
    return statuses


async def load_counters(query: QueryFunction, ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the counters of several actions, by id."""
    counts = await count_commands_by_status(query, ids)
    return {action_id: make_counters(statuses) for action_id, statuses in counts.items()}


_STATUSES_OF_ACTION_SQL: Final = """(
    select json_object_agg(s.status, s.count)::text
    from (select status, count(*) from commands where actionid = a.id group by status) s
)"""
# one more than is linked, which says that there are more
_COMMANDS_OF_ACTION_SQL: Final = f"""(
    select json_agg(json_build_array({id_sql("c.id")}, c.name))::text
    from (
        select c.id, g.name
        from commands c
        left join agents g on g.id = c.agentid
        where c.actionid = a.id
        order by c.starttime, c.id
        limit {MAX_LINKED_COMMANDS + 1}
    ) c
)"""


class _CommandsRow(NamedTuple):
    statuses: Annotated[str | None, _STATUSES_OF_ACTION_SQL]
    commands: Annotated[str | None, _COMMANDS_OF_ACTION_SQL]


_COMMANDS: Final = ACTION.make_next(_CommandsRow)
_ACTION_BY_ID: Final = Statement(
    f"""
select {ACTION.sql}, {_COMMANDS.sql}
from actions a
where a.id = %(id)s
""",
    lambda row: (ACTION.read_part(row), _COMMANDS.read_part(row)),
    name="action_by_id",
    types={"id": "numeric"},
)
_decode_counts = msgspec.json.Decoder(dict[str, int]).decode
_decode_commands = msgspec.json.Decoder(list[tuple[str, str | None]]).decode


class LinkedAction(NamedTuple):
    """An action and its first commands.

    ``commands`` are pairs of a command's id and its agent's name. ``has_more`` is set when the
    action has more than :data:`MAX_LINKED_COMMANDS` commands.
    """

    action: Action | UnreadableRecord
    commands: Sequence[tuple[str, str | None]]
    has_more: bool


async def find_action(query: QueryFunction, action_id: int) -> LinkedAction | None:
    """Return the action ``action_id`` with its first commands, or ``None`` if there is none."""
    for row, of_commands in await query(_ACTION_BY_ID, {"id": action_id}):
        linked = _decode_commands(of_commands.commands or "[]")
        counters = make_counters(_decode_counts(of_commands.statuses or "{}"))
        return LinkedAction(
            action=read_record(Action.noun, Action.from_row, row, counters),
            commands=linked[:MAX_LINKED_COMMANDS],
            has_more=len(linked) > MAX_LINKED_COMMANDS,
        )
    return None
