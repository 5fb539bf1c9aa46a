"""Agents as they are served."""

from __future__ import annotations

from typing import Any

import msgspec

from mig.database.prepared import Prepared
from mig.errors import Unreadable
from mig.hypermedia.document import Data, Item, encode, unreadable_item
from mig.hypermedia.urls import Urls
from mig.model.row import Row, Rows, RunQuery, number, stored_json
from mig.values import UNSET_TIME, rfc3339

COLUMNS = (
    "g.id::text, g.name, g.queueloc, g.os, g.version, g.pid, g.starttime::text,"
    " g.destructiontime::text, g.heartbeattime::text, g.status, g.environment::text,"
    " g.tags::text, g.mode, g.refreshtime::text, g.loadername"
)
WIDTH = 15

BY_IDS = f"select {COLUMNS} from agents g where g.id = any(%s::numeric[])"

_BY_ID = Prepared(
    "agent_by_id", f"select {COLUMNS} from agents g where g.id = %(id)s", {"id": "numeric"}
)


class _Environment(msgspec.Struct):
    os: str = ""


_environment = msgspec.json.Decoder(_Environment)


def value(row: Row) -> dict[str, Any]:
    """The agent of a row of :data:`COLUMNS`; ``mode`` to ``loadername`` only when set."""
    (
        id,
        name,
        queueloc,
        os,
        version,
        pid,
        starttime,
        destructiontime,
        heartbeattime,
        status,
        environment,
        tags,
        mode,
        refreshtime,
        loadername,
    ) = row
    agent = {
        "id": number(id),
        "name": name,
        "queueloc": queueloc,
        "os": os or _os(environment),
        "version": version,
        "pid": pid,
        "starttime": rfc3339(starttime),
        "destructiontime": rfc3339(destructiontime),
        "heartbeatts": rfc3339(heartbeattime),
        "status": status or "",
        "environment": stored_json(environment),
        "tags": stored_json(tags),
    }
    if mode:
        agent["mode"] = mode
    if (refreshed := rfc3339(refreshtime)) != UNSET_TIME:
        agent["refreshts"] = refreshed
    if loadername:
        agent["loadername"] = loadername
    return agent


def _os(environment: str | None) -> str:
    """The operating system, which agents of 2017 report in their environment."""
    try:
        return _environment.decode(environment or "{}").os
    except (msgspec.MsgspecError, RecursionError):
        return ""


def item(urls: Urls, row: Row) -> bytes:
    """The encoded item of a row of :data:`COLUMNS`."""
    href = urls.agent(row[0])
    return encode(Item(href=href, data=[Data(name="agent", value=value(row))]))


async def by_id(query: RunQuery, urls: Urls, id: int) -> bytes | None:
    """The agent's item, encoded; ``None`` when there is no such agent."""
    rows = await query(_BY_ID, {"id": id})
    return item(urls, rows[0]) if rows else None


class AgentList:
    """Rows of agents to encoded items."""

    columns = COLUMNS

    def __init__(self, urls: Urls) -> None:
        self._urls = urls

    async def prepare(self, query: RunQuery, rows: Rows) -> None:
        """Nothing else is needed."""

    def items(self, row: Row) -> bytes:
        """The item of one row, encoded; one that cannot be read says so."""
        try:
            return item(self._urls, row[:WIDTH])
        except Unreadable as reason:
            return unreadable_item("agent", self._urls.agent(row[0]), reason)
