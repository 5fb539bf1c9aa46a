"""More connections than the service has file descriptors for."""

from __future__ import annotations

import resource
import socket
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.daemon import Daemon, wait_for
from tests.support.postgres import TestDatabase


def fetch_status(url: str) -> int | None:
    """Return the status, or ``None`` for a connection that was dropped, as in a flood."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return int(answer.status)
    except OSError:
        return None


def test_the_service_answers_after_a_flood_of_connections(
    database: TestDatabase, tmp_path: Path
) -> None:
    daemon = Daemon("--database", database.dsn, "--listen", "tcp:0", cwd=tmp_path)
    try:
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (64, 64))
        address = ("127.0.0.1", urlsplit(daemon.base).port or 0)
        with ExitStack() as flood:
            for _ in range(200):
                flood.enter_context(socket.create_connection(address, timeout=10))
        assert wait_for(lambda: fetch_status(f"{daemon.base}heartbeat")) == 200
        assert fetch_status(f"{daemon.base}dashboard") == 200
        assert "Traceback" not in daemon.log.read_text()
    finally:
        daemon.stop()
