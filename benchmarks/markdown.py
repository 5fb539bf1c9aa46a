"""The figures as a Markdown table, and the page that explains them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from benchmarks.machine import Machine
from benchmarks.measurements import Measurement

_PERCENT: Final = ("requests",)

PAGE: Final = """\
# Performance

Written by `{command}`; do not edit.

{machine}

{fleet}

{table}

How to read it:

- **Compare only within one run.** Absolute figures depend on the machine and on its other load.
  The *floor* is measured just before each line, and only the ratio to it counts.
- **Reports, large searches**: the floor is psql copying the same results, unordered, to
  `/dev/null`; `2.5 ×` means two and a half times as long. **Requests**: the floor is a bare Klein
  route with one bare txpostgres SELECT of the same rows, in its own process (`/heartbeat`: without
  a SELECT; `/dashboard`: one pass over the agents); `80 %` means four answers where the floor has
  five. For new actions the floor is gpg alone, verifying as many signatures at once.
- Daemon, PostgreSQL and load generator share the cores. Every answer is read to its end; one with
  another status, or one that is cut, counts as failed, and then the command exits with status 1.
- *First byte* is a median; *peak* is the resident memory of the largest daemon during the
  measurement; *CPU* is the time of all daemons, and of all processes of PostgreSQL, in seconds per
  measurement. Each figure is the median of {runs} run(s).
- The service is as fast as its Python: that of a distribution is built for speed, while one from
  pyenv's defaults takes a tenth more time for a report.
- *Formats*: the report in each format, compressed where the client accepts it; the *CPU* of the
  daemon is what to compare. *Summary* and *latest* count the items that are read for them; those of
  *latest* are read twice.
- *Observed*: with JSON logs, and metrics that are read every second; the note compares it with the
  same without. *With credentials*: compare it with the line of the same route without.
- *Slow client* reads 4 MB/s and leaves after some seconds: the daemon's memory must not grow.
  *During reports* sends a request every 5 ms while one report follows another.
{scaling}
## Beside other servers

`python -m benchmarks.side_by_side` measures the report of this service beside that of other
servers, which run already and read the same database, in turns and each after a floor of its own:

    createdb fleet
    mig-api migrate --database postgresql:///fleet
    python -m benchmarks.side_by_side fill postgresql:///fleet --kind alternating
    twistd -n mig-api --database postgresql:///fleet
    python -m benchmarks.side_by_side measure postgresql:///fleet ours:PID=URL other:PID=URL

`URL` is that of a whole report; `measure --help` has ours. `PID` is optional, for processor time
and memory. `fill` is for an empty database; `measure` works with any that has the tables of MIG.
Compare only servers that send the commands in the same order: docs/decisions/benchmark/0005.
"""

SCALING: Final = """\
- *Growth*: first one daemon that shares one core with PostgreSQL and the clients, then one daemon
  per core on one socket; *scaling* is the second rate as a multiple of the first.
"""


def format_page(
    command: str, machine: Machine, fleet: str, rows: Sequence[Measurement], runs: int
) -> str:
    """Return the text of docs/performance.md."""
    return PAGE.format(
        command=command,
        machine=str(machine),
        fleet=fleet,
        table=format_table(rows),
        runs=runs,
        scaling=SCALING if any(row.scaling for row in rows) else "",
    )


def format_table(rows: Sequence[Measurement]) -> str:
    """Return a Markdown table of the rows, without the columns that have no figure."""
    names = [*COLUMNS]
    cells = [[render(row) for render in COLUMNS.values()] for row in rows]
    kept = [n for n in range(len(names)) if any(line[n] for line in cells)]
    lines = [[names[n] for n in kept], *([line[n] for n in kept] for line in cells)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(kept))]
    texts = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])


def format_ratio(row: Measurement) -> str:
    """Return the ratio to the floor: a share of its rate for requests, else times its duration."""
    times = row.times_floor
    if not times:
        return ""
    return f"{100 / times:.0f} %" if row.unit in _PERCENT else f"{times:.2f} ×"


def format_number(value: float | None) -> str:
    """Return three significant digits with thousands separators, or "" for ``None``."""
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


COLUMNS: Final[Mapping[str, Callable[[Measurement], str]]] = {
    "scenario": lambda row: row.scenario,
    "clients": lambda row: str(int(row.connections)),
    "processes": lambda row: str(int(row.processes)) if row.processes != 1 else "",
    "per second": lambda row: f"{format_number(row.rate)} {row.unit}" if row.rate else "",
    "floor": lambda row: format_number(row.floor),
    "to floor": format_ratio,
    "first byte ms": lambda row: format_number(row.first_byte_ms),
    "p50 ms": lambda row: format_number(row.p50_ms),
    "p95 ms": lambda row: format_number(row.p95_ms),
    "p99 ms": lambda row: format_number(row.p99_ms),
    "max ms": lambda row: format_number(row.max_ms),
    "peak MB": lambda row: format_number(row.peak_mb),
    "CPU daemon s": lambda row: format_number(row.daemon_cpu_s),
    "CPU PostgreSQL s": lambda row: format_number(row.postgres_cpu_s),
    "scaling": lambda row: format_number(row.scaling),
    "failed": lambda row: format_number(row.failures) if row.failures else "",
    "note": lambda row: row.note,
}
"""For each column its title, and a function that returns a row's cell."""
