"""The demo's fleet in the database, whose dates stay near the present, and its fixed part.

It has 501 agents on several systems, an action every four hours on all of them, with commands in
every status, and what the examples of the specification find. :func:`renew_fleet` adds the newest
actions and drops those of more than a week ago. What users add stays: their ids are others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from itertools import chain
from typing import Final

import psycopg2
from psycopg2 import extensions

from mig.demo.bulk_copy import SqlRow, add_rows
from mig.demo.examples import COMPLIANCE_ID, FIXED_ACTIONS
from mig.demo.machines import FIRST_ID, MACHINES
from mig.demo.recurring import (
    ACTION_COLUMNS,
    BOB_SMITH,
    COMMAND_COLUMNS,
    SHER_LOCK,
    SIGNATURE_COLUMNS,
    RecurringAction,
    format_id,
    list_runs,
)

AGENT_COLUMNS: Final = (
    "id, name, queueloc, os, version, pid, starttime, destructiontime, heartbeattime, status,"
    " environment, tags"
)
INVESTIGATOR_COLUMNS: Final = "id, name, pgpfingerprint, status, createdat, lastmodified"

_INVESTIGATORS: Final = (
    (BOB_SMITH, "Bob Smith", "active"),
    (SHER_LOCK, "Sher Lock", "active"),
    (3, "Jörg Müller", "disabled"),
)
_IGNORE: Final = "do nothing"
# the fleet of an earlier version has other names
_RENAME: Final = """
    (id) do update set name = excluded.name
    where investigators.pgpfingerprint = excluded.pgpfingerprint
"""
_MARK: Final = "the fleet of mig-api demo"
_SELECT_STATE: Final = """
    select obj_description('agents'::regclass), exists (select from agents)
"""
# An agent in use sends a heartbeat every three minutes, and its machine starts again every 60 days;
# the one of an inactive agent is on for a moment every two days, and destroyed agents are forgotten
# after six. So an agent of any age gets the dates that it would have.
_MOVE_AGENTS: Final = """
    with fleet as (
        select id, starttime, heartbeattime, destructiontime, %(now)s - starttime as running,
            %(now)s - heartbeattime as silent, interval '60 days' as uptime,
            case status
                when 'heartbeating' then interval '3 minutes'
                when 'inactive' then interval '2 days'
                else interval '4 days'
            end as period
        from agents
        where id = any(%(ids)s::numeric[])
    ), moved as (
        select id,
            starttime + uptime * greatest(
                0, floor(extract(epoch from running) / extract(epoch from uptime))
            ) as starttime,
            greatest(
                0, floor(extract(epoch from silent) / extract(epoch from period))
            ) * period as later
        from fleet
        where running >= uptime or silent >= period
    )
    update agents a
    set starttime = moved.starttime, heartbeattime = a.heartbeattime + later,
        destructiontime = a.destructiontime + later
    from moved
    where a.id = moved.id
"""
_SELECT_RUNS: Final = """
    select trunc(id - %s)::bigint from actions where id >= %s and id <= %s and id <> %s
"""
_DROP_RUNS: Final = """
    delete from commands where actionid = any(%(ids)s::numeric[]);
    delete from signatures where actionid = any(%(ids)s::numeric[]);
    delete from actions where id = any(%(ids)s::numeric[])
"""


def load_fleet(dsn: str, now: datetime) -> bool:
    """Add the demo's fleet to a database, or renew it if it is there; return whether it is new.

    :raises ValueError: when the database holds agents that are not the demo's.
    """
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(_SELECT_STATE)
        [(mark, has_agents)] = cursor.fetchall()
        if mark is None and has_agents:
            raise ValueError("the database holds agents that are not the demo's")
        add_rows(cursor, "agents", AGENT_COLUMNS, _generate_agents(now), _IGNORE)
        add_rows(
            cursor, "investigators", INVESTIGATOR_COLUMNS, _generate_investigators(now), _RENAME
        )
        cursor.execute("select setval('investigators_id_seq', max(id)::bigint) from investigators")
        _add_fixed_actions(cursor)
        _renew(cursor, now)
        cursor.execute("comment on table agents is %s", (_MARK,))
        cursor.execute("analyze")
    return mark is None


def renew_fleet(dsn: str, now: datetime) -> None:
    """Move the dates of the fleet on to ``now``: agents, and the runs of recurring actions."""
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        _renew(cursor, now)


def _renew(cursor: extensions.cursor, now: datetime) -> None:
    agent_ids = [machine.agent_id for machine in MACHINES]
    cursor.execute(_MOVE_AGENTS, {"now": now, "ids": agent_ids})
    runs = list_runs(now)
    cursor.execute(_SELECT_RUNS, (FIRST_ID, FIRST_ID, FIRST_ID + runs[-1], COMPLIANCE_ID))
    existing = {run for (run,) in cursor.fetchall()}
    missing = [RecurringAction(run) for run in runs if run not in existing]
    if not missing:
        return
    cursor.execute(_DROP_RUNS, {"ids": [FIRST_ID + run for run in existing - set(runs)]})
    _add_actions(
        cursor,
        (action.make_row(now) for action in missing),
        (action.make_signature_row() for action in missing),
        chain.from_iterable(action.generate_commands(now) for action in missing),
    )


def _add_fixed_actions(cursor: extensions.cursor) -> None:
    _add_actions(
        cursor,
        (action.make_row() for action in FIXED_ACTIONS),
        (action.make_signature_row() for action in FIXED_ACTIONS),
        chain.from_iterable(action.generate_commands() for action in FIXED_ACTIONS),
    )


def _add_actions(
    cursor: extensions.cursor,
    actions: Iterator[SqlRow],
    signatures: Iterator[SqlRow],
    commands: Iterator[SqlRow],
) -> None:
    add_rows(cursor, "actions", ACTION_COLUMNS, actions, _IGNORE)
    add_rows(cursor, "signatures", SIGNATURE_COLUMNS, signatures, _IGNORE)
    add_rows(cursor, "commands", COMMAND_COLUMNS, commands, _IGNORE)


def _generate_agents(now: datetime) -> Iterator[SqlRow]:
    for machine in MACHINES:
        n = machine.number
        age = timedelta(seconds=n % 180)
        if machine.status == "inactive":
            age = timedelta(hours=3 + n % 40)
        destroyed = None
        if machine.status == "destroyed":
            age = timedelta(days=2)
            destroyed = now - age
        environment = {
            "init": "upstart",
            "ident": machine.ident,
            "os": machine.os,
            "arch": "amd64",
            "isproxied": machine.kind == "desktop",
            "addresses": [f"{machine.address}/24"],
        }
        yield (
            format_id(machine.agent_id),
            machine.name,
            f"{machine.os}.{machine.name}.{n:x}",
            machine.os,
            f"20140529{n % 3:02d}00+abc123.prod",
            1_000 + n,
            now - timedelta(days=1 + n % 60, seconds=n),
            destroyed,
            now - age,
            machine.status,
            json.dumps(environment),
            json.dumps({"operator": ("IT", "OpSec", "WebOps")[n % 3]}),
        )


def _generate_investigators(now: datetime) -> Iterator[SqlRow]:
    for n, name, status in _INVESTIGATORS:
        yield n, name, f"{n:040X}", status, now - timedelta(days=400 - n), now - timedelta(days=n)
