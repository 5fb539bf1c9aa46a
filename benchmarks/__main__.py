"""``python -m benchmarks``: make a fleet, start the daemon, measure it, print a table."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from benchmarks import fleet, run
from benchmarks.child_processes import ChildFailedError, ChildProcesses
from benchmarks.machine import Machine
from benchmarks.markdown import format_number, format_page, format_ratio, format_table
from benchmarks.measurements import Measurement
from benchmarks.scenarios import SCENARIOS
from mig.database.database import Database
from mig.database.schema import migrate
from mig.demo.postgres import EmbeddedPostgres
from mig.errors import PostgresError
from mig.reactor import Reactor, get_reactor

SETTINGS: Final = {
    "shared_buffers": "1GB",
    "max_wal_size": "4GB",
    "fsync": "off",
    "maintenance_work_mem": "256MB",
    "max_connections": "200",
}
INTERRUPTED: Final = 130


def _parse_arguments() -> argparse.Namespace:
    listed = "\n".join(f"  {one.name:22}{one.about}" for one in SCENARIOS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"scenarios:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    size = "commands in the fleet, 1,000 to 10,000,000 (about 3.5 kB each on disk)"
    parser.add_argument("--commands", type=int, default=100_000, help=size)
    parser.add_argument("--runs", type=int, default=3, help="measurements of each scenario")
    parser.add_argument(
        "--scenario",
        action="append",
        choices=[one.name for one in SCENARIOS],
        metavar="NAME",
        help="measure only this one; may be repeated",
    )
    parser.add_argument("--kinds", nargs="+", choices=fleet.KINDS, default=list(fleet.KINDS))
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--processes",
        type=int,
        choices=range(1, cores + 1),
        default=cores,
        metavar="N",
        help="daemons on one socket and as many cores, compared with one daemon on one core",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=2.0,
        help="duration of each measurement of small requests",
    )
    parser.add_argument("--sign", type=int, default=200, help="actions to sign for each run")
    parser.add_argument(
        "--twistd",
        type=Path,
        default=Path(sys.executable).parent / "twistd",
        help="the twistd that runs the daemon; by default the one of this Python",
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument(
        "--markdown", action="store_true", help="print docs/performance.md instead of the table"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write that page to a file")
    return parser.parse_args()


def _make_plan(options: argparse.Namespace) -> run.Plan:
    return run.Plan(
        scenarios=[
            one
            for one in SCENARIOS
            if one.kind in options.kinds and (not options.scenario or one.name in options.scenario)
        ],
        size=fleet.FleetSize.from_commands(options.commands),
        runs=options.runs,
        seconds=options.seconds,
        sign=options.sign,
        processes=options.processes,
    )


@contextmanager
def make_folder() -> Iterator[Path]:
    """Make a folder that PostgreSQL's account can enter, and delete it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="mig-api-bench-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


async def main(reactor: Reactor, options: argparse.Namespace) -> None:
    """Measure what ``options`` name; no process or file is left behind, however it ends."""
    children = ChildProcesses()
    ended: Deferred[None] = Deferred()

    def stop_children() -> Deferred[None]:
        children.stop()
        return ended

    reactor.addSystemEventTrigger("before", "shutdown", stop_children)
    try:
        with make_folder() as folder:
            rows, machine = await _measure_all(reactor, options, children, folder)
    except Exception as reason:
        if children.is_stopped:  # it failed because its process was stopped
            raise SystemExit(INTERRUPTED) from None
        if isinstance(reason, ChildFailedError | PostgresError):
            raise SystemExit(f"benchmarks: {reason}") from None
        raise
    finally:
        children.stop()
        ended.callback(None)
    _write_results(options, rows, machine)
    if any(row.failures for row in rows):
        raise SystemExit("benchmarks: some requests failed; see the table")


async def _measure_all(
    reactor: Reactor, options: argparse.Namespace, children: ChildProcesses, folder: Path
) -> tuple[list[Measurement], Machine]:
    plan = _make_plan(options)
    postgres = EmbeddedPostgres(reactor, folder / "postgres", SETTINGS)
    postgres.lock_folder()
    rows = []
    try:
        await postgres.start()
        psql = postgres.get_program_path("psql")
        machine = Machine.describe(
            children.run([postgres.get_program_path("postgres"), "--version"])
        )
        _print_progress(str(machine))
        postmaster = int((postgres.folder / "data" / "postmaster.pid").read_text().split()[0])
        environment = run.Environment(
            children=children,
            folder=folder,
            twistd=options.twistd.absolute(),
            psql=psql,
            postmaster=postmaster,
        )
        for kind in plan.kinds:
            dsn = await create_database(reactor, postgres, f"fleet_{kind}")
            _print_progress(f"filling the fleet {kind}, {plan.size.commands:,} commands")
            await deferToThread(fleet.load_fleet, children, dsn, plan.size, kind)
            rows += await deferToThread(
                run.measure_fleet, plan, environment, kind, dsn, _print_measurement
            )
            await _execute_statement(reactor, postgres, f"drop database fleet_{kind}")
    finally:
        await postgres.stop()
    return rows, machine


def _write_results(options: argparse.Namespace, rows: list[Measurement], machine: Machine) -> None:
    size = fleet.FleetSize.from_commands(options.commands)
    about = (
        f"Fleet: {size.commands:,} commands, {size.agents:,} agents, {size.actions:,} actions,"
        f" {fleet.CHECKS} results in each command; {options.runs} run(s)"
    )
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    text = format_page(command, machine, about, rows, options.runs)
    print(text if options.markdown else f"{machine}\n{about}\n\n{format_table(rows)}")
    if options.write:
        options.write.write_text(text)
    if options.json:
        figures = [asdict(row) | {"times_floor": row.times_floor} for row in rows]
        written = {"machine": asdict(machine), "fleet": asdict(size), "rows": figures}
        options.json.write_text(json.dumps(written, indent=1) + "\n")


def _print_measurement(row: Measurement) -> None:
    clients = f"{row.scenario} on {row.connections:.0f}"
    figures = f"{format_number(row.rate):>10} {row.unit}/s {format_ratio(row):>8}"
    _print_progress(f"  {clients:32} {figures} {row.note}")


def _print_progress(line: str) -> None:
    """Print to standard error: the table alone goes to standard output."""
    print(line, file=sys.stderr, flush=True)


async def _execute_statement(reactor: Reactor, postgres: EmbeddedPostgres, statement: str) -> None:
    owner = Database(reactor, postgres.format_dsn())
    try:
        await owner.query(statement)
    finally:
        owner.stop()


async def create_database(reactor: Reactor, postgres: EmbeddedPostgres, name: str) -> str:
    """Create a database with the schema, and return its connection string."""
    await _execute_statement(reactor, postgres, f"create database {name}")
    dsn = postgres.format_dsn(database=name)
    database = Database(reactor, dsn)
    try:
        await migrate.ensure_schema(database, upgrade=True)
    finally:
        database.stop()
    return dsn


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    arguments = _parse_arguments()
    task.react(lambda _: Deferred.fromCoroutine(main(get_reactor(), arguments)))
