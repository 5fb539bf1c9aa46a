"""What more cores bring: one daemon on one core, and N on N.

PostgreSQL and the clients run on the same cores, so that each daemon has as much of a machine as
the single one had.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from benchmarks import proc
from benchmarks.bench import EVERYTHING, ITEM, Bench, Scenario, by_id, row
from benchmarks.figures import Row
from benchmarks.load import Group, Request

CONNECTIONS: Final = 64
REPORTS_AT_ONCE: Final = 8

GroupOf = Callable[[Bench], Group]


def _growth(group_of: GroupOf, needle: str, unit: str, bench: Bench) -> list[Row]:
    rows: list[Row] = []
    for count in dict.fromkeys((1, bench.processes)):
        with _cores(count, bench.postmaster), bench.daemons(count) as servers:
            limited = replace(bench, servers=servers)
            group = group_of(limited)
            first = limited.warm(replace(group, needle=needle))
            [seen], used = limited.ask(group)
            each = first.found / first.answers if needle else 1
            note = f"on {count} core{'s' if count > 1 else ''}"
            rows.append(row(limited, group, seen, used, unit=unit, each=each, note=note))
    alone, *many = rows
    return [alone, *(replace(one, scaling=_times(one, alone)) for one in many)]


def _times(many: Row, alone: Row) -> float | None:
    return many.rate / alone.rate if many.rate and alone.rate else None


@contextmanager
def _cores(count: int, postmaster: int) -> Iterator[None]:
    """Keep this thread, what it starts, and PostgreSQL on *count* cores."""
    every = os.sched_getaffinity(0)
    pids = proc.family(postmaster)

    def allow(cores: set[int]) -> None:
        for pid in (0, *pids):
            os.sched_setaffinity(pid, cores)

    allow(set(sorted(every)[:count]))
    try:
        yield
    finally:
        pids = [pid for pid in pids if pid in proc.family(postmaster)]
        allow(every)


def _small(name: str, target: str | None, bench: Bench) -> Group:
    requests = [Request(target=target)] if target else by_id(f"/{name}", bench.ids(name))
    return Group(
        name=f"growth-{name}", requests=requests, connections=CONNECTIONS, seconds=bench.seconds
    )


def _reports(bench: Bench) -> Group:
    requests = [bench.report] * REPORTS_AT_ONCE
    return Group(name="growth-reports", requests=requests, connections=REPORTS_AT_ONCE)


def _scenario(name: str, group_of: GroupOf, needle: str = "", unit: str = "requests") -> Scenario:
    def measure(bench: Bench) -> list[Row]:
        return _growth(group_of, needle, unit, bench)

    about = f"{name}: one daemon on one core, and --processes on as many"
    return Scenario(name=f"growth-{name}", about=about, kind="file", measure=measure)


def _of_small(name: str, target: str | None = None) -> Scenario:
    return _scenario(name, lambda bench: _small(name, target, bench))


GROWTH: Final = (
    *map(_of_small, ("heartbeat", "action", "agent", "command", "investigator", "dashboard")),
    _of_small("search", f"/search?type=command&limit=100&{EVERYTHING}"),
    _scenario("reports", _reports, ITEM, "items"),
)
