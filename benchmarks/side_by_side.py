"""``python -m benchmarks.side_by_side``: the report of this service and of others, in one run.

``fill`` fills an empty database that ``mig-api migrate`` has set up. Then start the servers on it,
each as it runs best. ``measure`` asks each of them for the whole report in turns, and measures the
floor just before each report.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import psycopg2

from benchmarks import fleet, floor, procfs
from benchmarks.bench import EVERYTHING, ITEM
from benchmarks.child_processes import ChildFailedError, ChildProcesses
from benchmarks.load import ClientGroup, Outcome, Request, run_load
from benchmarks.machine import Machine
from benchmarks.markdown import format_table
from benchmarks.measurements import Measurement, take_medians


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that runs already; ``pid`` is 0 when its processor time is of no interest."""

    name: str
    url: str
    pid: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``NAME[:PID]=URL``.

        :raises argparse.ArgumentTypeError: for any other text.
        """
        place, _, url = text.partition("=")
        name, _, pid = place.partition(":")
        if not name or not url.startswith("http://") or not (pid or "0").isdecimal():
            raise argparse.ArgumentTypeError(f"{text!r} is not NAME[:PID]=http://…")
        return cls(name=name, url=url, pid=int(pid or "0"))

    def load(self, children: ChildProcesses, needle: str = "") -> Outcome:
        """Read one report."""
        parts = urlsplit(self.url)
        target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        group = ClientGroup(name=self.name, requests=[Request(target=target)], needle=needle)
        [outcome] = run_load(children, f"http://{parts.netloc}", group)
        return outcome


def measure_servers(
    children: ChildProcesses, psql: Path, dsn: str, servers: Sequence[Server], runs: int
) -> list[Measurement]:
    """Measure the report of each server; the medians of ``runs`` turns."""
    items = {server.name: server.load(children, ITEM).found for server in servers}  # and warms up
    rows: dict[str, list[Measurement]] = {server.name: [] for server in servers}
    for run in range(runs):
        for server in _rotate(servers, run):
            seconds = floor.time_copy(children, psql, dsn, floor.ALL_RESULTS)
            rows[server.name].append(_measure_once(children, server, items[server.name], seconds))
    return [take_medians(same) for same in rows.values()]


def _rotate(servers: Sequence[Server], by: int) -> Iterator[Server]:
    """Yield all servers, in each run another one first."""
    start = by % len(servers)
    return itertools.chain(servers[start:], servers[:start])


def _measure_once(
    children: ChildProcesses, server: Server, items: int, floor_seconds: float
) -> Measurement:
    if server.pid:
        procfs.reset_peak(server.pid)
        before = procfs.read_seconds(server.pid)
    outcome = server.load(children)
    # a server whose items have another form is measured by its bytes, without a floor
    unit, each = ("items", items) if items else ("bytes", outcome.bytes)
    return Measurement(
        scenario=server.name,
        unit=unit,
        count=each * outcome.answers,
        rate=each * outcome.answers / outcome.seconds,
        floor=items / floor_seconds if items else None,
        floor_is="psql copy of all results",
        first_byte_ms=outcome.first_byte_ms,
        p50_ms=outcome.p50_ms,
        max_ms=outcome.max_ms,
        daemon_cpu_s=procfs.read_seconds(server.pid) - before if server.pid else None,
        peak_mb=procfs.read_peak_megabytes(server.pid) if server.pid else None,
        client_cpu_s=outcome.client_cpu_s,
        megabytes=outcome.bytes / 1e6,
        failures=outcome.failures,
        note=outcome.failure,
        statuses=outcome.statuses,
    )


def main() -> None:
    """Fill a database, or measure the servers on it."""
    options = _parse_arguments()
    children = ChildProcesses()
    try:
        if options.verb == "fill":
            size = fleet.FleetSize.from_commands(options.commands)
            fleet.load_fleet(children, options.dsn, size, options.kind)
            return
        psql = shutil.which("psql")
        if psql is None:
            raise SystemExit("benchmarks: psql is not in PATH")
        print(Machine.describe(_read_version(options.dsn)), end="\n\n", flush=True)
        rows = measure_servers(children, Path(psql), options.dsn, options.server, options.runs)
    except ChildFailedError as reason:
        raise SystemExit(f"benchmarks: {reason}") from None
    finally:
        children.stop()
    print(format_table(rows))
    if any(row.failures for row in rows):
        raise SystemExit("benchmarks: some reports failed; see the table")


def _read_version(dsn: str) -> str:
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("show server_version")
        [[version]] = cursor.fetchall()
        return str(version)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.side_by_side",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    fill = verbs.add_parser("fill", help="fill an empty database")
    fill.add_argument("dsn", help="the database, as postgresql://USER@HOST/NAME")
    fill.add_argument("--kind", choices=fleet.KINDS, default="alternating")
    fill.add_argument("--commands", type=int, default=100_000)
    measure = verbs.add_parser("measure", help="measure servers that run already")
    measure.add_argument("dsn", help="the database of the servers, for the floor")
    measure.add_argument(
        "server",
        nargs="+",
        type=Server.parse,
        metavar="NAME[:PID]=URL",
        help="the URL of a server's whole report; of this service"
        f" http://…/api/v1/search?type=command&report=complianceitems&limit=100000000&{EVERYTHING}",
    )
    measure.add_argument("--runs", type=int, default=5, help="reports of each server")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    main()
