"""What a scenario has at hand, and how an outcome becomes a row."""

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
REPORT: Final = "/search?type=command&{filter}&report=complianceitems&limit=100000000&" + EVERYTHING
FILTERS: Final = {
    "file": "status=success&threatfamily=compliance",
    "mixed": "status=done",
    "distinct": "status=success&threatfamily=compliance",
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A fleet of one kind in a database, a daemon before it, and the bare server beside it."""

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
    """How many daemons, on as many cores, the scenarios of growth compare with one."""
    start_daemons: Callable[[int], Servers]
    """Starts so many daemons on one socket."""
    servers: Servers
    baseline: Servers

    def load_daemons(self, *groups: ClientGroup) -> tuple[list[Outcome], ResourceUsage]:
        """Put the daemons under load."""
        meter = self.servers.start_meter(self.postmaster)
        outcomes = run_load(self.children, self.servers.base, *groups)
        return outcomes, meter.read_usage()

    def warm_up(self, group: ClientGroup) -> Outcome:
        """Ask once on each connection, so that connections to the database are open."""
        [outcome] = run_load(self.children, self.servers.base, _limit_to_one_each(group))
        return outcome

    def measure_baseline_rate(self, path: str, ids: Sequence[str], connections: int) -> float:
        """Requests/s of the bare server."""
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
        """Seconds that psql needs for the rows of a query."""
        return floor.time_copy(self.children, self.psql, self.dsn, query, times=times)

    @property
    def report_request(self) -> Request:
        """The compliance report of the whole fleet."""
        return Request(target=REPORT.format(filter=FILTERS[self.kind]))

    def sample_ids(self, noun: str) -> list[str]:
        """Ids of rows all over the fleet; none for what has none."""
        if noun == "investigator":
            return [str(n) for n in range(1, fleet.INVESTIGATORS + 1)]
        rows = {"action": self.size.actions, "agent": self.size.agents}
        rows["command"] = self.size.commands
        if noun not in rows:
            return []
        return [str(fleet.FIRST_ID + fleet.hash_number(n) % rows[noun]) for n in range(SAMPLE)]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """*measure* gives the rows of one run; one that *signs* needs investigators.

    *fresh* daemons have not been made large by the scenarios before: where memory counts.
    """

    name: str
    about: str
    kind: str
    measure: Callable[[Bench], list[Measurement]]
    fresh: bool = False
    signs: bool = False


def _limit_to_one_each(group: ClientGroup) -> ClientGroup:
    """The same clients, each with one request."""
    requests = [group.requests[n % len(group.requests)] for n in range(group.connections)]
    return replace(group, requests=requests, seconds=0.0)


def make_id_requests(path: str, ids: Sequence[str]) -> list[Request]:
    """Requests for the documents of *ids*; one for the path alone when there are none."""
    noun = path.strip("/")
    return [Request(target=f"{path}?{noun}id={row_id}") for row_id in ids] or [Request(target=path)]


def make_form_request(field: str, value: str, target: str) -> Request:
    """A form with one field, as ``curl --data-urlencode`` sends it."""
    return Request(
        target=target,
        method="POST",
        body=f"{field}={quote(value, safe='')}",
        media_type="application/x-www-form-urlencoded",
    )


def make_measurement(
    bench: Bench,
    group: ClientGroup,
    seen: Outcome,
    used: ResourceUsage | None,
    *,
    unit: str = "requests",
    each: float = 1,
    floor: float | None = None,
    floor_is: str = "",
    note: str = "",
) -> Measurement:
    """The row of an outcome; an answer counts *each* units."""
    count = seen.answers * each
    return Measurement(
        scenario=group.name,
        unit=unit,
        connections=group.connections,
        processes=bench.servers.count,
        count=count,
        rate=count / seen.seconds if count else None,
        floor=floor,
        floor_is=floor_is,
        first_byte_ms=seen.first_byte_ms,
        p50_ms=seen.p50_ms,
        p95_ms=seen.p95_ms,
        p99_ms=seen.p99_ms,
        max_ms=seen.max_ms,
        peak_mb=used.peak_mb if used else None,
        daemon_cpu_s=used.daemon_cpu_s if used else None,
        postgres_cpu_s=used.postgres_cpu_s if used else None,
        client_cpu_s=seen.client_cpu_s,
        megabytes=seen.bytes / 1e6,
        failures=seen.failures,
        note=note or seen.failure,
        statuses=seen.statuses,
    )
