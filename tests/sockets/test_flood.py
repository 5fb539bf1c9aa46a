"""More connections than the service has file descriptors for."""

from __future__ import annotations

import resource
import socket
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from tests.conftest import TestDatabase
from tests.service.test_start import Daemon


def test_a_flood_of_connections_ends_and_the_service_answers(
    database: TestDatabase, tmp_path: Path
) -> None:
    daemon = Daemon("--database", database.dsn, "--listen", "tcp:0", cwd=tmp_path)
    try:
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (64, 64))
        address = ("127.0.0.1", urlsplit(daemon.base).port or 0)
        with ExitStack() as flood:
            for _ in range(200):
                flood.enter_context(socket.create_connection(address, timeout=10))
        with urllib.request.urlopen(f"{daemon.base}heartbeat", timeout=30) as answer:
            assert answer.status == 200
        with urllib.request.urlopen(f"{daemon.base}dashboard", timeout=30) as answer:
            assert answer.status == 200
        assert "Traceback" not in daemon.log.read_text()
    finally:
        daemon.stop()
