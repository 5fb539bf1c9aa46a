"""A daemon with stalled, slow and idle clients answers small searches, and all who read."""

from __future__ import annotations

import http.client
import json
import re
import resource
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support import fleet
from tests.support.daemon import Daemon
from tests.support.postgres import TestDatabase
from tests.support.properties import REPETITIONS
from tests.support.readers import Reader, ReaderThread

IS_LONG = REPETITIONS > 1
STALLED, SLOW, IDLE = (200, 50, 1000) if IS_LONG else (12, 6, 50)
BYTES_PER_SECOND = 20_480 if IS_LONG else 2_000_000
COMMANDS = 2_600
ITEMS_PER_COMMAND = 5
REPORT = f"/api/v1/search?type=command&report=complianceitems&limit={COMMANDS}&{fleet.ANY_TIME}"
SMALL = f"/api/v1/search?type=agent&limit=2&{fleet.ANY_TIME}"
MAX_MEMORY_KB = 150_000
SPARE_DESCRIPTORS = 500


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Allow as many descriptors as there are clients, also to the daemon."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = STALLED + SLOW + IDLE + SPARE_DESCRIPTORS
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), max(hard, needed)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def read_memory(pid: int, name: str) -> int:
    """Return a figure of a process's memory in kB."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


class SmallSearches:
    """Small searches, one after the other: their statuses and times in seconds."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.statuses: set[int] = set()
        self.times: list[float] = []
        self.is_over = False

    def run(self) -> None:
        while not self.is_over:
            begin = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            connection.request("GET", SMALL, headers={"Host": "localhost"})
            response = connection.getresponse()
            response.read()
            connection.close()
            self.statuses.add(response.status)
            self.times.append(time.monotonic() - begin)
            time.sleep(0.02)


def test_slow_readers_are_served_and_small_searches_do_not_wait(
    large_database: TestDatabase, tmp_path: Path, many_descriptors: None
) -> None:
    daemon = Daemon("--listen", "tcp:0", "--database", large_database.dsn, cwd=tmp_path)
    port = urlsplit(daemon.base).port
    assert port
    slow = [Reader(REPORT, BYTES_PER_SECOND) for _ in range(SLOW)]
    stalled = [Reader(REPORT, 0) for _ in range(STALLED)]
    idle = [Reader("", 0) for _ in range(IDLE)]
    before = read_memory(daemon.process.pid, "VmRSS")
    readers, searches = ReaderThread(port, [*idle, *stalled, *slow]), SmallSearches(port)
    threads = [threading.Thread(target=each.run) for each in (readers, searches)]
    for thread in threads:
        thread.start()
    have_ended = readers.wait_for_slow(COMMANDS * 2_000 / BYTES_PER_SECOND * 2 + 60)
    open_now = sum(reader.status == 200 and not reader.outcome for reader in stalled)
    readers.is_over = searches.is_over = True
    for thread in threads:
        thread.join()
    peak = read_memory(daemon.process.pid, "VmHWM")
    daemon.stop()

    p50, p95 = (statistics.quantiles(searches.times, n=100)[at] for at in (49, 94))
    print(
        f"\n{STALLED} stalled ({open_now} open at the end, {readers.cut} cut),"
        f" {readers.refused} refused at first, {SLOW} slow,"
        f" {IDLE} idle: {len(searches.times)} small searches p50 {p50 * 1000:.0f} ms,"
        f" p95 {p95 * 1000:.0f} ms, max {max(searches.times) * 1000:.0f} ms;"
        f" memory {before / 1000:.0f} MB, at most {peak / 1000:.0f} MB"
    )
    assert searches.statuses == {200}
    assert have_ended and [reader.status for reader in slow] == [200] * SLOW
    for reader in slow:
        collection = json.loads(reader.body)["collection"]
        hrefs = [item["href"] for item in collection["items"]]
        assert len(hrefs) == COMMANDS * ITEMS_PER_COMMAND == len(set(hrefs)) * ITEMS_PER_COMMAND
    if IS_LONG:
        assert peak < MAX_MEMORY_KB
