"""A run: for each kind of fleet a database, the servers before it, and its scenarios."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.bench import ITEM, Bench, Scenario
from benchmarks.children import Children
from benchmarks.figures import Row, medians
from benchmarks.fleet import Size
from benchmarks.load import Group, Request, ask
from benchmarks.servers import Servers
from benchmarks.signing import Signer


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure, and how often and long."""

    scenarios: Sequence[Scenario]
    size: Size
    runs: int
    seconds: float
    sign: int
    processes: int
    against: str | None

    @property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(scenario.kind for scenario in self.scenarios))


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run takes place: PostgreSQL, what starts a daemon, a folder for their files."""

    children: Children
    folder: Path
    twistd: Path
    psql: Path
    postmaster: int


def measure(
    plan: Plan, place: Place, kind: str, dsn: str, show: Callable[[Row], None]
) -> list[Row]:
    """The rows of all scenarios on the fleet of one kind, which is in the database *dsn*."""
    rows = []
    with _bench(plan, place, kind, dsn) as bench:
        for scenario in plan.scenarios:
            if scenario.kind == kind:
                for row in _scenario(scenario, bench, plan.runs):
                    show(row)
                    rows.append(row)
    return rows


@contextmanager
def _bench(plan: Plan, place: Place, kind: str, dsn: str) -> Iterator[Bench]:
    """The servers, and somebody who signs actions if a scenario needs it."""
    with ExitStack() as stack:
        signer = None
        if any(one.signs and one.kind == kind for one in plan.scenarios):
            signer = stack.enter_context(Signer.at(place.children, place.folder / "gnupg"))
            signer.enroll(dsn)
        daemons = partial(Servers.daemons, place.children, place.folder, place.twistd, dsn)
        yield Bench(
            children=place.children,
            psql=place.psql,
            dsn=dsn,
            postmaster=place.postmaster,
            kind=kind,
            size=plan.size,
            seconds=plan.seconds,
            sign=plan.sign,
            signer=signer,
            processes=plan.processes,
            daemons=daemons,
            servers=stack.enter_context(daemons(1)),
            bare=stack.enter_context(Servers.bare(place.children, place.folder, dsn)),
        )


def _scenario(scenario: Scenario, bench: Bench, runs: int) -> list[Row]:
    if not scenario.fresh:
        return _medians(scenario, bench, runs)
    with bench.daemons(1) as servers:
        return _medians(scenario, replace(bench, servers=servers), runs)


def _medians(scenario: Scenario, bench: Bench, runs: int) -> list[Row]:
    measured = [scenario.measure(bench) for _ in range(runs)]
    return [medians(same) for same in zip(*measured, strict=True)]


def against(children: Children, url: str, runs: int) -> Row:
    """The report that another server gives at *url*, as a row beside ours."""
    parts = urlsplit(url)
    target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    name = f"report of {parts.netloc}"
    base = f"{parts.scheme}://{parts.netloc}"
    rows = []
    for run in range(runs + 1):
        needle = ITEM if run == 0 else ""
        group = Group(name=name, requests=[Request(target=target)], needle=needle)
        [seen] = ask(children, base, group)
        if run == 0:
            items = seen.found
            continue
        unit, each = ("items", items) if items else ("bytes", seen.bytes)
        rows.append(
            Row(
                scenario=name,
                unit=unit,
                count=each * seen.answers,
                rate=each * seen.answers / seen.seconds,
                first_byte_ms=seen.first_byte_ms,
                p50_ms=seen.p50_ms,
                max_ms=seen.max_ms,
                megabytes=seen.bytes / 1e6,
                client_cpu_s=seen.client_cpu_s,
                failures=seen.failures,
                note=seen.failure,
                statuses=seen.statuses,
            )
        )
    return medians(rows)
