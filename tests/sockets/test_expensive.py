"""Expensive requests, through real sockets: each is refused, and none is parsed by the service.

``python -m benchmarks.attacks`` measures what other clients notice of them.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks.attacks import list_searches, list_submissions
from benchmarks.load import Request
from tests.support.daemon import Daemon, wait_for
from tests.support.keys import Keys
from tests.support.postgres import TestDatabase
from tests.support.submissions import Case, list_parsers, make_action

BODY_BYTES = 100_000


@pytest.fixture
def daemon(database: TestDatabase, tmp_path: Path) -> Iterator[Daemon]:
    running = Daemon(
        *("--database", database.dsn, "--listen", "tcp:0", "--spool", str(tmp_path / "spool")),
        cwd=tmp_path,
    )
    yield running
    running.stop()


def fetch(daemon: Daemon, request: Request) -> tuple[int, str]:
    """Return status and body of an answer."""
    parts = urlsplit(daemon.base)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    headers = {"Content-Type": request.media_type} if request.body else {}
    target = parts.path.rstrip("/") + request.target
    connection.request(request.method, target, request.body.encode(), headers)
    response = connection.getresponse()
    try:
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_every_expensive_action_is_refused(
    daemon: Daemon, keys: Keys, database: TestDatabase
) -> None:
    case = Case(keys, database)
    signed = json.dumps(case.sign_action(make_action()))
    for attack in list_submissions(signed, BODY_BYTES):
        for request in attack.requests:
            status, document = fetch(daemon, request)
            assert status == 400, (attack.name, document)
    assert len(list_parsers(daemon.process.pid)) == 1  # it has parsed one after the other
    assert fetch(daemon, Request(target="/heartbeat"))[0] == 200
    assert "Traceback" not in daemon.log.read_text()


def test_every_expensive_search_is_answered(daemon: Daemon) -> None:
    statuses = {
        attack.name: {fetch(daemon, request)[0] for request in attack.requests}
        for attack in list_searches()
    }
    # the offset of R3 and R5 is beyond the last row
    others = {"R3": 404, "R5": 404, "R6": 400, "R7": 400, "R8": 400}
    assert statuses == {name: {others.get(name, 200)} for name in statuses}


def test_the_parser_of_large_actions_ends_with_a_killed_service(daemon: Daemon) -> None:
    body = json.dumps({"name": "x" * 100_000})
    request = Request(
        target="/action/create/", method="POST", body=body, media_type="application/json"
    )
    assert fetch(daemon, request)[0] == 400
    (parser,) = list_parsers(daemon.process.pid)
    os.kill(daemon.process.pid, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{parser}").exists() or is_zombie(parser))


def is_zombie(process: int) -> bool:
    """Return whether a process has ended, and nobody has asked for its status."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
