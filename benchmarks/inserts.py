"""``python -m benchmarks.inserts``: what our indexes cost the scheduler.

Commands are inserted as the scheduler does it, with one statement and one transaction each. Then
each is marked as sent, and gets its results. Tables with our indexes and bare ones (with primary
and foreign keys only) take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psycopg2
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from benchmarks import fleet
from benchmarks.child_processes import ChildProcesses
from mig.database.database import Database
from mig.database.schema import migrate
from mig.database.schema.declaration import load_schema
from mig.demo.postgres import EmbeddedPostgres
from mig.reactor import Reactor

INSERT: Final = """
    insert into commands (id, actionid, agentid, status, results, starttime, finishtime)
    values (%s, %s, %s, 'prepared', '[]', %s, %s)
"""
SEND: Final = "update commands set status = 'sent' where id = %s"
ANSWER: Final = """
    update commands set status = 'success', results = %s, finishtime = %s where id = %s
"""
SETTINGS: Final = {"shared_buffers": "1GB", "max_wal_size": "4GB"}
DATABASES: Final = ("indexed", "bare")
STEPS: Final = ("insert", "send", "answer")


def time_steps(dsn: str, size: fleet.FleetSize, first: int, count: int) -> dict[str, float]:
    """Measure the seconds of each step for ``count`` new commands of one action."""
    ids = range(first, first + count)
    action = fleet.FIRST_ID + first % size.actions
    started = fleet.START + timedelta(days=365, seconds=first)
    seconds = {}
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("select results::text from commands limit %s", (count,))
        all_results = [results for [results] in cursor.fetchall()]
        steps: dict[str, list[tuple[Any, ...]]] = {
            INSERT: [
                (command, action, fleet.FIRST_ID + command * 7919 % size.agents, started, started)
                for command in ids
            ],
            SEND: [(command,) for command in ids],
            ANSWER: [
                (results, started, command)
                for results, command in zip(all_results, ids, strict=False)
            ],
        }
        for step, (sql, rows) in zip(STEPS, steps.items(), strict=True):
            start = time.perf_counter()
            for row in rows:
                cursor.execute(sql, row)
            seconds[step] = time.perf_counter() - start
    return seconds


def drop_indexes(dsn: str) -> None:
    """Drop all indexes of a database but those of its keys."""
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        for index in load_schema().indexes:
            cursor.execute(f"drop index {index.name}")


def compare_databases(indexed: str, bare: str, size: fleet.FleetSize, count: int, runs: int) -> str:
    """Return a Markdown table of the medians of ``runs`` runs."""
    figures: dict[str, list[dict[str, float]]] = {indexed: [], bare: []}
    for run in range(runs + 1):
        for dsn in (bare, indexed) if run % 2 else (indexed, bare):
            seconds = time_steps(dsn, size, 1 + run * count, count)
            if run:  # run 0 is a warm-up
                figures[dsn].append({**seconds, "all": sum(seconds.values())})
    lines = ["| step | bare, µs a command | indexed, µs | slower by |", "| --- | --- | --- | --- |"]
    for step in (*STEPS, "all"):
        without, with_ = (
            statistics.median(row[step] for row in figures[dsn]) / count * 1e6
            for dsn in (bare, indexed)
        )
        lines.append(f"| {step} | {without:.0f} | {with_:.0f} | {with_ / without - 1:.0%} |")
    return "\n".join(lines)


async def main(reactor: Reactor, options: argparse.Namespace) -> None:
    """Fill two databases, one of them without our indexes, and print how they compare."""
    size = fleet.FleetSize.from_commands(options.commands)
    folder = Path(tempfile.gettempdir()) / f"mig-api-inserts-{os.getpid()}"
    settings = {**SETTINGS, "fsync": "on" if options.fsync else "off"}
    postgres = EmbeddedPostgres(reactor, folder, settings)
    postgres.lock_folder()
    children = ChildProcesses()
    try:
        await postgres.start()
        indexed, bare = [await _create_database(reactor, postgres, name) for name in DATABASES]
        await deferToThread(drop_indexes, bare)
        for dsn in (indexed, bare):
            await deferToThread(fleet.load_fleet, children, dsn, size, "file")
        print(
            await deferToThread(compare_databases, indexed, bare, size, options.count, options.runs)
        )
    finally:
        children.stop()
        await postgres.stop()
        postgres.delete_folder()


async def _create_database(reactor: Reactor, postgres: EmbeddedPostgres, name: str) -> str:
    """Create a database with the schema, and return its connection string."""
    admin = Database(reactor, postgres.format_dsn())
    await admin.query(f"create database {name}")
    admin.stop()
    database = Database(reactor, postgres.format_dsn(database=name))
    await migrate.ensure_schema(database, upgrade=True)
    database.stop()
    return postgres.format_dsn(database=name)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inserts", description=__doc__)
    parser.add_argument(
        "--commands", type=int, default=100_000, help="commands in the fleet at the start"
    )
    parser.add_argument("--count", type=int, default=5_000, help="new commands in each run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--fsync", action="store_true", help="flush each commit to disk, as in production"
    )
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _parse_arguments()
    task.react(lambda reactor: Deferred.fromCoroutine(main(reactor, arguments)))
