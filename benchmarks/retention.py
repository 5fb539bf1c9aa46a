"""``python -m benchmarks.retention``: what schedulers and readers notice of ``mig-api prune``.

A scheduler writes commands at a fixed rate, a client reads the same report again and again, and
another one a command every 20 ms: first alone, and then until ``mig-api prune`` has deleted four
fifths of the fleet. The run fails when a statement or request does, when a report misses an item,
or when a row is deleted that is young.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Final

import psycopg2
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from benchmarks import fleet
from benchmarks.__main__ import SETTINGS, create_database, make_folder
from benchmarks.bench import ITEM, REPORT_LIMIT
from benchmarks.child_processes import ChildProcesses
from benchmarks.fleet import FleetSize
from benchmarks.inserts import ANSWER, INSERT, SEND
from benchmarks.machine import Machine
from benchmarks.measurements import compute_percentile
from benchmarks.servers import Servers
from mig.demo.postgres import EmbeddedPostgres
from mig.reactor import Reactor, get_reactor

COMMANDS_PER_SECOND: Final = 50
"""Of the scheduler; each is three statements."""
PAUSE_SECONDS: Final = 0.02
RESULTS: Final = '[{"foundanything": false, "success": true, "elements": null}]'

_LIMITS: Final = """
    select extract(epoch from now() - (first + 0.8 * (last - first)))::bigint,
        to_char((first + 0.9 * (last - first)) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        to_char(last at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
    from (select min(starttime) as first, max(starttime) as last from commands) as times
"""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What a scheduler and readers saw: seconds of each statement, request and report."""

    name: str
    statements: list[float]
    requests: list[float]
    reports: list[float]
    items: int


class Beside:
    """A scheduler and two readers, at work beside something else."""

    def __init__(self, dsn: str, size: FleetSize, base: str, after: str, before: str) -> None:
        self._dsn = dsn
        self._size = size
        self._command = f"{base}/command?commandid={fleet.FIRST_ID + size.commands - 1}"
        query = f"report=complianceitems{REPORT_LIMIT}&after={after}&before={before}"
        self._report = f"{base}/search?type=command&status=success&{query}"
        self._items: set[int] = set()
        self.written = 0

    def run(self, name: str, work: Callable[[], object]) -> Phase:
        """Do ``work`` while the scheduler and the readers are busy; return what they saw.

        :raises SystemExit: when they miss something.
        """
        is_over = Event()
        with ThreadPoolExecutor() as pool:
            beside = [
                pool.submit(_repeat, is_over, each)
                for each in (self._make_scheduler(), self._ask, self._read_report)
            ]
            try:
                work()
            finally:
                is_over.set()
            statements, requests, reports = (each.result() for each in beside)
        if len(self._items) != 1:
            raise SystemExit(f"benchmarks: the same report had {sorted(self._items)} items")
        return Phase(
            name=name,
            statements=statements,
            requests=requests,
            reports=reports,
            items=next(iter(self._items)),
        )

    def _make_scheduler(self) -> Callable[[], list[float]]:
        """Return a function that writes a command as a scheduler does, at the fixed rate."""
        connection = psycopg2.connect(self._dsn)
        connection.autocommit = True
        cursor = connection.cursor()
        action = fleet.FIRST_ID + self._size.actions - 1
        begin, count = time.perf_counter(), 0

        def write_command() -> list[float]:
            nonlocal count
            count += 1
            self.written += 1
            command, now = self.written, "now"
            agent = fleet.FIRST_ID + self.written % self._size.agents
            seconds = [
                _measure(partial(cursor.execute, sql, parameters))
                for sql, parameters in (
                    (INSERT, (command, action, agent, now, now)),
                    (SEND, (command,)),
                    (ANSWER, (RESULTS, now, command)),
                )
            ]
            time.sleep(max(0.0, begin + count / COMMANDS_PER_SECOND - time.perf_counter()))
            return seconds

        return write_command

    def _ask(self) -> list[float]:
        def fetch() -> None:
            with urllib.request.urlopen(self._command) as answer:
                answer.read()

        seconds = _measure(fetch)
        time.sleep(PAUSE_SECONDS)
        return [seconds]

    def _read_report(self) -> list[float]:
        def fetch() -> None:
            with urllib.request.urlopen(self._report) as answer:
                # an item is a line, so none is divided
                needle = ITEM.encode()
                self._items.add(sum(line.count(needle) for line in answer))

        return [_measure(fetch)]


def _repeat(is_over: Event, step: Callable[[], list[float]]) -> list[float]:
    seconds = []
    while not is_over.is_set():
        seconds += step()
    return seconds


def _measure(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(
    children: ChildProcesses, dsn: str, size: FleetSize, base: str, seconds: float
) -> tuple[list[Phase], str]:
    """Return what is seen alone and beside a run, and what the run printed.

    :raises SystemExit: when something young is deleted, or something old is not.
    """
    [[age, after, before]] = execute(dsn, _LIMITS)
    old = f"starttime < now() - interval '{age} s'"
    [[expected]] = execute(dsn, f"select count(*) from commands where {old}")
    verb = [sys.executable, "-m", "mig.cli", "prune", "--commands-older", f"{age}s"]
    beside = Beside(dsn, size, base, after, before)
    said: list[str] = []
    taken: list[float] = []

    def run_prune() -> None:
        taken.append(
            _measure(lambda: said.append(children.run([*verb, "--database", dsn]).splitlines()[-1]))
        )

    beside.run("warm", lambda: time.sleep(seconds / 2))
    phases = [
        beside.run("alone", lambda: time.sleep(seconds)),
        beside.run("beside `mig-api prune`", run_prune),
        beside.run("alone, afterwards", lambda: time.sleep(seconds)),
    ]
    [[kept, written]] = execute(
        dsn,
        "select count(*) filter (where id >= 1000000000), count(*) filter (where id < 1000000000"
        " and status = 'success') from commands",
    )
    # the end of a second may have passed since the count
    deleted = size.commands - kept
    if not expected <= deleted <= expected + size.commands // 100 or written != beside.written:
        raise SystemExit(
            f"benchmarks: {deleted} commands were deleted, and {expected} were too old;"
            f" {written} of {beside.written} new ones are there"
        )
    return phases, f"{said[0]}: {taken[0]:.1f} s"


def format_phases(phases: Sequence[Phase]) -> list[str]:
    """Return a Markdown table, in milliseconds."""
    lines = [
        "| | statements of a scheduler: p50, p95, p99, max ms | GET of a command: p50, p95, p99,"
        " max ms | a report: median, max s |",
        "| --- | --- | --- | --- |",
    ]
    for phase in phases:
        cells = [phase.name]
        for seconds in (phase.statements, phase.requests):
            ordered = sorted(each * 1000 for each in seconds)
            shares = [compute_percentile(ordered, share) for share in (50, 95, 99, 100)]
            cells.append(", ".join(f"{each:.1f}" for each in shares))
        reports = sorted(phase.reports)
        cells.append(f"{compute_percentile(reports, 50):.2f}, {reports[-1]:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def execute(dsn: str, sql: str) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


async def main(reactor: Reactor, options: argparse.Namespace) -> None:
    """Fill a fleet, measure, and print the tables."""
    children = ChildProcesses()
    reactor.addSystemEventTrigger("before", "shutdown", children.stop)
    try:
        with make_folder() as folder:
            settings = {**SETTINGS, "fsync": "on"}
            postgres = EmbeddedPostgres(reactor, folder / "postgres", settings)
            postgres.lock_folder()
            try:
                await postgres.start()
                version = children.run([postgres.get_program_path("postgres"), "--version"])
                print(f"{Machine.describe(version)}\n")
                for run in range(options.runs):
                    dsn = await create_database(reactor, postgres, f"fleet_{run}")
                    await deferToThread(_measure_run, children, folder, dsn, options)
            finally:
                children.stop()
                await postgres.stop()
    finally:
        children.stop()


def _measure_run(
    children: ChildProcesses, folder: Path, dsn: str, options: argparse.Namespace
) -> None:
    size = FleetSize.from_commands(options.commands)
    fleet.load_fleet(children, dsn, size, "file")
    twistd = options.twistd.absolute()
    with Servers.start_daemons(children, folder, twistd, dsn, 1) as servers:
        phases, said = measure(children, dsn, size, servers.base, options.seconds)
    print("\n".join(format_phases(phases)))
    print(
        f"\n{size.commands:,} commands, a report of {phases[0].items:,} items; {said}\n", flush=True
    )


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retention", description=__doc__)
    parser.add_argument("--commands", type=int, default=500_000, help="commands in the fleet")
    parser.add_argument("--runs", type=int, default=1, help="each with a new fleet")
    parser.add_argument("--seconds", type=float, default=10.0, help="without the deletion")
    parser.add_argument(
        "--twistd",
        type=Path,
        default=Path(sys.executable).parent / "twistd",
        help="the twistd that runs the daemon; by default the one of this Python",
    )
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    arguments = _parse_arguments()
    task.react(lambda _: Deferred.fromCoroutine(main(get_reactor(), arguments)))
