"""``python -m benchmarks.capacity``: what docs/capacity.md plans with.

Two fleets, one ten times as large as the other, show what grows with the number of commands: the
bytes of each row and index, which are multiplied by the planned numbers of rows, and the rates of
reads. The report of the smaller one is then read directly and through HAProxy. The larger one is
written to as a scheduler does, dumped and pruned.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg2
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from benchmarks import fleet, procfs
from benchmarks.__main__ import SETTINGS, create_database, make_folder
from benchmarks.bench import EVERYTHING, FILTERS, ITEM, REPORT, make_id_requests
from benchmarks.child_processes import ChildProcesses
from benchmarks.fleet import FleetSize
from benchmarks.inserts import STEPS, time_steps
from benchmarks.load import ClientGroup, Outcome, Request, run_load
from benchmarks.machine import Machine
from benchmarks.markdown import format_number
from benchmarks.servers import Servers
from mig.access.audit import Actor
from mig.database.database import Database
from mig.demo.postgres import EmbeddedPostgres
from mig.reactor import Reactor, get_reactor
from mig.retention import Pruned, RetentionPolicy, prune

CLIENTS: Final = 16
WRITERS: Final = (1, 8)
BATCHES: Final = 20

SIZES: Final = """
    select 'table ' || relname, pg_relation_size(oid) from pg_class
        where relname in ('commands', 'agents')
    union all select 'results of commands, out of line', pg_total_relation_size(reltoastrelid)
        from pg_class where relname = 'commands'
    union all select 'index ' || indexrelid::regclass, pg_relation_size(indexrelid) from pg_index
        where indrelid in ('commands'::regclass, 'agents'::regclass)
    order by 1
"""
HEARTBEAT: Final = "update agents set heartbeattime = now(), status = 'online' where id = %s"
HAPROXY: Final = """
defaults
    mode http
    timeout connect 5s
    timeout client 90s
    timeout server 90s
frontend mig
    bind 127.0.0.1:{port}
    default_backend mig_api
backend mig_api
    server api1 {server}
