"""A deterministic fleet of any size, generated as fast as COPY takes it.

Sizes, times and modes of files vary with every command, as they do on real machines. With results
that repeat, a cache of longer texts would look better than it is.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

import psycopg2

from benchmarks.child_processes import PIPES, ChildProcesses
from mig.demo.bulk_copy import copy_rows

KINDS: Final = ("file", "alternating", "mixed", "distinct")
"""``file``: every command succeeded with results of the module file; an action's commands are in a
row. ``alternating``: as ``file``, but each command is of another action than the one before, and
each action has searches of its own. ``mixed``: all modules and statuses. ``distinct``: as ``file``,
with a different file in every result."""

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
STATUSES: Final = ("success",) * 14 + (
    "prepared",
    "sent",
    "timeout",
    "cancelled",
    "expired",
    "failed",
)
FIRST_ID: Final = 6_019_232_215_298_560_000  # of 19 digits, like the ids that MIG makes
FAMILIES: Final = ("compliance", "backdoor", "malware", "ddos")
CHECKS: Final = 10
INVESTIGATORS: Final = 10


@dataclass(frozen=True, kw_only=True)
class FleetSize:
    """How many rows each of the large tables has."""

    commands: int
    agents: int
    actions: int

    @classmethod
    def from_commands(cls, commands: int) -> FleetSize:
        """Return the size of a fleet in the proportions of the one in docs/performance.md."""
        return cls(
            commands=commands, agents=max(10, commands // 20), actions=max(4, commands // 500)
        )


_SELECT_INDEXES: Final = """
    select indexname, indexdef
    from pg_indexes
    where tablename = 'commands' and indexname <> 'commands_pkey'
"""


def load_fleet(children: ChildProcesses, dsn: str, size: FleetSize, kind: str) -> None:
    """Fill the empty tables of a database, with one process per core.

    Indexes and references are made after the rows: docs/decisions/benchmark/0003.

    :raises ChildFailedError: when one of them fails.
    """
    _execute_statements(
        dsn, *(f"alter table commands drop constraint {name}" for name in REFERENCES)
    )
    indexes = [
        (name, text)
        for name, text in _execute_statements(
            dsn,
            _SELECT_INDEXES,
        )
    ]
    _execute_statements(dsn, *(f"drop index {name}" for name, _ in indexes))
    _run_parts(children, dsn, size, kind, [("small", 0, 0)])
    cores = os.cpu_count() or 1
    borders = [size.commands * n // cores for n in range(cores + 1)]
    _run_parts(children, dsn, size, kind, [("commands", *two) for two in pairwise(borders)])
    _execute_statements(dsn, *(text for _, text in indexes))
    _execute_statements(
        dsn,
        *(
            f"alter table commands add constraint {name} foreign key ({column}) references {table}"
            for name, (column, table) in REFERENCES.items()
        ),
    )
    _execute_statements(dsn, "vacuum (analyze)", "checkpoint")


REFERENCES: Final = {
    "commands_actionid_fkey": ("actionid", "actions"),
    "commands_agentid_fkey": ("agentid", "agents"),
}
"""The constraints that are dropped while commands are added: checks row by row cost more."""


def _execute_statements(dsn: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements and return the rows of the last one."""
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def _run_parts(
    children: ChildProcesses,
    dsn: str,
    size: FleetSize,
    kind: str,
    parts: list[tuple[str, int, int]],
) -> None:
    running = []
    for part in parts:
        order = [dsn, str(size.commands), kind, *map(str, part)]
        command = [sys.executable, "-m", "benchmarks.fleet", *order]
        running.append(children.start(command, **PIPES))
    for child in running:
        children.wait(child)


def main() -> None:
    """Fill the part that the arguments name: the small tables, or a range of the commands."""
    dsn, commands, kind, part, begin, end = sys.argv[1:]
    size = FleetSize.from_commands(int(commands))
    tables: dict[str, list[tuple[str, str, Iterator[tuple[Any, ...]]]]] = {
        "small": [
            ("agents", AGENT_COLUMNS, _generate_agents(size)),
            ("investigators", INVESTIGATOR_COLUMNS, _generate_investigators()),
            ("actions", ACTION_COLUMNS, _generate_actions(size, kind)),
            ("signatures", "actionid, investigatorid, pgpsignature", _generate_signatures(size)),
        ],
        "commands": [
            (
                "commands",
                COMMAND_COLUMNS,
                _generate_commands(size, kind, range(int(begin), int(end))),
            )
        ],
    }
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        for table, columns, rows in tables[part]:
            copy_rows(cursor, table, columns, rows)


AGENT_COLUMNS: Final = (
    "id, name, queueloc, os, version, pid, starttime, heartbeattime, status, environment, tags"
)


def _generate_agents(size: FleetSize) -> Iterator[tuple[Any, ...]]:
    for n in range(size.agents):
        name = f"{('web', 'db', 'mail', 'build')[n % 4]}{n}.{('prod', 'corp')[n % 2]}.example.net"
        yield (
            FIRST_ID + n,
            name,
            f"linux.{name}.{n:x}",
            ("linux", "darwin", "windows")[n % 3],
            f"2014052912{n % 7:02d}+abc123.prod",
            1000 + n % 30000,
            START - timedelta(days=n % 90),
            START + timedelta(seconds=n % 86400),
            ("heartbeating", "heartbeating", "heartbeating", "inactive", "destroyed")[n % 5],
            json.dumps({"init": "upstart", "arch": "amd64", "addresses": [f"10.0.{n % 250}.1/24"]}),
            json.dumps({"operator": "IT"}),
        )


