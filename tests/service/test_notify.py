"""systemd is told when the daemon is ready, alive and stopping."""

from __future__ import annotations

import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from mig.service.notify import SystemdNotifier
from tests.support.daemon import Daemon, run_program, wait_for
from tests.support.postgres import NewDatabase, TestDatabase


class Listener:
    """The socket on which systemd listens."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.setblocking(False)

    def read(self) -> list[str]:
        states = []
        while True:
            try:
                states.append(self._socket.recv(100).decode())
            except BlockingIOError:
                return states

    def wait_for(self, count: int) -> list[str]:
        """Return that many states, or more."""
        states: list[str] = []

        def read() -> bool:
            states.extend(self.read())
            return len(states) >= count

        wait_for(read)
        return states

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    abstract = f"@mig-api-test-{os.getpid()}"
    listener = Listener(str(tmp_path / "n") if request.param == "file" else abstract)
    yield listener
    listener.close()


def test_a_daemon_says_that_it_is_ready_alive_and_stopping(systemd: Listener) -> None:
    clock = Clock()
    notifier = SystemdNotifier(
        clock, {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "30000000"}
    )
    notifier.start()
    assert systemd.read() == ["READY=1", "WATCHDOG=1"]
    clock.advance(15)
    clock.advance(15)
    assert systemd.read() == ["WATCHDOG=1"] * 2
    notifier.stop(90)
    clock.advance(60)
    assert systemd.read() == ["STOPPING=1\nEXTEND_TIMEOUT_USEC=90000000"]


def test_without_a_watchdog_it_gives_no_signs_of_life(systemd: Listener) -> None:
    """Nor when another process is the one that systemd watches."""
    clock = Clock()
    other = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}
    for environment in ({}, other):
        notifier = SystemdNotifier(clock, {"NOTIFY_SOCKET": systemd.address, **environment})
        notifier.start()
        clock.advance(60)
        assert systemd.read() == ["READY=1"]


def test_without_systemd_nothing_is_sent() -> None:
    notifier = SystemdNotifier(Clock(), {"WATCHDOG_USEC": "30000000"})
    notifier.start()
    notifier.stop(90)
    gone = SystemdNotifier(Clock(), {"NOTIFY_SOCKET": "/nonexistent/socket"})
    gone.start()
    gone.stop(90)


def test_the_daemon_is_ready_when_it_accepts_and_says_when_it_stops(
    systemd: Listener, database: TestDatabase, tmp_path: Path
) -> None:
    environment = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "600000000"}
    arguments = ("--database", database.dsn, "--listen", "tcp:0")
    daemon = Daemon(*arguments, cwd=tmp_path, environment=environment)
    assert systemd.wait_for(2) == ["READY=1", "WATCHDOG=1"]
    assert urllib.request.urlopen(f"{daemon.base}heartbeat").status == 200
    daemon.stop()
    assert systemd.read() == ["STOPPING=1\nEXTEND_TIMEOUT_USEC=60000000"]


def test_a_daemon_without_the_schema_is_never_ready(
    systemd: Listener, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = new_database()
    database.execute("alter table commands drop column status")
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.address)
    status, _ = run_program("-n", "mig-api", "--database", database.dsn, "--listen", "tcp:0")
    assert status == 1
    assert systemd.read() == []
