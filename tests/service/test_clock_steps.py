"""The wall clock may step while the service runs: timers go on, and validity follows the clock."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit

import pytest

from tests.support import fleet
from tests.support.daemon import Daemon, wait_for
from tests.support.keys import Keys
from tests.support.postgres import MANY_COMMANDS, TestDatabase
from tests.support.stepped_clock import DAY, HOUR, SteppedClock
from tests.support.submissions import Case, make_action

REPORT = f"search?type=command&report=complianceitems&limit=100000&{fleet.ANY_TIME}"


class Service:
    """A daemon on a database, whose wall clock the test steps."""

    def __init__(self, dsn: str, folder: Path, config: str) -> None:
        self.clock = SteppedClock(folder)
        self.spool = folder / "spool"
        (folder / "api.cfg").write_text(config)
        self.daemon = Daemon(
            *("--config", "api.cfg", "--database", dsn),
            *("--listen", "tcp:0", "--spool", str(self.spool)),
            cwd=folder,
            environment=self.clock.environment,
        )
        self.base = self.daemon.base

    def connect(self, request: str = "") -> socket.socket:
        """Return a connection on which *request* was sent."""
        url = urlsplit(self.base)
        client = socket.create_connection((url.hostname, url.port or 0), timeout=60)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(request.encode())
        return client

    def wait_until_idle(self) -> None:
        """Return after the daemon has handled what was sent, and has run what is due."""
        for _ in range(3):  # a turn of the reactor runs timers before it handles requests
            urllib.request.urlopen(f"{self.base}heartbeat").read()

    def post(self, action: str) -> int:
        url = f"{self.base}action/create/"
        try:
            with urllib.request.urlopen(url, urlencode({"action": action}).encode()) as answer:
                return int(answer.status)
        except HTTPError as refusal:
            assert refusal.code != 400 or b"expireafter" in refusal.read()
            return refusal.code

    def read_times(self) -> tuple[datetime, datetime]:
        """Return the header Date, and the start of the default search window."""
        with urllib.request.urlopen(f"{self.base}search?type=agent") as answer:
            date = parsedate_to_datetime(answer.headers["Date"])
            [item] = json.load(answer)["collection"]["items"]
        [values] = [d["value"] for d in item["data"] if d["name"] == "search parameters"]
        return date, datetime.fromisoformat(values["after"])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    started: list[Service] = []

    def start_service(database: TestDatabase, config: str = "") -> Service:
        started.append(Service(database.dsn, tmp_path, config))
        return started[-1]

    yield start_service
    for service in started:
        service.daemon.stop()


@pytest.mark.parametrize("step", [DAY, -HOUR])
def test_a_step_of_the_clock_cuts_no_stream(
    step: int, start: Callable[..., Service], large_database: TestDatabase
) -> None:
    """Its client has paused, so that every deadline of a stream runs during the step."""
    service = start(large_database)
    host = urlsplit(service.base).netloc
    path = urlsplit(service.base).path + REPORT
    head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    with service.connect(head) as client:
        received = bytearray(client.recv(65536))
        service.clock.step(step)
        service.wait_until_idle()
        while data := client.recv(1_048_576):
            received += data
    assert received.count(b'"name":"compliance item"') == MANY_COMMANDS * 5
    assert received.endswith(b"0\r\n\r\n")


def test_the_outbox_polls_and_validity_follows_after_a_step_back(
    start: Callable[..., Service], database: TestDatabase, keys: Keys
) -> None:
    service = start(database)
    expires = datetime.now(UTC) + timedelta(hours=12)
    action = make_action(expireafter=expires.strftime("%Y-%m-%dT%H:%M:%SZ"))
    signed = json.dumps(Case(keys, database).sign_action(action))

    service.clock.step(DAY)
    assert service.post(signed) == 400
    date, after = service.read_times()
    service.clock.step(0)
    assert service.post(signed) == 202
    service.clock.step(-HOUR)
    earlier_date, earlier_after = service.read_times()
    minute = timedelta(minutes=1)
    assert abs(date - earlier_date - timedelta(hours=25)) < minute
    assert abs(after - earlier_after - timedelta(hours=25)) < minute

    [file] = (service.spool / "action" / "new").iterdir()
    document = file.read_text()
    file.unlink()
    database.execute("delete from submissions")  # and put the action back into the outbox
    database.execute(
        "insert into submissions (identity, actionid, document) select 'new', id, %s from actions",
        (document,),
    )
    wait_for(file.exists)


def test_a_client_without_headers_is_cut_after_a_step_back(
    start: Callable[..., Service], database: TestDatabase
) -> None:
    """It waits for the real deadline, which a step must not move by an hour."""
    service = start(database, "[limits]\nheader_seconds = 3s\n")
    with service.connect("GET / HTTP/1.1\r\n") as client:
        service.wait_until_idle()
        service.clock.step(-HOUR)
        assert client.recv(65536).startswith(b"HTTP/1.1 408 ")
