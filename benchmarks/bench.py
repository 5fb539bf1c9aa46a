"""What a scenario works with, and how an outcome becomes a measurement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from benchmarks import fleet, floor
from benchmarks.child_processes import ChildProcesses
from benchmarks.load import ClientGroup, Outcome, Request, run_load
from benchmarks.measurements import Measurement
from benchmarks.servers import ResourceUsage, Servers
from benchmarks.signing import Signer

SAMPLE: Final = 997
ITEM: Final = '"data":[{"name":"compliance item"'
EVERYTHING: Final = "after=2025-12-31T00:00:00-04:00&before=2100-01-01T00:00:00Z"
REPORT_LIMIT: Final = "&limit=100000000"
REPORT: Final = f"/search?type=command&{{filter}}&report=complianceitems{REPORT_LIMIT}&{EVERYTHING}"
FILTERS: Final = {
    "file": "status=success&threatfamily=compliance",
    "alternating": "status=success&threatfamily=compliance",
    "mixed": "status=done",
    "distinct": "status=success&threatfamily=compliance",
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A fleet of one kind in a database, the daemon that serves it, and the bare server."""

    children: ChildProcesses
    psql: Path
    dsn: str
    postmaster: int
    kind: str
    size: fleet.FleetSize
    seconds: float
    sign: int
    signer: Signer | None
    processes: int
    """How many daemons, on as many cores, the growth scenarios compare with one."""
    start_daemons: Callable[[int], Servers]
    """Starts the given number of daemons on one socket."""
    start_closed_daemon: Callable[[], Servers]
    """Starts one daemon that requires credentials."""
    start_observed_daemon: Callable[[], Servers]
    """Starts one daemon that logs in JSON and serves its metrics."""
    admin_socket: Path
    """Where it serves them."""
    servers: Servers
    baseline: Servers

    def load_daemons(self, *groups: ClientGroup) -> tuple[list[Outcome], ResourceUsage]:
        """Load the daemons; return what the clients saw and what the servers used."""
        meter = self.servers.start_meter(self.postmaster)
        outcomes = run_load(self.children, self.servers.base, *groups)
        return outcomes, meter.read_usage()

    def warm_up(self, group: ClientGroup) -> Outcome:
        """Send one request on each connection, so that the daemon's connections are open."""
        [outcome] = run_load(self.children, self.servers.base, _limit_to_one_each(group))
        return outcome

    def measure_baseline_rate(self, path: str, ids: Sequence[str], connections: int) -> float:
        """Measure the requests per second of the bare server."""
        group = ClientGroup(
            name="bare",
            requests=make_id_requests(path, ids),
            connections=connections,
            seconds=self.seconds,
        )
        run_load(self.children, self.baseline.base, _limit_to_one_each(group))
        [outcome] = run_load(self.children, self.baseline.base, group)
        if outcome.failures:
            raise RuntimeError(f"the bare server failed: {outcome.failure}")
        return outcome.answers / outcome.seconds

    def time_copy(self, query: str, times: int = 1) -> float:
        """Measure the seconds that psql needs for the rows of a query."""
        return floor.time_copy(self.children, self.psql, self.dsn, query, times=times)

    @property
    def report_request(self) -> Request:
        """The request for the compliance report of the whole fleet."""
        return Request(target=REPORT.format(filter=FILTERS[self.kind]))

    def sample_ids(self, noun: str) -> list[str]:
        """Return ids of rows from all over the fleet; none for a resource without ids."""
        if noun == "investigator":
            return [str(n) for n in range(1, fleet.INVESTIGATORS + 1)]
        rows = {"action": self.size.actions, "agent": self.size.agents}
        rows["command"] = self.size.commands
        if noun not in rows:
            return []
        return [str(fleet.FIRST_ID + fleet.hash_number(n) % rows[noun]) for n in range(SAMPLE)]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A scenario; ``measure`` returns the rows of one run.

    One that ``signs`` needs investigators. One that is ``fresh`` gets a new daemon, whose memory no
    scenario before has filled (docs/decisions/benchmark/0002).
    """

    name: str
    about: str
    kind: str
    measure: Callable[[Bench], list[Measurement]]
    fresh: bool = False
    signs: bool = False


def _limit_to_one_each(group: ClientGroup) -> ClientGroup:
    """Return the same clients, each with one request."""
    requests = [group.requests[n % len(group.requests)] for n in range(group.connections)]
    return replace(group, requests=requests, seconds=0.0)


def make_id_requests(path: str, ids: Sequence[str]) -> list[Request]:
    """Return requests for the documents of ``ids``, or one for ``path`` when there are none."""
    noun = path.strip("/")
    return [Request(target=f"{path}?{noun}id={row_id}") for row_id in ids] or [Request(target=path)]


def make_form_request(field: str, value: str, target: str) -> Request:
    """Return a request with a form of one field, as ``curl --data-urlencode`` sends it."""
    return Request(
        target=target,
        method="POST",
        body=f"{field}={quote(value, safe='')}",
        media_type="application/x-www-form-urlencoded",
    )


def make_measurement(
    bench: Bench,
    group: ClientGroup,
    outcome: Outcome,
    usage: ResourceUsage | None,
    *,
    unit: str = "requests",
    each: float = 1,
    floor: float | None = None,
    floor_is: str = "",
    note: str = "",
) -> Measurement:
    """Return the row of an outcome; each answer counts for ``each`` units."""
    count = outcome.answers * each
    return Measurement(
        scenario=group.name,
        unit=unit,
        connections=group.connections,
        processes=bench.servers.count,
        count=count,
        rate=count / outcome.seconds if count else None,
        floor=floor,
        floor_is=floor_is,
        first_byte_ms=outcome.first_byte_ms,
        p50_ms=outcome.p50_ms,
        p95_ms=outcome.p95_ms,
        p99_ms=outcome.p99_ms,
        max_ms=outcome.max_ms,
        peak_mb=usage.peak_mb if usage else None,
        daemon_cpu_s=usage.daemon_cpu_s if usage else None,
        postgres_cpu_s=usage.postgres_cpu_s if usage else None,
        client_cpu_s=outcome.client_cpu_s,
        megabytes=outcome.bytes / 1e6,
        failures=outcome.failures,
        note=note or outcome.failure,
        statuses=outcome.statuses,
    )
