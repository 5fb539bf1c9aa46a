"""Agents, which run the commands."""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from mig.model.record import (
    Json,
    StoredRecord,
    Time,
    UnreadableRecord,
    make_raw_id,
    make_raw_json,
    read_record,
)
from mig.model.row import Columns, id_sql
from mig.model.statement import QueryFunction, Statement
from mig.values import UNSET_TIME, format_time


class AgentRow(NamedTuple):
    """The columns of an agent."""

    id: Annotated[str, id_sql("g.id")]
    name: Annotated[str, "g.name"]
    queueloc: Annotated[str, "g.queueloc"]
    os: Annotated[str | None, "g.os"]
    version: Annotated[str, "g.version"]
    pid: Annotated[int, "g.pid"]
    starttime: Annotated[str, "g.starttime::text"]
    destructiontime: Annotated[str | None, "g.destructiontime::text"]
    heartbeattime: Annotated[str, "g.heartbeattime::text"]
    status: Annotated[str | None, "g.status"]
    environment: Annotated[str | None, "g.environment::text"]
    tags: Annotated[str | None, "g.tags::text"]
    mode: Annotated[str, "g.mode"]
    refreshtime: Annotated[str, "g.refreshtime::text"]
    loadername: Annotated[str | None, "g.loadername"]

    @property
    def sort_time(self) -> str:
        """The time that searches are ordered by."""
        return self.starttime


class Agent(StoredRecord, gc=False, omit_defaults=True):
    """An agent. ``mode``, ``refreshts`` and ``loadername`` came in 2017 and appear only if set."""

    noun = "agent"
    name: str
    queueloc: str
    os: str
    version: str
    pid: int
    starttime: Time
    destructiontime: Time
    heartbeatts: Time
    status: str
    environment: Json
    tags: Json
    mode: str = ""
    refreshts: Time | UnsetType = UNSET
    loadername: str = ""

    @classmethod
    def from_row(cls, row: AgentRow) -> Agent:
        """Return the agent of a row.

        :raises UnreadableError: for an id or a time that cannot be served.
        """
        refreshed = format_time(row.refreshtime)
        return cls(
            make_raw_id(row.id),
            row.name,
            row.queueloc,
            row.os or _read_reported_os(row.environment),
            row.version,
            row.pid,
            format_time(row.starttime),
            format_time(row.destructiontime),
            format_time(row.heartbeattime),
            row.status or "",
            make_raw_json(row.environment),
            make_raw_json(row.tags),
            row.mode,
            UNSET if refreshed == UNSET_TIME else refreshed,
            row.loadername or "",
        )


IS_CURRENT_SQL: Final = "coalesce(status, '') not in ('destroyed', 'upgraded')"
"""The condition that an agent has neither been removed nor replaced by another one."""


class _Environment(msgspec.Struct):
    os: str = ""


_decode_environment = msgspec.json.Decoder(_Environment).decode


def _read_reported_os(environment: str | None) -> str:
    """Return the operating system in an environment, where agents of 2017 report it."""
    try:
        return _decode_environment(environment or "{}").os
    except (msgspec.MsgspecError, RecursionError):
        return ""


AGENT: Final = Columns(AgentRow)

AGENTS_BY_IDS: Final = Statement(
    f"""
select {AGENT.sql}
from agents g
where g.id = any(%s::numeric[])
""",
    AGENT,
)
_AGENT_BY_ID: Final = Statement(
    f"""
select {AGENT.sql}
from agents g
where g.id = %(id)s
""",
    AGENT,
    name="agent_by_id",
    types={"id": "numeric"},
)


async def find_agent(query: QueryFunction, agent_id: int) -> Agent | UnreadableRecord | None:
    """Return the agent ``agent_id``, or ``None`` if there is none."""
    for row in await query(_AGENT_BY_ID, {"id": agent_id}):
        return read_record(Agent.noun, Agent.from_row, row)
    return None
