"""``python -m benchmarks``: fill a fleet, start the daemon, measure, print a table."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from benchmarks import fleet, measure
from mig.database import migrate
from mig.database.pool import Database
from mig.demo.postgres import EmbeddedPostgres

REPORT = (
    "/search?type=command&{filter}&report=complianceitems&limit=100000000"
    "&after=2025-12-31T00:00:00-04:00&before=2100-01-01T00:00:00Z"
)
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "4GB", "fsync": "off"}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--commands", type=int, default=100_000, help="size of the fleet")
    parser.add_argument("--runs", type=int, default=3, help="measurements of each scenario")
    parser.add_argument("--kinds", nargs="+", choices=fleet.KINDS, default=list(fleet.KINDS))
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def measure_report(psql: Path, dsn: str, kind: str, size: fleet.Size, runs: int) -> dict[str, Any]:
    """The compliance report of a fleet of one kind; floor and report in turn, medians."""
    family = "status=success&threatfamily=compliance" if kind != "mixed" else "status=done"
    with measure.Daemon(dsn) as daemon:
        url = daemon.base + REPORT.format(filter=family)
        items = measure.count_items(url, "compliance item")
        rows = []
        for _ in range(runs):
            floor = measure.floor(psql, dsn)
            daemon.reset_peak()
            cpu = daemon.cpu_seconds()
            answer = measure.get(url)
            rows.append(
                {
                    "floor_s": floor,
                    "report_s": answer.seconds,
                    "times_floor": answer.seconds / floor,
                    "first_byte_ms": answer.first_byte * 1000,
                    "peak_mb": daemon.peak_megabytes(),
                    "daemon_cpu_s": daemon.cpu_seconds() - cpu,
                    "megabytes": answer.bytes / 1e6,
                }
            )
    medians = {name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]}
    return {"scenario": f"report, {kind}", "commands": size.commands, "items": items, **medians}


def table(figures: list[dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    names = list(figures[0])
    lines = [names, ["---"] * len(names), *([str(row[n]) for n in names] for row in figures)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@contextmanager
def _folder() -> Iterator[Path]:
    """A new folder directly below the temporary one, where PostgreSQL's account can enter."""
    name = f"mig-api-bench-{os.getpid()}"
    yield Path(tempfile.gettempdir()) / name


async def main(reactor: Any, options: argparse.Namespace) -> None:
    """Run the scenarios that *options* name."""
    size = fleet.Size.of(options.commands)
    figures = []
    with _folder() as folder:
        postgres = EmbeddedPostgres(reactor, folder, SETTINGS)
        postgres.lock()
        try:
            await postgres.start()
            for kind in options.kinds:
                dsn = await _database(reactor, postgres, f"fleet_{kind}")
                await deferToThread(fleet.load, dsn, size, kind)
                figures.append(
                    await deferToThread(
                        measure_report, postgres.program("psql"), dsn, kind, size, options.runs
                    )
                )
                print(figures[-1], flush=True)
        finally:
            await postgres.stop()
            postgres.remove()
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


async def _database(reactor: Any, postgres: EmbeddedPostgres, name: str) -> str:
    """A new database with the schema in it."""
    owner = Database(reactor, postgres.dsn())
    await owner.query(f"create database {name}")
    owner.stop()
    dsn = postgres.dsn(database=name)
    database = Database(reactor, dsn)
    await migrate.prepare(database, upgrade=True)
    database.stop()
    return dsn


if __name__ == "__main__":
    arguments = _arguments()
    task.react(lambda reactor: Deferred.fromCoroutine(main(reactor, arguments)))
