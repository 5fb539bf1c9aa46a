"""More connections than the service has file descriptors for."""

from __future__ import annotations

import http.client
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mig.limits import Limits
from mig.service.descriptors import MIN_CONNECTIONS, count_needed_descriptors
from tests.support.daemon import TWISTD, Daemon, run_program, wait_for
from tests.support.postgres import TestDatabase
from tests.support.properties import REPETITIONS
from tests.support.site_client import CREATE, FORM, build_post_head

FLOOD = 1200
OPEN_FILES = max(256, count_needed_descriptors(Limits(), 1) + 100)
"""The limit of the daemon; each core may run a gpg, so 256 are too few for many cores."""
BOB = "127.0.0.2"
"""Another address than that of the flood."""


@pytest.fixture(autouse=True)
def open_files() -> Iterator[None]:
    """Allow this process as many open files as the system lets it have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def daemon(database: TestDatabase, tmp_path: Path) -> Iterator[Daemon]:
    """Return a daemon with few descriptors."""
    running = Daemon(
        *("--database", database.dsn, "--listen", "tcp:0"),
        cwd=tmp_path,
        program=("prlimit", f"--nofile={OPEN_FILES}:{OPEN_FILES}", *TWISTD),
    )
    yield running
    running.stop()


def find_address(daemon: Daemon) -> tuple[str, int]:
    return "127.0.0.1", urlsplit(daemon.base).port or 0


def connect_as_bob(daemon: Daemon) -> http.client.HTTPConnection:
    host, port = find_address(daemon)
    return http.client.HTTPConnection(host, port, timeout=30, source_address=(BOB, 0))


def fetch_status(connection: http.client.HTTPConnection, path: str = "dashboard") -> int | None:
    """Return the status, or ``None`` for a connection that was dropped, as in a flood."""
    try:
        connection.request("GET", f"/api/v1/{path}")
        with connection.getresponse() as answer:
            answer.read()
            return answer.status
    except (OSError, http.client.HTTPException):
        return None


def fetch_status_once(daemon: Daemon, path: str = "dashboard") -> int | None:
    """Return the status of a request on a connection of its own."""
    with closing(connect_as_bob(daemon)) as connection:
        return fetch_status(connection, path)


def list_other_lines(daemon: Daemon) -> list[str]:
    """Return the lines of the log that are not about a request."""
    return [line for line in daemon.log.read_text().splitlines() if " /api/v1/" not in line]


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /api/v1/ HT", build_post_head(CREATE, FORM, "Content-Length: 900") + b"action="],
    ids=["idle", "incomplete headers", "incomplete bodies"],
)
def test_a_flood_of_connections_keeps_nobody_out(daemon: Daemon, sent: bytes) -> None:
    before = len(list_other_lines(daemon))
    with ExitStack() as stack:
        kept = stack.enter_context(closing(connect_as_bob(daemon)))
        for number in range(FLOOD * min(REPETITIONS, 10)):
            if number % FLOOD == 0:
                flood = stack.enter_context(ExitStack())
            client = flood.enter_context(socket.create_connection(find_address(daemon), 30))
            client.sendall(sent.replace(b"mig.example", b"localhost"))
            if number % 50 == 0:
                assert fetch_status(kept) == 200
                assert fetch_status_once(daemon) == 200
            if number % FLOOD == FLOOD - 1:
                flood.close()
    added = list_other_lines(daemon)[before:]
    assert 1 <= len(added) <= 10 + REPETITIONS, added
    assert "open connections is reached" in "".join(added)


def test_the_service_answers_when_its_limit_of_open_files_is_lowered(daemon: Daemon) -> None:
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (64, 64))
    with ExitStack() as flood:
        for _ in range(200):
            flood.enter_context(socket.create_connection(find_address(daemon), timeout=30))
        assert wait_for(lambda: fetch_status_once(daemon)) == 200
    assert wait_for(lambda: fetch_status_once(daemon, "heartbeat")) == 200
    assert "Traceback" not in daemon.log.read_text()
    assert len(list_other_lines(daemon)) < 20


def test_a_service_with_too_few_descriptors_does_not_start(database: TestDatabase) -> None:
    needed = count_needed_descriptors(Limits(), 1) + MIN_CONNECTIONS
    status, output = run_program(
        *(f"--nofile={needed}:{needed}", str(TWISTD[0]), "-n", "mig-api"),
        *("--database", database.dsn, "--listen", "tcp:0"),
        program="/usr/bin/prlimit",
    )
    assert status == 1
    assert f"the limit of open files is {needed}, and at least" in output
    assert "LimitNOFILE= in the unit" in output
