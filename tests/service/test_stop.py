"""A daemon that stops ends what it has begun, and cuts what takes too long."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support import fleet
from tests.support.daemon import Daemon, wait_for
from tests.support.postgres import TestDatabase, insert_many_commands

REPORT = f"/api/v1/search?type=command&report=complianceitems&limit=1000000&{fleet.ANY_TIME}"
END = b"0\r\n\r\n"
COMMANDS = 6_000  # more than fits into the buffers of a connection


def read_to_end(client: socket.socket) -> bytes:
    """Return all that the client gets, and close it."""
    with client:
        return b"".join(iter(lambda: client.recv(65_536), b""))


class StoppingDaemon:
    """A daemon with a report that a client has begun to read, and does not read on."""

    def __init__(self, database: TestDatabase, folder: Path, grace: str) -> None:
        (folder / "api.cfg").write_text(f"[server]\ngrace = {grace}\n[logging]\nformat = json\n")
        self._database = database
        self._admin = folder / "admin"
        self.daemon = Daemon(
            *("--config", str(folder / "api.cfg"), "--database", database.dsn),
            *("--listen", "tcp:0", "--admin", f"unix:{self._admin}"),
            cwd=folder,
        )
        self._address = ("localhost", urlsplit(self.daemon.base).port)
        self.client = self.connect()
        self.client.sendall(f"GET {REPORT} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        self.received = bytearray(self.client.recv(1000))

    def connect(self) -> socket.socket:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.settimeout(60)
        client.connect(self._address)
        return client

    def stop(self) -> None:
        """Send SIGTERM, and wait until the daemon has begun to stop."""
        self.daemon.process.send_signal(signal.SIGTERM)
        wait_for(lambda: self.find_lines("message", "requests that are being answered: 1;"))

    def find_lines(self, field: str, text: str) -> list[dict[str, str]]:
        """Return the lines of the log with a *text* in a *field*."""
        lines = self.daemon.output.read_text().splitlines()
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [line for line in found if text in line.get(field, "")]

    def wait_for_end(self) -> str:
        """Return how the report has ended, by the log, once the daemon has ended."""
        assert self.daemon.process.wait(60) == -signal.SIGTERM
        [line] = self.find_lines("route", "/search")
        return line["outcome"]

    def read_on(self) -> bytes:
        """Read the report to its end, and return its last bytes; it is reset when it is cut."""
        while data := self.client.recv(1_000_000):
            self.received += data
        return bytes(self.received[-len(END) :])

    def ask_readiness(self) -> tuple[int, dict[str, object]]:
        """Return the answer of the admin listener."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        client.connect(str(self._admin))
        client.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head, _, body = read_to_end(client).partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)

    def count_running(self) -> int:
        """Return how many sessions of the daemon PostgreSQL still has in a transaction."""
        [[count]] = self._database.execute(
            "select count(*) from pg_stat_activity"
            " where application_name like 'mig-api _%' and state <> 'idle'"
        )
        return int(count)


@pytest.fixture
def stopping(
    request: pytest.FixtureRequest, database: TestDatabase, tmp_path: Path
) -> Iterator[StoppingDaemon]:
    insert_many_commands(database, COMMANDS)
    running = StoppingDaemon(database, tmp_path, request.param)
    yield running
    running.client.close()
    if running.daemon.process.poll() is None:
        running.daemon.process.kill()
        running.daemon.process.wait()


@pytest.mark.parametrize("stopping", ["10m"], indirect=True)
def test_a_report_goes_on_while_nothing_new_is_accepted(stopping: StoppingDaemon) -> None:
    """A proxy sees that this daemon is not ready, and an operator why."""
    stopping.stop()
    with pytest.raises(ConnectionRefusedError):
        stopping.connect()
    status, readiness = stopping.ask_readiness()
    assert (status, readiness["status"]) == (503, "failing")
    assert readiness["parts"]["daemon"]["reason"] == "the daemon is stopping"  # type: ignore[index]
    assert stopping.read_on() == END
    assert stopping.wait_for_end() == "complete"
    assert stopping.count_running() == 0


@pytest.mark.parametrize("stopping", ["1s"], indirect=True)
def test_a_report_is_cut_after_the_grace(stopping: StoppingDaemon) -> None:
    stopping.stop()
    assert stopping.wait_for_end() == "stopped"
    with pytest.raises(ConnectionResetError):
        stopping.read_on()
    assert stopping.count_running() == 0


@pytest.mark.parametrize("stopping", ["10m"], indirect=True)
def test_a_second_signal_cuts_at_once(stopping: StoppingDaemon) -> None:
    stopping.stop()
    stopping.daemon.process.send_signal(signal.SIGINT)
    assert stopping.wait_for_end() == "stopped"
    with pytest.raises(ConnectionResetError):
        stopping.read_on()
    assert stopping.count_running() == 0


def test_connections_that_wait_to_be_accepted_are_answered(
    database: TestDatabase, tmp_path: Path
) -> None:
    """Of a socket that no other process shares."""
    daemon = Daemon("--database", database.dsn, "--listen", "tcp:0", cwd=tmp_path)
    address = ("localhost", urlsplit(daemon.base).port)
    daemon.process.send_signal(signal.SIGSTOP)
    clients = [socket.create_connection(address, timeout=60) for _ in range(50)]
    for client in clients:
        client.sendall(b"GET /api/v1/heartbeat HTTP/1.1\r\nHost: localhost\r\n\r\n")
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.send_signal(signal.SIGCONT)
    for client in clients:
        assert read_to_end(client).startswith(b"HTTP/1.1 200")
    assert daemon.process.wait(60) == -signal.SIGTERM
