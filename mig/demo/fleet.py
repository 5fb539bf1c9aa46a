"""The demo's fleet: the same machines, actions and results in every run, shifted to now.

It has 500 agents on several systems and 40 actions of several families and states. Each action has
a command on each agent, in every status, over the last seven days. Some ids are written as the
programs of 2013 to 2015 wrote them, with a fraction of zeros.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg2

from mig.demo.bulk_copy import copy_rows

AGENT_COUNT: Final = 500
ACTION_COUNT: Final = 40
FIRST_ID: Final = 6_019_232_215_298_560_000  # above 2**53: clients must read ids exactly
MAX_FLEET_AGE: Final = timedelta(days=1)
TABLES: Final = "commands, signatures, actions, agents, investigators"

_SELECT_STATE = """
    select obj_description('agents'::regclass), exists (select from agents)
"""  # the comment on the table is the time at which the demo filled it
_SYSTEMS = (
    ("linux", "web", "prod", "RedHatEnterpriseServer 6.5 Santiago"),
    ("linux", "db", "prod", "Ubuntu 14.04 trusty"),
    ("darwin", "desktop", "corp", "10.9.3"),
    ("windows", "winbuild", "corp", "Server 2008 R2"),
    ("linux", "mail", "prod", "CentOS 6.5 Final"),
)
_COMPLIANCE = (
    ("sshd", "/etc/ssh", "sshd_config", "(?i)^loglevel verbose$"),
    ("sudo", "/etc", "sudoers", "^Defaults\\s+requiretty$"),
    ("auditd", "/etc/audit", "audit.rules", "^-w /var/spool/cron/root -p wa"),
    ("sysctl", "/etc", "sysctl.conf", "^net.ipv4.tcp_syncookies\\s*=\\s*1$"),
)
_HUNTS = (
    ("backdoor", "critical", "file", "look for a backdoor in /usr/sbin"),
    ("malware", "high", "memory", "look for malware in the browser's memory"),
    ("connection", "medium", "netstat", "who talks to 172.21.0.6"),
)
_ENDED = ("success",) * 16 + ("timeout", "cancelled", "expired", "failed")
_RUNNING = ("success",) * 4 + ("sent", "prepared")

Row = tuple[object, ...]


def load_fleet(dsn: str, now: datetime | None = None) -> bool:
    """Fill the demo's database unless its fleet is less than a day old; return whether it did.

    :raises ValueError: when the database holds agents that are not the demo's.
    """
    now = now or datetime.now(UTC)
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(_SELECT_STATE)
        [(created, has_agents)] = cursor.fetchall()
        if created is None:
            if has_agents:
                raise ValueError("the database holds agents that are not the demo's")
        elif now - datetime.fromisoformat(created) < MAX_FLEET_AGE:
            return False
        cursor.execute(f"truncate {TABLES} cascade")
        for table, columns, rows in (
            ("agents", AGENT_COLUMNS, _generate_agents(now)),
            ("investigators", INVESTIGATOR_COLUMNS, _generate_investigators(now)),
            ("actions", ACTION_COLUMNS, map(_make_action, _plan_actions(now))),
            ("signatures", "actionid, investigatorid, pgpsignature", _generate_signatures(now)),
            ("commands", COMMAND_COLUMNS, _generate_commands(now)),
        ):
            copy_rows(cursor, table, columns, rows)
        cursor.execute("select setval('investigators_id_seq', 3)")
        cursor.execute("comment on table agents is %s", (now.isoformat(),))
        cursor.execute("analyze")
    return True


def _write_id(number: int) -> int | str:
    """Return an id as its row has it: every third as the programs of 2013 to 2015 wrote it."""
    return number if number % 3 else f"{number}.00000000000000000"


AGENT_COLUMNS: Final = (
    "id, name, queueloc, os, version, pid, starttime, destructiontime, heartbeattime, status,"
    " environment, tags"
)


def make_agent_name(n: int) -> str:
    """Return the name of agent ``n``, counted from 0."""
    system = _SYSTEMS[n % len(_SYSTEMS)]
    return f"{system[1]}{n // len(_SYSTEMS) + 1}.{system[2]}.example.net"


def _generate_agents(now: datetime) -> Iterator[Row]:
    for n in range(AGENT_COUNT):
        os, kind, _, ident = _SYSTEMS[n % len(_SYSTEMS)]
        age = timedelta(seconds=n % 240)
        status = "heartbeating"
        destroyed = None
        if n % 50 == 7:
            status, age = "inactive", timedelta(hours=3 + n % 40)
        if n % 100 == 42:
            status, age = "destroyed", timedelta(days=2)
            destroyed = now - age
        environment = {
            "init": "upstart",
            "ident": ident,
            "os": os,
            "arch": "amd64",
            "isproxied": kind == "desktop",
            "addresses": [f"10.{n % 5}.{n // 250}.{n % 250 + 1}/24"],
        }
        yield (
            _write_id(FIRST_ID + n),
            make_agent_name(n),
            f"{os}.{make_agent_name(n)}.{n:x}",
            os,
            f"20140529{n % 3:02d}00+abc123.prod",
            1_000 + n,
            now - timedelta(days=1 + n % 60, seconds=n),
            destroyed,
            now - age,
            status,
            json.dumps(environment),
            json.dumps({"operator": ("IT", "OpSec", "WebOps")[n % 3]}),
        )


INVESTIGATOR_COLUMNS: Final = "id, name, pgpfingerprint, status, createdat, lastmodified"


def _generate_investigators(now: datetime) -> Iterator[Row]:
    names = (("Bob Kelso", "active"), ("Sher Lock", "active"), ("Jörg Smith", "disabled"))
    for n, (name, status) in enumerate(names, 1):
        yield n, name, f"{n:040X}", status, now - timedelta(days=400 - n), now - timedelta(days=n)


class _PlannedAction:
    """An action, the time at which it began, and what it looks for."""

    def __init__(self, n: int, now: datetime) -> None:
        self.n = n
        self.began = now - timedelta(hours=4 * n + 1)
        self.state = "inflight" if n < 3 else "completed"
        self.check = _COMPLIANCE[n % len(_COMPLIANCE)]
        if n % 4 == 3:
            self.family, self.level, self.module, self.name = _HUNTS[n // 4 % len(_HUNTS)]
        else:
            self.family, self.level = "compliance", ("low", "medium", "high")[n % 3]
            self.module = "file" if n % 4 else "filechecker"
            self.name = f"compliance check for {self.check[0]}"


def _plan_actions(now: datetime) -> list[_PlannedAction]:
    return [_PlannedAction(n, now) for n in range(ACTION_COUNT)]


ACTION_COLUMNS: Final = (
    "id, name, target, description, threat, operations, validfrom, expireafter, starttime,"
    " finishtime, lastupdatetime, status, pgpsignatures, syntaxversion"
)


def _make_action(plan: _PlannedAction) -> Row:
    name, folder, file, content = plan.check
    searches = {f"{name} is configured": {"paths": [folder], "names": [f"^{file}$"]}}
    filechecker = {f"{folder}/{file}": {"regex": {f"{name} is configured": [content]}}}
    parameters = {
        "file": {"searches": searches},
        "filechecker": filechecker,
        "memory": {"searches": {"m": {"names": ["firefox"], "bytes": ["c399c3a9"]}}},
        "netstat": {"neighborip": ["172.21.0.6"]},
    }
    description = {
        "author": "Bob Kelso",
        "email": "bob.kelso@example.net",
        "url": f"https://policy.example.net/{name}.html",
        "revision": 201405291200,
    }
    threat = {"level": plan.level, "family": plan.family, "type": "system", "ref": f"sys{name}1"}
    ended = plan.began + timedelta(minutes=40)
    return (
        _write_id(FIRST_ID + plan.n),
        plan.name,
        "agents.name like '%.example.net'",
        json.dumps(description),
        json.dumps(threat),
        json.dumps([{"module": plan.module, "parameters": parameters[plan.module]}]),
        plan.began,
        plan.began + timedelta(hours=6),
        plan.began + timedelta(seconds=1),
        ended if plan.state == "completed" else "9998-01-11T11:11:11Z",
        ended,
        plan.state,
        json.dumps(["wsBcBAABCAAQBQJrBVB7=AAAA"]),
        2,
    )


def _generate_signatures(now: datetime) -> Iterator[Row]:
    for plan in _plan_actions(now):
        yield _write_id(FIRST_ID + plan.n), _write_id(1 + plan.n % 2), "wsBcBAABCAAQBQJrBVB7=AAAA"


COMMAND_COLUMNS: Final = "id, actionid, agentid, status, results, starttime, finishtime"


def _generate_commands(now: datetime) -> Iterator[Row]:
    for plan in _plan_actions(now):
        statuses = _ENDED if plan.state == "completed" else _RUNNING
        for agent in range(AGENT_COUNT):
            number = plan.n * AGENT_COUNT + agent
            status = statuses[(agent * 7 + plan.n) % len(statuses)]
            started = plan.began + timedelta(seconds=2, milliseconds=agent)
            duration = timedelta(milliseconds=200 + number * 37 % 9_000, microseconds=number % 977)
            finished = None if status in ("sent", "prepared") else started + duration
            results = _make_results(plan, agent, number) if status == "success" else []
            yield (
                _write_id(FIRST_ID + number),
                _write_id(FIRST_ID + plan.n),
                _write_id(FIRST_ID + agent),
                status,
                json.dumps(results),
                started,
                finished,
            )


def _make_results(plan: _PlannedAction, agent: int, number: int) -> list[dict[str, object]]:
    name, folder, file, content = plan.check
    path = f"{folder}/{file}"
    has_found = (agent + plan.n) % 5 != 0
    elements: dict[str, object] = {
        "172.21.0.6": [] if agent % 90 else [{"localport": 40_000 + agent}]
    }
    if plan.module == "file":
        search = {"paths": [folder], "names": [f"^{file}$"], "contents": [content]}
        info = {"size": 900 + number % 4_000, "mode": "-rw-r--r--"} if has_found else {"size": 0}
        hit = {"file": path if has_found else "", "search": search, "fileinfo": info}
        elements = {f"{name} is configured": [hit]}
    elif plan.module == "filechecker":
        counts = {
            "filecount": 1,
            "matchcount": int(has_found),
            "files": {path: 1} if has_found else {},
        }
        elements = {path: {"regex": {f"{name} is configured": {content: counts}}}}
    else:
        has_found = agent % 90 == 0
    return [
        {
            "foundanything": has_found,
            "success": True,
            "elements": elements,
            "statistics": {"exectime": f"{number * 31 % 9_973}us", "filescount": number % 89},
            "errors": None,
        }
    ]
