"""A run: for each kind of fleet a database, the servers on it, and its scenarios."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench, Scenario
from benchmarks.child_processes import ChildProcesses
from benchmarks.fleet import FleetSize
from benchmarks.measurements import Measurement, take_medians
from benchmarks.servers import Servers
from benchmarks.signing import Signer


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure, how often, and for how long."""

    scenarios: Sequence[Scenario]
    size: FleetSize
    runs: int
    seconds: float
    sign: int
    processes: int

    @property
    def kinds(self) -> list[str]:
        """The kinds of fleet that the scenarios need, in their order."""
        return list(dict.fromkeys(scenario.kind for scenario in self.scenarios))


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The surroundings of a run: PostgreSQL, the programs, and a folder for files."""

    children: ChildProcesses
    folder: Path
    twistd: Path
    psql: Path
    postmaster: int


def measure_fleet(
    plan: Plan, environment: Environment, kind: str, dsn: str, show: Callable[[Measurement], None]
) -> list[Measurement]:
    """Measure all scenarios on the fleet of one kind, which is in the database ``dsn``.

    :param show: is called with each row as soon as it is measured.
    """
    rows = []
    with _start_bench(plan, environment, kind, dsn) as bench:
        for scenario in plan.scenarios:
            if scenario.kind == kind:
                for row in _measure_scenario(scenario, bench, plan.runs):
                    show(row)
                    rows.append(row)
    return rows


@contextmanager
def _start_bench(plan: Plan, environment: Environment, kind: str, dsn: str) -> Iterator[Bench]:
    """Start the servers, and make a signer if a scenario needs one."""
    with ExitStack() as stack:
        signer = None
        if any(one.signs and one.kind == kind for one in plan.scenarios):
            signer = stack.enter_context(
                Signer.create(environment.children, environment.folder / "gnupg")
            )
            signer.enroll_investigators(dsn)
        start_daemons = partial(
            Servers.start_daemons, environment.children, environment.folder, environment.twistd, dsn
        )
        yield Bench(
            children=environment.children,
            psql=environment.psql,
            dsn=dsn,
            postmaster=environment.postmaster,
            kind=kind,
            size=plan.size,
            seconds=plan.seconds,
            sign=plan.sign,
            signer=signer,
            processes=plan.processes,
            start_daemons=start_daemons,
            start_closed_daemon=partial(start_daemons, 1, authentication=True),
            start_observed_daemon=partial(
                start_daemons, 1, admin_socket=environment.folder / "admin"
            ),
            admin_socket=environment.folder / "admin",
            servers=stack.enter_context(start_daemons(1)),
            baseline=stack.enter_context(
                Servers.start_baseline(environment.children, environment.folder, dsn)
            ),
        )


def _measure_scenario(scenario: Scenario, bench: Bench, runs: int) -> list[Measurement]:
    if not scenario.fresh:
        return _measure_medians(scenario, bench, runs)
    with bench.start_daemons(1) as servers:
        return _measure_medians(scenario, replace(bench, servers=servers), runs)


def _measure_medians(scenario: Scenario, bench: Bench, runs: int) -> list[Measurement]:
    measured = [scenario.measure(bench) for _ in range(runs)]
    return [take_medians(same) for same in zip(*measured, strict=True)]
