"""The gain from more cores: one daemon on one core, then N daemons on N cores.

PostgreSQL and the clients run on the same cores, so that each daemon has the same share of the
machine as the single one (docs/decisions/benchmark/0004).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from benchmarks import procfs
from benchmarks.bench import EVERYTHING, ITEM, Bench, Scenario, make_id_requests, make_measurement
from benchmarks.load import ClientGroup, Request
from benchmarks.measurements import Measurement

CONNECTIONS: Final = 64
REPORTS_AT_ONCE: Final = 8

MakeGroup = Callable[[Bench], ClientGroup]


def _measure_scaling(
    make_group: MakeGroup, needle: str, unit: str, bench: Bench
) -> list[Measurement]:
    rows: list[Measurement] = []
    for count in dict.fromkeys((1, bench.processes)):
        with _limit_cores(count, bench.postmaster), bench.start_daemons(count) as servers:
            limited = replace(bench, servers=servers)
            group = make_group(limited)
            first = limited.warm_up(replace(group, needle=needle))
            [outcome], usage = limited.load_daemons(group)
            each = first.found / first.answers if needle else 1
            note = f"on {count} core{'s' if count > 1 else ''}"
            rows.append(
                make_measurement(limited, group, outcome, usage, unit=unit, each=each, note=note)
            )
    alone, *many = rows
    return [alone, *(replace(one, scaling=_divide_rates(one, alone)) for one in many)]


def _divide_rates(many: Measurement, alone: Measurement) -> float | None:
    return many.rate / alone.rate if many.rate and alone.rate else None


@contextmanager
def _limit_cores(count: int, postmaster: int) -> Iterator[None]:
    """Keep this thread, the processes it starts, and PostgreSQL on ``count`` cores."""
    every = os.sched_getaffinity(0)
    pids = procfs.list_family(postmaster)

    def set_affinity(cores: set[int]) -> None:
        for pid in (0, *pids):  # 0 is the calling thread
            os.sched_setaffinity(pid, cores)

    set_affinity(set(sorted(every)[:count]))
    try:
        yield
    finally:
        pids = [pid for pid in pids if pid in procfs.list_family(postmaster)]
        set_affinity(every)


def _make_small_group(name: str, target: str | None, bench: Bench) -> ClientGroup:
    requests = (
        [Request(target=target)] if target else make_id_requests(f"/{name}", bench.sample_ids(name))
    )
    return ClientGroup(
        name=f"growth-{name}", requests=requests, connections=CONNECTIONS, seconds=bench.seconds
    )


def _make_report_group(bench: Bench) -> ClientGroup:
    requests = [bench.report_request] * REPORTS_AT_ONCE
    return ClientGroup(name="growth-reports", requests=requests, connections=REPORTS_AT_ONCE)


def _make_scenario(
    name: str, make_group: MakeGroup, needle: str = "", unit: str = "requests"
) -> Scenario:
    def measure_scaling(bench: Bench) -> list[Measurement]:
        return _measure_scaling(make_group, needle, unit, bench)

    about = f"{name}: one daemon on one core, then --processes daemons on as many"
    return Scenario(name=f"growth-{name}", about=about, kind="file", measure=measure_scaling)


def _make_small_scenario(name: str, target: str | None = None) -> Scenario:
    return _make_scenario(name, lambda bench: _make_small_group(name, target, bench))


SCALING_SCENARIOS: Final = (
    *map(
        _make_small_scenario,
        ("heartbeat", "action", "agent", "command", "investigator", "dashboard"),
    ),
    _make_small_scenario("search", f"/search?type=command&limit=100&{EVERYTHING}"),
    _make_scenario("reports", _make_report_group, ITEM, "items"),
)