INVESTIGATOR_COLUMNS: Final = "id, name, pgpfingerprint, status, createdat, lastmodified"


def _generate_investigators() -> Iterator[tuple[Any, ...]]:
    for n in range(1, INVESTIGATORS + 1):
        yield n, f"Investigator {n}", f"{n:040X}", "active", START, START


ACTION_COLUMNS: Final = (
    "id, name, target, description, threat, operations, validfrom, expireafter, starttime,"
    " finishtime, lastupdatetime, status, pgpsignatures, syntaxversion"
)


def _choose_module(action: int, kind: str) -> str:
    return ("file", "filechecker", "netstat")[action % 3] if kind == "mixed" else "file"


def _generate_actions(size: FleetSize, kind: str) -> Iterator[tuple[Any, ...]]:
    for n in range(size.actions):
        begin = START + timedelta(hours=n)
        yield (
            FIRST_ID + n,
            f"check {n} of the baseline",
            "agents.name like '%.example.net'",
            json.dumps({"author": "Bob Kelso", "url": f"https://policy.example.net/{n}"}),
            json.dumps(
                {
                    "level": "medium",
                    "family": FAMILIES[n % 4] if kind == "mixed" else "compliance",
                    "type": "system",
                    "ref": f"ref{n}",
                }
            ),
            json.dumps(
                [{"module": _choose_module(n, kind), "parameters": {"n": n, "port": ["631"]}}]
            ),
            begin,
            begin + timedelta(hours=6),
            begin,
            begin + timedelta(hours=1),
            begin + timedelta(hours=1),
            ("completed", "inflight", "init")[n % 3],
            json.dumps(["wsBcBAABCAAQBQJrBVB7=AAAA"]),
            2,
        )


def _generate_signatures(size: FleetSize) -> Iterator[tuple[Any, ...]]:
    for n in range(size.actions):
        yield FIRST_ID + n, 1 + n % 10, "wsBcBAABCAAQBQJrBVB7=AAAA"


COMMAND_COLUMNS: Final = "id, actionid, agentid, status, results, starttime, finishtime"


def _generate_commands(size: FleetSize, kind: str, part: range) -> Iterator[tuple[Any, ...]]:
    for n in part:
        action, agent = n * size.actions // size.commands, n % size.agents
        started = START + timedelta(hours=action, milliseconds=n % 500)
        if kind == "alternating":
            # the numbers of action and agent must not go round together
            action, agent = n % size.actions, (n + n // size.actions) % size.agents
            started = START + timedelta(seconds=n)
        status = STATUSES[n % 20] if kind == "mixed" else "success"
        policy = action if kind == "alternating" else action % 20
        results = _format_results(_choose_module(action, kind), policy, n, kind == "distinct")
        yield (
            FIRST_ID + n,
            FIRST_ID + action,
            FIRST_ID + agent,
            status,
            results if status == "success" else "[]",
            started,
            started + timedelta(seconds=1, microseconds=n % 999_983),
        )


def _format_results(module: str, policy: int, n: int, distinct: bool) -> str:
    statistics = f'{{"exectime": "{n % 9973}.{n % 997}us", "filescount": {n % 89}}}'
    if module == "file":
        elements = _format_file_elements(policy, n, distinct)
    elif module == "filechecker":
        elements = _format_filechecker_elements(policy, n)
    else:
        elements = f'"listeningport": {{"631": [{{"localaddr": "10.0.0.{n % 250}"}}]}}'
    return (
        f'[{{"foundanything": {"true" if n % 3 else "false"}, "success": true,'
        f' "elements": {{{elements}}}, "statistics": {statistics}, "errors": null}}]'
    )


def _format_file_elements(policy: int, n: int, distinct: bool) -> str:
    entries = []
    for check in range(CHECKS):
        path = f"/srv/data/{n}/{check}.conf" if distinct else f"/etc/service{check}/main.conf"
        odd = hash_number(n * CHECKS + check)
        found = odd % 4
        info = (
            f'{{"size": {odd % 99_991}, "mode": "-rw-r--r-{"-w"[odd % 2]}",'
            f' "lastmodified": "2025-{1 + odd % 12:02d}-{1 + odd % 28:02d}'
            f" {odd % 24:02d}:{odd % 60:02d}:{odd % 59:02d}.{odd % 999_999_937:09d}"
            f' +0000 UTC"}}'
        )
        entries.append(
            f'"policy {policy} check {check}": [{{"file": "{path if found else ""}",'
            f' "search": {{"paths": ["/etc/service{check}"], "names": ["^main\\\\.conf$"],'
            f' "contents": ["(?i)^setting{check} (yes|on)$"],'
            f' "options": {{"maxdepth": {1 + policy}, "matchall": true}}}},'
            f' "fileinfo": {info}}}]'
        )
    return ", ".join(entries)


def hash_number(number: int) -> int:
    """Return a number that looks random and is the same in every run."""
    # Knuth's multiplicative hash, modulo the largest prime below 2**32
    return number * 2_654_435_761 % 4_294_967_291


def _format_filechecker_elements(policy: int, n: int) -> str:
    return ", ".join(
        f'"/etc/service{check}/main.conf": {{"regex": {{"policy {policy} check {check}":'
        f' {{"(?i)^setting{check} (yes|on)$": {{"filecount": 1, "matchcount": {(n + check) % 4},'
        f' "files": {{"/etc/service{check}/main.conf": {n % 13}}}}}}}}}}}'
        for check in range(CHECKS)
    )


if __name__ == "__main__":
    main()
