"""``python -m benchmarks``: fill a fleet, start the daemon, measure, print a table."""

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
from typing import Any, Final

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from benchmarks import fleet, run
from benchmarks.children import ChildFailed, Children
from benchmarks.figures import Row
from benchmarks.machine import Machine
from benchmarks.report import number, page, ratio, table
from benchmarks.scenarios import ALL
from mig.database.database import Database
from mig.database.schema import migrate
from mig.demo.postgres import EmbeddedPostgres
from mig.errors import PostgresError

SETTINGS: Final = {
    "shared_buffers": "1GB",
    "max_wal_size": "4GB",
    "fsync": "off",
    "maintenance_work_mem": "256MB",
    "max_connections": "200",
}
INTERRUPTED: Final = 130


def _arguments() -> argparse.Namespace:
    listed = "\n".join(f"  {one.name:22}{one.about}" for one in ALL)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"scenarios:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    size = "size of the fleet, 1,000 to 10,000,000 (about 3.5 kB each on disk)"
    parser.add_argument("--commands", type=int, default=100_000, help=size)
    parser.add_argument("--runs", type=int, default=3, help="measurements of each scenario")
    parser.add_argument(
        "--scenario",
        action="append",
        choices=[one.name for one in ALL],
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
        help="daemons on one socket and as many cores, to compare with one on one core",
    )
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="of load in each measurement of small requests"
    )
    parser.add_argument("--sign", type=int, default=200, help="actions to sign for each run")
    parser.add_argument(
        "--against", metavar="URL", help="also measure the report of another server, at an http URL"
    )
    parser.add_argument(
        "--twistd",
        type=Path,
        default=Path(sys.executable).parent / "twistd",
        help="what starts the daemon; by default that beside this Python",
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--markdown", action="store_true", help="print docs/performance.md instead")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write that page to a file")
    return parser.parse_args()


def _plan(options: argparse.Namespace) -> run.Plan:
    return run.Plan(
        scenarios=[
            one
            for one in ALL
            if one.kind in options.kinds and (not options.scenario or one.name in options.scenario)
        ],
        size=fleet.Size.of(options.commands),
        runs=options.runs,
        seconds=options.seconds,
        sign=options.sign,
        processes=options.processes,
        against=options.against,
    )


@contextmanager
def _folder() -> Iterator[Path]:
    """A new folder directly below the temporary one, where PostgreSQL's account can enter."""
    folder = Path(tempfile.mkdtemp(prefix="mig-api-bench-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


async def main(reactor: Any, options: argparse.Namespace) -> None:
    """Measure what *options* name. However it ends, nothing stays behind."""
    children = Children()
    ended: Deferred[None] = Deferred()

    def stop() -> Deferred[None]:
        children.stop()
        return ended

    reactor.addSystemEventTrigger("before", "shutdown", stop)
    try:
        with _folder() as folder:
            rows, machine = await _measure(reactor, options, children, folder)
    except Exception as reason:
        if children.stopped:  # whatever failed did so because its process was ended
            raise SystemExit(INTERRUPTED) from None
        if isinstance(reason, ChildFailed | PostgresError):
            raise SystemExit(f"benchmarks: {reason}") from None
        raise
    finally:
        children.stop()
        ended.callback(None)
    _output(options, rows, machine)
    if any(row.failures for row in rows):
        raise SystemExit("benchmarks: some requests failed; see the table")


async def _measure(
    reactor: Any, options: argparse.Namespace, children: Children, folder: Path
) -> tuple[list[Row], Machine]:
    plan = _plan(options)
    postgres = EmbeddedPostgres(reactor, folder / "postgres", SETTINGS)
    postgres.lock()
    rows = []
    try:
        await postgres.start()
        psql = postgres.program("psql")
        machine = Machine.here(children.run([postgres.program("postgres"), "--version"]))
        _tell(str(machine))
        postmaster = int((postgres.folder / "data" / "postmaster.pid").read_text().split()[0])
        if plan.against:
            rows.append(await deferToThread(run.against, children, plan.against, plan.runs))
            _show(rows[-1])
        place = run.Place(
            children=children,
            folder=folder,
            twistd=options.twistd.absolute(),
            psql=psql,
            postmaster=postmaster,
        )
        for kind in plan.kinds:
            dsn = await _database(reactor, postgres, f"fleet_{kind}")
            _tell(f"filling the fleet {kind}, {plan.size.commands:,} commands")
            await deferToThread(fleet.load, children, dsn, plan.size, kind)
            rows += await deferToThread(run.measure, plan, place, kind, dsn, _show)
            await _execute(reactor, postgres, f"drop database fleet_{kind}")
    finally:
        await postgres.stop()
    return rows, machine


def _output(options: argparse.Namespace, rows: list[Row], machine: Machine) -> None:
    size = fleet.Size.of(options.commands)
    about = (
        f"Fleet: {size.commands:,} commands, {size.agents:,} agents, {size.actions:,} actions,"
        f" {fleet.CHECKS} results in each command; {options.runs} run(s)"
    )
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    text = page(command, machine, about, rows, options.runs)
    print(text if options.markdown else f"{machine}\n{about}\n\n{table(rows)}")
    if options.write:
        options.write.write_text(text)
    if options.json:
        figures = [asdict(row) | {"times_floor": row.times_floor} for row in rows]
        written = {"machine": asdict(machine), "fleet": asdict(size), "rows": figures}
        options.json.write_text(json.dumps(written, indent=1) + "\n")


def _show(row: Row) -> None:
    clients = f"{row.scenario} on {row.connections:.0f}"
    _tell(f"  {clients:32} {number(row.rate):>10} {row.unit}/s {ratio(row):>8} {row.note}")


def _tell(line: str) -> None:
    """Progress: the table alone goes to standard output."""
    print(line, file=sys.stderr, flush=True)


async def _execute(reactor: Any, postgres: EmbeddedPostgres, statement: str) -> None:
    owner = Database(reactor, postgres.dsn())
    try:
        await owner.query(statement)
    finally:
        owner.stop()


async def _database(reactor: Any, postgres: EmbeddedPostgres, name: str) -> str:
    """A new database with the schema in it."""
    await _execute(reactor, postgres, f"create database {name}")
    dsn = postgres.dsn(database=name)
    database = Database(reactor, dsn)
    try:
        await migrate.ensure_schema(database, upgrade=True)
    finally:
        database.stop()
    return dsn


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    arguments = _arguments()
    task.react(lambda reactor: Deferred.fromCoroutine(main(reactor, arguments)))
