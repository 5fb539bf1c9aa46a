"""Each daemon has limits of its own, which SIGHUP loads again."""

from __future__ import annotations

import http.client
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.daemon import Daemon, wait_for
from tests.support.postgres import TestDatabase

CONFIGURATION = """
[server]
clientpublicip = x-forwarded-for:0
[limits]
loopback = {loopback}
rate = 0.01
burst = {burst}
"""
ADDRESS = "192.0.2.1"


class LimitedDaemon:
    """A daemon whose limits a test changes."""

    def __init__(self, database: TestDatabase, folder: Path) -> None:
        folder.mkdir()
        self._file = folder / "api.cfg"
        self.configure(3)
        arguments = ("--config", str(self._file), "--database", database.dsn, "--listen", "tcp:0")
        self._daemon = Daemon(*arguments, cwd=folder)
        self.stop = self._daemon.stop
        url = urlsplit(self._daemon.base)
        self._connection = http.client.HTTPConnection("127.0.0.1", url.port or 0, timeout=30)

    def configure(self, burst: int | str, *, loopback: str = "off") -> None:
        self._file.write_text(CONFIGURATION.format(burst=burst, loopback=loopback))

    def reload(self, said: str) -> list[str]:
        """Send SIGHUP, wait until the log says *said*, and return its lines since before."""
        before = len(self._daemon.log.read_text())
        self._daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: said in self._daemon.log.read_text()[before:])
        return self._daemon.log.read_text()[before:].splitlines()

    def get_statuses(self, count: int, address: str = ADDRESS) -> list[int]:
        """Return the statuses of *count* requests of a client."""
        return [self.get(address).status for _ in range(count)]

    def get(self, address: str) -> http.client.HTTPResponse:
        self._connection.request("GET", "/api/v1/ip", headers={"X-Forwarded-For": address})
        response = self._connection.getresponse()
        response.read()
        return response


@pytest.fixture
def daemons(database: TestDatabase, tmp_path: Path) -> Iterator[list[LimitedDaemon]]:
    running: list[LimitedDaemon] = []
    try:
        for name in ("first", "second"):
            running.append(LimitedDaemon(database, tmp_path / name))
        yield running
    finally:
        for daemon in running:
            daemon.stop()


def test_two_daemons_count_apart_and_load_their_limits_again(daemons: list[LimitedDaemon]) -> None:
    """A client that uses both may send twice as much; a wrong file changes nothing."""
    first, second = daemons
    assert first.get_statuses(5) == second.get_statuses(5) == [200] * 3 + [429] * 2
    refused = first.get(ADDRESS)
    assert refused.headers["Retry-After"] == "100"
    assert refused.headers["RateLimit-Policy"] == '"address";q=3;w=300'
    assert refused.headers["RateLimit"] == '"address";r=0;t=100'
    assert first.get_statuses(5, "2001:db8::1") == [200] * 3 + [429] * 2
    assert first.get_statuses(1, "2001:db8::2") == [429]
    assert first.get_statuses(5, "127.0.0.1") == [200] * 5

    first.configure(5, loopback="on")
    [line] = first.reload("loaded from")
    assert line.endswith("api.cfg: [limits] burst, [limits] loopback")
    assert first.get_statuses(3) == [200] * 2 + [429]
    assert first.get_statuses(6, "127.0.0.1") == [200] * 5 + [429]
    first.configure("many\nstall_second = 5s")
    [line] = first.reload("not loaded")
    assert "[limits] burst must be a whole number from 1 to 1000000" in line
    assert "[limits] stall_second is not a key: did you mean stall_seconds?" in line
    assert first.get_statuses(1) == [429]
    assert second.get_statuses(1) == [429]
