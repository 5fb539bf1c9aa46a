"""The figures as a Markdown table, and the page that explains them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from benchmarks.machine import Machine
from benchmarks.measurements import Measurement

_PERCENT: Final = ("requests",)

PAGE: Final = """\
# Performance

Made by `{command}`; do not edit.

{machine}

{fleet}

{table}

How to read it:

- **Compare only within one run.** Absolute figures depend on the machine and on what else it does.
  The *floor* is measured right before each line, and the ratio to it is what counts.
- **Reports, large searches**: the floor is psql copying the same results, unordered, to nowhere;
  `2.5 ×` takes two and a half times as long. **Requests**: the floor is a bare Klein route with one
  bare txpostgres SELECT of the same rows in a process of its own (`/heartbeat`: without SELECT;
  `/dashboard`: one pass over the agents); `80 %` answers four requests where it answers five. For
  new actions it is gpg alone, verifying as many signatures at once.
- Server, PostgreSQL, and the load generator share the cores. Every answer is read to its end; one
  with another status, or cut, counts as failed, and the command then ends with status 1.
- *First byte* is a median; *peak* is the resident memory of the largest daemon while the line was
  measured; *CPU* is that of all daemons, and of all processes of PostgreSQL, in seconds per
  measurement. Each figure is the median of {runs} run(s).
- *Slow client* reads 4 MB/s and leaves after some seconds: its memory must not grow. *During
  reports* asks every 5 ms while one report follows another.
{scaling}"""

SCALING: Final = """\
- *Growth*: one daemon while it, PostgreSQL and the clients have one core, then as many daemons as
  cores on one socket; *scaling* is the second rate as a multiple of the first.
"""


def format_page(
    command: str, machine: Machine, fleet: str, rows: Sequence[Measurement], runs: int
) -> str:
    """The text of docs/performance.md."""
    return PAGE.format(
        command=command,
        machine=str(machine),
        fleet=fleet,
        table=format_table(rows),
        runs=runs,
        scaling=SCALING if any(row.scaling for row in rows) else "",
    )


def format_table(rows: Sequence[Measurement]) -> str:
    """The rows, in columns of equal width; columns without any figure are left out."""
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
    """The ratio to the floor: as a share for requests, as times for what is read as a whole."""
    times = row.times_floor
    if not times:
        return ""
    return f"{100 / times:.0f} %" if row.unit in _PERCENT else f"{times:.2f} ×"


def format_number(value: float | None) -> str:
    """Three significant digits, thousands separated; nothing for what was not measured."""
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
"""Each column's title, and a row's cell in it."""
