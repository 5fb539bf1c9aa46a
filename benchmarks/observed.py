"""What it costs to watch the daemon: it logs in JSON, and is asked for its metrics every second."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.bench import ITEM, Bench, Scenario, make_id_requests, make_measurement
from benchmarks.load import ClientGroup
from benchmarks.measurements import Measurement
from benchmarks.servers import Servers

REPORTS: Final = 3
CONNECTIONS: Final = 16
SCRAPE_SECONDS: Final = 1.0
REQUEST: Final = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

_pairs = itertools.count()


def _read_metrics(admin: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(admin))
        connection.sendall(REQUEST)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


@contextmanager
def _scrape(admin: Path) -> Iterator[None]:
    """Ask for the metrics every second during the block, as Prometheus does less often."""
    if b"migapi_items_total" not in _read_metrics(admin):
        raise RuntimeError("the daemon has no metrics")
    ended = threading.Event()

    def read_until_ended() -> None:
        while not ended.wait(SCRAPE_SECONDS):
            _read_metrics(admin)

    thread = threading.Thread(target=read_until_ended)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _measure_pair(make_group: Callable[[Bench], ClientGroup], bench: Bench) -> list[Measurement]:
    """Measure a plain daemon and an observed one, each first in every second run."""
    with (
        bench.start_daemons(1) as plain,
        bench.start_observed_daemon() as observed,
        _scrape(bench.admin_socket),
    ):
        order = ["plain", "observed"]
        if next(_pairs) % 2:
            order.reverse()
        servers = {"plain": plain, "observed": observed}
        rows = {name: _measure_once(make_group, name, servers[name], bench) for name in order}
    return [
        rows["plain"],
        replace(rows["observed"], note=_compare(rows["plain"], rows["observed"])),
    ]


def _compare(plain: Measurement, observed: Measurement) -> str:
    """Return how much more time, and processor time, an answer of the observed daemon takes."""
    time = (plain.rate or 0) / (observed.rate or 1)
    used = [(row.daemon_cpu_s or 0) / (row.count or 1) for row in (plain, observed)]
    return f"{100 * (time - 1):+.1f} % time, {100 * (used[1] / used[0] - 1):+.1f} % CPU"


def _measure_once(
    make_group: Callable[[Bench], ClientGroup], name: str, servers: Servers, bench: Bench
) -> Measurement:
    measured = replace(bench, servers=servers)
    group = make_group(bench)
    group = replace(group, name=f"{group.name}-{name}")
    first = measured.warm_up(group)
    [outcome], usage = measured.load_daemons(group)
    unit, each = ("items", first.found) if first.found else ("requests", 1)
    return make_measurement(measured, group, outcome, usage, unit=unit, each=each)


def _make_report_group(bench: Bench) -> ClientGroup:
    requests = [bench.report_request] * REPORTS
    return ClientGroup(name="report-file", requests=requests, needle=ITEM)


def _make_agent_group(bench: Bench) -> ClientGroup:
    requests = make_id_requests("/agent", bench.sample_ids("agent"))
    return ClientGroup(
        name="get-agent", requests=requests, connections=CONNECTIONS, seconds=bench.seconds
    )


OBSERVED_SCENARIOS: Final = (
    Scenario(
        name="observed-report",
        about="a report with JSON logs and metrics that are read every second, and without",
        kind="file",
        measure=partial(_measure_pair, _make_report_group),
    ),
    Scenario(
        name="observed-agent",
        about=f"GET /agent by id on {CONNECTIONS} connections, in the same way",
        kind="file",
        measure=partial(_measure_pair, _make_agent_group),
    ),
)
