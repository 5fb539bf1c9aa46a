"""The lines of the log: text for people, or JSON for programs."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from twisted.logger import Logger
from twisted.python.failure import Failure

from mig.access.caller import Caller
from mig.account import Account
from mig.model.permissions import ALL_PERMISSIONS
from mig.service import log_lines, logs
from mig.service.config_file import Logging
from mig.service.log_lines import LineFormat
from tests.support.reactor import record_log
from tests.support.request_events import make_request_ended

EVIL = "\n\r\x1b[2J\u202e\x85\u2028"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"

make_heartbeat = partial(make_request_ended, uri=b"/api/v1/heartbeat", route="/heartbeat")


def test_each_request_is_logged_in_one_line() -> None:
    event = make_request_ended(
        uri=b"/search?{\xff\n",
        status=400,
        seconds=0.0125,
        rows=3,
        sent_bytes=99,
        outcome="refused: " + "{x}" * 1000,
    )
    with record_log() as log:
        LineFormat().log_request(event)
    [line] = log.lines
    head = "17 127.0.0.1 - GET /search?{\\xff\\n 400 0.013s 3 rows 99 bytes: refused: {x}{x}"
    assert line.startswith(head), line
    assert len(line) == len(head) - len("refused: {x}{x}") + log_lines.MAX_OUTCOME_CHARACTERS


def test_nobody_can_write_a_line_of_their_own_into_the_log() -> None:
    """Whatever is in a name, a method, a path or a message, it is escaped and cut."""
    caller = Caller(name=EVIL + "x" * 100_000, permissions=ALL_PERMISSIONS, investigator_id=7)
    event = make_request_ended(
        caller=caller.label,
        method=EVIL.encode(),
        uri=f"/{EVIL}".encode(),
        outcome=f"refused: {EVIL}" + "x" * 100_000,
    )
    with record_log() as log:
        LineFormat().log_request(event)
    [line] = log.lines
    assert line.isascii() and line.isprintable() and len(line) < 1_000
    assert "x/7 \\n\\r\\x1b[2J" in line


def test_no_line_has_credentials_of_a_query() -> None:
    """None are accepted there, but a client may send them all the same."""
    uri = b"/search?type=agent&apikey=s3cret&X-MIGAPIKEY=s3cret&Access_Token=s3cret;1&limit=1"
    event = make_request_ended(uri=uri)
    with record_log() as log:
        LineFormat().log_request(event)
    path = json.loads(log_as_json(lambda lines: lines.log_request(event)))["path"]
    assert path == "/search?type=agent&apikey=***&X-MIGAPIKEY=***&Access_Token=***&limit=1"
    assert f" {path} " in log.lines[0]


def test_successful_heartbeats_are_logged_only_on_demand() -> None:
    events = [
        make_heartbeat(),
        make_heartbeat(status=400, outcome="refused: it has a parameter"),
        make_heartbeat(outcome="client left"),
        make_heartbeat(method=b"HEAD"),
        make_heartbeat(route="/"),
    ]
    counts = []
    for logging in (Logging(), Logging(heartbeat=True)):
        with record_log() as log:
            for event in events:
                logs.Log().make_access_logger(logging)(event)
        counts.append(len(log.lines))
    assert counts == [len(events) - 1, len(events)]


def log_as_json(logged: Callable[[LineFormat], object]) -> str:
    """Return the one line in JSON of what is logged."""
    lines = LineFormat("json")
    with record_log() as log:
        logged(lines)
    [event] = log.events
    line = lines.format_line(event)
    assert line is not None and line.endswith("\n")
    return line[:-1]


def test_the_line_of_a_request_is_a_flat_object() -> None:
    event = make_request_ended(
        caller="alice/7", route="/search", uri=b"/api/v1/search?type=agent", trace=TRACE
    )
    entry = json.loads(log_as_json(lambda lines: lines.log_request(event)))
    assert re.fullmatch(r"[0-9-]{10}T[0-9:]{8}\.[0-9]{3}Z", entry.pop("time"))
    assert list(entry.items()) == [
        ("level", "info"),
        ("operation", "17"),
        ("caller", "alice/7"),
        ("client", "127.0.0.1"),
        ("method", "GET"),
        ("route", "/search"),
        ("path", "/api/v1/search?type=agent"),
        ("status", 200),
        ("seconds", 0.0),
        ("rows", 0),
        ("bytes", 0),
        ("outcome", "complete"),
        ("trace", TRACE),
    ]


def test_any_other_line_is_an_object_with_a_message() -> None:
    log = Logger(namespace="test")
    warned = log_as_json(lambda _: log.warn("{operation} and {what}", operation="17", what=EVIL))
    entry = json.loads(warned)
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "warning",
        "operation": "17",
        "logger": "test",
        "message": f"17 and {EVIL}",
    }
    failed = log_as_json(lambda _: log.failure("it failed", Failure(ValueError("why"))))
    assert "ValueError: why" in json.loads(failed)["message"]
    for line in (warned, failed):
        assert line.isascii() and line.isprintable()


def test_nobody_can_write_a_line_in_json_of_their_own() -> None:
    caller = Caller(name=EVIL, permissions=ALL_PERMISSIONS, investigator_id=7)
    event = make_request_ended(
        caller=caller.label, method=EVIL.encode(), uri=b'"}\n{"', outcome=EVIL
    )
    line = log_as_json(lambda lines: lines.log_request(event))
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["outcome"] == "\\n\\r\\x1b[2J\\u202e\\x85\\u2028"


def test_a_log_server_gets_objects_that_are_whole(tmp_path: Path) -> None:
    """A message that is too long for it is cut within its longest text."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(tmp_path / "log"))
    server.settimeout(10)
    logging = Logging(mode="syslog", protocol="unix", format="json")
    log = logs.configure_log(
        logging, {"nodaemon": True}, Account.of_process(), syslog_socket=tmp_path / "log"
    )
    assert log.observer is not None and log.lines is not None
    with record_log() as recorded:
        log.lines.log_request(make_request_ended(uri=b"\xff" * 20_000, method=b"\xff" * 20_000))
        Logger().error("x" * 100_000)
    for event in recorded.events:
        log.observer(event)
        datagram = server.recv(99_999)
        assert 2_000 < len(datagram) <= logs.MAX_DATAGRAM_BYTES
        assert json.loads(datagram.partition(b": ")[2])["time"]
    server.close()
