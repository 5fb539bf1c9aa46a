"""Agents as they are served."""

from __future__ import annotations

from typing import Any

import msgspec

from mig.records.stored import Row, number, stored_json
from mig.values import UNSET_TIME, rfc3339

COLUMNS = (
    "g.id::text, g.name, g.queueloc, g.os, g.version, g.pid, g.starttime::text,"
    " g.destructiontime::text, g.heartbeattime::text, g.status, g.environment::text,"
    " g.tags::text, g.mode, g.refreshtime::text, g.loadername"
)
WIDTH = 15

BY_IDS = f"select {COLUMNS} from agents g where g.id = any(%s::numeric[])"


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