"""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """A filled database and its size."""

    dsn: str
    size: FleetSize

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        with closing(psycopg2.connect(self.dsn)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def measure_sizes(self) -> dict[str, float]:
        """Return the bytes for each row of every part of the large tables."""
        rows = {"commands": self.size.commands, "agents": self.size.agents}
        return {
            name: number / rows["agents" if "agents" in name else "commands"]
            for name, number in self.execute(SIZES)
        }


class Capacity:
    """The measurements; each prints a table as soon as it is done."""

    def __init__(
        self, children: ChildProcesses, folder: Path, bin_: Path, options: argparse.Namespace
    ) -> None:
        self._children = children
        self._folder = folder
        self._twistd = options.twistd.absolute()
        self._seconds = options.seconds
        self._bin = bin_

    def measure_sizes(self, small: Fleet, large: Fleet, planned: FleetSize) -> None:
        """Print bytes for each row at both sizes, and what they come to for the planned rows."""
        before, after = small.measure_sizes(), large.measure_sizes()
        rows, total = [], 0.0
        for name, number in after.items():
            count = planned.agents if "agents" in name else planned.commands
            total += number * count
            rows.append(
                [name, f"{before[name]:.1f}", f"{number:.1f}", f"{number * count / 1e9:,.1f}"]
            )
        rows.append(["all", "", "", f"{total / 1e9:,.1f}"])
        names = [f"{each.size.commands:,} commands" for each in (small, large)]
        goal = f"GB for {planned.agents:,} agents and {planned.commands:,} commands"
        print_table(["bytes a row", *names, goal], rows)

    def measure_reads(self, *fleets: Fleet) -> None:
        """Print how many small requests a daemon answers at each size."""
        rows = []
        for each in fleets:
            with self._start_daemon(each) as servers:
                ids = [str(fleet.FIRST_ID + n * 7919 % each.size.commands) for n in range(997)]
                groups = {
                    "GET of a command": make_id_requests("/command", ids),
                    "the newest 100 commands": [
                        Request(target=f"/search?type=command&limit=100&{EVERYTHING}")
                    ],
                }
                rates = [self._measure_rate(servers, requests) for requests in groups.values()]
            rows.append([f"{each.size.commands:,} commands", *map(format_number, rates)])
        print_table([f"requests a second, {CLIENTS} clients", *groups], rows)

    def _measure_rate(self, servers: Servers, requests: list[Request]) -> float:
        group = ClientGroup(name="r", requests=requests, connections=CLIENTS, seconds=self._seconds)
        run_load(self._children, servers.base, group)
        [outcome] = run_load(self._children, servers.base, group)
        return outcome.answers / outcome.seconds

    def measure_writes(self, large: Fleet, count: int) -> None:
        """Print what a scheduler can write, each statement a commit that is on the disk."""
        large.execute("alter system set fsync = on")
        large.execute("select pg_reload_conf()")
        rows = []
        for run, writers in enumerate(WRITERS):
            position = large.execute("select pg_current_wal_lsn()")[0][0]
            seconds = self._write_commands(large, count, writers, first=(run + 1) * 10_000_000)
            [[written]] = large.execute(f"select pg_current_wal_lsn() - '{position}'::pg_lsn")
            beats = self._write_heartbeats(large, count, writers)
            rates = [*(count / seconds[step] for step in STEPS), count / sum(seconds.values())]
            rows.append(
                [
                    f"{writers} connections" if writers > 1 else "1 connection",
                    *(f"{rate:,.0f}" for rate in (*rates, beats)),
                    f"{float(written) / count:,.0f}",
                ]
            )
        names = [f"{name}s" for name in STEPS]
        print_table(
            ["a second", *names, "whole commands", "heartbeats", "bytes of WAL a command"], rows
        )
        large.execute("alter system reset fsync")
        large.execute("select pg_reload_conf()")

    def _write_commands(
        self, large: Fleet, count: int, writers: int, *, first: int
    ) -> dict[str, float]:
        share = count // writers
        with ThreadPoolExecutor(writers) as pool:
            parts = list(
                pool.map(
                    lambda n: time_steps(large.dsn, large.size, first + n * share, share),
                    range(writers),
                )
            )
        return {step: max(part[step] for part in parts) for step in STEPS}

    def _write_heartbeats(self, large: Fleet, count: int, writers: int) -> float:
        def write(part: int) -> None:
            with closing(psycopg2.connect(large.dsn)) as connection:
                connection.autocommit = True
                cursor = connection.cursor()
                for n in range(part, count, writers):
                    cursor.execute(HEARTBEAT, (fleet.FIRST_ID + n * 7919 % large.size.agents,))

        start = time.perf_counter()
        with ThreadPoolExecutor(writers) as pool:
            list(pool.map(write, range(writers)))
        return count / (time.perf_counter() - start)

    def measure_report(self, which: Fleet) -> None:
        """Print how fast a report is directly and through HAProxy, and what each side uses."""
        rows = []
        with self._start_daemon(which) as servers, self._start_haproxy(servers) as proxies:
            pids = [*servers.pids, *(pid for pid, _ in proxies)]
            for name, url in (
                ("directly", servers.base),
                *(("HAProxy", url) for _, url in proxies),
            ):
                self._read_report(url)
                before = [procfs.read_seconds(pid) for pid in pids]
                outcome = self._read_report(url)
                gigabytes = outcome.bytes / 1e9
                used = [
                    (procfs.read_seconds(pid) - seconds) / gigabytes
                    for pid, seconds in zip(pids, before, strict=True)
                ]
                rates = (outcome.found / outcome.seconds, outcome.bytes / outcome.seconds / 1e6)
                rows.append([name, *map(format_number, (*rates, *used))])
        headings = ["items a second", "MB a second", "daemon, CPU s a GB", "HAProxy, CPU s a GB"]
        print_table(["a report", *headings[: 2 + len(pids)]], rows)

    def _read_report(self, base: str) -> Outcome:
        request = Request(target=REPORT.format(filter=FILTERS["file"]))
        [outcome] = run_load(
            self._children, base, ClientGroup(name="r", requests=[request], needle=ITEM)
        )
        if outcome.failures:
            raise SystemExit(f"benchmarks: {outcome.failure}")
        return outcome

    def measure_dump(self, large: Fleet) -> None:
        """Print how long a dump takes."""
        start = time.perf_counter()
        file = self._folder / "dump"
        command = [self._bin / "pg_dump", "--format=custom", "--file", file, large.dsn]
        self._children.run(command)
        seconds = time.perf_counter() - start
        [[commands]] = large.execute("select count(*) from commands")
        rates = [format_number(commands / seconds), format_number(file.stat().st_size / commands)]
        print_table(["a dump", "commands a second", "bytes a command"], [["pg_dump", *rates]])
        file.unlink()

    @contextmanager
    def _start_daemon(self, which: Fleet) -> Iterator[Servers]:
        with Servers.start_daemons(
            self._children, self._folder, self._twistd, which.dsn, 1
        ) as servers:
            yield servers

    @contextmanager
    def _start_haproxy(self, servers: Servers) -> Iterator[list[tuple[int, str]]]:
        """Start HAProxy where it is installed; return its pid and URL, or nothing."""
        program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            yield []
            return
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        file = self._folder / "haproxy.cfg"
        daemon = urlsplit(servers.base)
        file.write_text(HAPROXY.format(port=port, server=f"127.0.0.1:{daemon.port}"))
        running = self._children.start([program, "-db", "-f", file])
        try:
            wait_until_open(port)
            yield [(running.pid, daemon._replace(netloc=f"localhost:{port}").geturl())]
        finally:
            self._children.terminate(running)


async def measure_retention(reactor: Reactor, large: Fleet) -> None:
    """Print how long a batch of ``mig-api prune`` takes at the begin and at the end of a run."""
    marks: list[float] = []
    done: list[int] = []

    def mark(pruned: Pruned) -> None:
        marks.append(time.perf_counter())
        done.append(pruned.commands)

    database = Database(reactor, large.dsn)
    # the oldest nine tenths of the fleet's days, whatever day it is
    [[age]] = large.execute(
        "select (extract(epoch from now() - max(starttime)) + 0.1 * extract(epoch from"
        f" max(starttime) - min(starttime)))::float from commands where id >= {fleet.FIRST_ID}"
    )
    policy = RetentionPolicy(commands=timedelta(seconds=age))
    try:
        start = time.perf_counter()
        await prune(database, policy, Actor.of_command_line("prune"), on_progress=mark)
    finally:
        database.stop()
    steps = [end - begin for begin, end in zip([start, *marks], marks, strict=False)]
    first, last = (
        f"{sum(part) / len(part) * 1000:.0f}" for part in (steps[:BATCHES], steps[-BATCHES:])
    )
    rate = done[-1] / (marks[-1] - start)
    print_table(
        ["retention", f"ms a batch, first {BATCHES}", f"last {BATCHES}", "commands a second"],
        [[f"{done[-1]:,} commands in {len(steps)} batches", first, last, f"{rate:,.0f}"]],
    )


def wait_until_open(port: int) -> None:
    """Wait until a server accepts on a port of this host, for 10 s."""
    for _ in range(100):
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    raise SystemExit(f"benchmarks: nothing accepts on port {port}")


def print_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    for row in (names, ["---"] * len(names), *rows):
        print(f"| {' | '.join(row)} |", flush=True)
    print()


async def main(reactor: Reactor, options: argparse.Namespace) -> None:
    """Fill both fleets and print all tables; no process or file is left behind."""
    children = ChildProcesses()
    # a thread that waits for a process goes on, and fails
    reactor.addSystemEventTrigger("before", "shutdown", children.stop)
    try:
        with make_folder() as folder:
            postgres = EmbeddedPostgres(reactor, folder / "postgres", SETTINGS)
            postgres.lock_folder()
            try:
                await postgres.start()
                await _measure_all(reactor, options, children, folder, postgres)
            finally:
                children.stop()
                await postgres.stop()
    finally:
        children.stop()


async def _measure_all(
    reactor: Reactor,
    options: argparse.Namespace,
    children: ChildProcesses,
    folder: Path,
    postgres: EmbeddedPostgres,
) -> None:
    version = children.run([postgres.get_program_path("postgres"), "--version"])
    print(f"{Machine.describe(version)}\n")
    fleets = []
    for commands in (options.commands // 10, options.commands):
        dsn = await create_database(reactor, postgres, f"fleet_{commands}")
        filled = Fleet(dsn=dsn, size=FleetSize.from_commands(commands))
        await deferToThread(fleet.load_fleet, children, dsn, filled.size, "file")
        fleets.append(filled)
    bin_ = postgres.get_program_path("postgres").parent
    capacity = Capacity(children, folder, bin_, options)
    planned = FleetSize(commands=options.for_commands, agents=options.for_agents, actions=0)
    large = fleets[1]
    steps: list[Callable[[], None]] = [
        lambda: capacity.measure_sizes(fleets[0], large, planned),
        lambda: capacity.measure_reads(*fleets),
        lambda: capacity.measure_report(fleets[0]),
        lambda: capacity.measure_writes(large, options.count),
        lambda: capacity.measure_dump(large),
    ]
    for step in steps:
        await deferToThread(step)
    await measure_retention(reactor, large)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("--commands", type=int, default=1_000_000, help="in the larger fleet")
    parser.add_argument("--count", type=int, default=8_000, help="new commands to write")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement of reads")
    parser.add_argument("--for-commands", type=int, default=10_000_000_000)
    parser.add_argument("--for-agents", type=int, default=1_000_000)
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
