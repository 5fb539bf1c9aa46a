"""After a mixed load, metrics and log say what the clients have seen."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import fleet
from tests.support.admin import ask_admin
from tests.support.callers import add_api_key, add_investigator, with_key
from tests.support.daemon import Daemon, wait_for
from tests.support.postgres import TestDatabase, hold_transaction

COMMANDS = 30
HITS = 3
ITEMS = COMMANDS * HITS
EACH = 10
ANY = f"limit=1000&{fleet.ANY_TIME}"
REPORT = f"/search?type=command&report=complianceitems&{ANY}"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request, and what it must add to the metrics; ``method_label`` is that of its method."""

    path: str
    route: str
    status: int = 200
    method: str = "GET"
    method_label: str = ""
    rows: int = 0
    items: int = 0
    key: bool = True


CASES = [
    Case(path="/heartbeat", route="/heartbeat"),
    Case(path="/heartbeat", route="/heartbeat", method="HEAD"),
    Case(path="/readyz", route="/readyz"),
    Case(path="/", route="/"),
    Case(path="/agent?agentid=1", route="/agent", rows=1),
    Case(path="/agent?agentid=99", route="/agent", status=404),
    Case(path="/agent?agentid=x", route="/agent", status=400),
    Case(path=f"/search?type=agent&{ANY}", route="/search", rows=1),
    Case(path=f"/search?type=command&{ANY}", route="/search", rows=COMMANDS),
    Case(path=f"{REPORT}", route="/search", rows=COMMANDS, items=ITEMS),
    Case(path=f"{REPORT}&format=ndjson", route="/search", rows=COMMANDS, items=ITEMS),
    Case(path=f"{REPORT}&format=csv", route="/search", rows=COMMANDS, items=ITEMS),
    Case(path=f"{REPORT}&compliance=false", route="/search", rows=COMMANDS),
    Case(path="/no/such/path", route="none", status=404),
    Case(path="/agent", route="none", method="BREW", method_label="other", status=405),
    Case(path="/agent?agentid=1", route="/agent", status=401, key=False),
]


class Answered(NamedTuple):
    """What a client has seen of an answer: its operation id, and how long its body is."""

    operation: str
    length: int


class Service:
    """A daemon that requires credentials and logs in JSON, and a client of it."""

    def __init__(self, database: TestDatabase, folder: Path) -> None:
        fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1)])
        fleet.insert_rows(database.dsn, "actions", [fleet.make_action(1)])
        results = fleet.make_results(*(fleet.make_hit(f"/etc/{n}") for n in range(HITS)))
        commands = [fleet.make_command(n, 1, 1, results=results) for n in range(1, COMMANDS + 1)]
        fleet.insert_rows(database.dsn, "commands", commands)
        self._key = with_key(add_api_key(database, add_investigator(database)))
        (folder / "api.cfg").write_text("[logging]\nformat = json\nheartbeat = on\n")
        self._admin = folder / "admin"
        self.daemon = Daemon(
            *("--config", str(folder / "api.cfg"), "--database", database.dsn),
            *("--listen", "tcp:0", "--admin", f"unix:{self._admin}", "--authentication", "on"),
            cwd=folder,
        )

    def send(self, case: Case) -> Answered:
        """Send the request of *case*, and check its status."""
        headers = {**(self._key if case.key else {"X-MIGAPIKEY": "wrong"}), "Accept": "*/*"}
        url = self.daemon.base.rstrip("/") + case.path
        request = urllib.request.Request(url, headers=headers, method=case.method)
        try:
            answer = urllib.request.urlopen(request)
        except HTTPError as error:
            answer = error
        with answer:
            assert answer.status == case.status, case
            return Answered(answer.headers["X-Request-Id"], len(answer.read()))

    def cut_report(self) -> None:
        """Ask for a report, and leave."""
        address = urlsplit(self.daemon.base)
        with socket.create_connection((address.hostname, address.port), timeout=60) as client:
            [(name, value)] = self._key.items()
            lines = [
                f"GET {address.path.rstrip('/')}{REPORT} HTTP/1.1",
                f"Host: localhost\r\n{name}: {value}",
                f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01",
            ]
            client.sendall("\r\n".join([*lines, "", ""]).encode())

    def read_metrics(self) -> dict[tuple[str, ...], float]:
        """Return each counter by its name and the values of its labels, which are sorted."""
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(ask_admin(self._admin, "/metrics").body)
            for sample in family.samples
        }

    def read_requests(self) -> list[dict[str, object]]:
        """Return the lines of the log about requests."""
        lines = map(json.loads, self.daemon.output.read_text().splitlines())
        return [line for line in lines if "route" in line]

    def find_requests(self, trace: str) -> list[dict[str, object]]:
        """Return the lines of the requests of a trace."""
        return [line for line in self.read_requests() if line["trace"] == trace]


@pytest.fixture
def service(database: TestDatabase, tmp_path: Path) -> Iterator[Service]:
    running = Service(database, tmp_path)
    yield running
    running.daemon.stop()


def count_expected(cases: Sequence[Case]) -> Counter[tuple[str, ...]]:
    """Return what *cases* add to the counters that do not depend on the documents."""
    expected: Counter[tuple[str, ...]] = Counter()
    for case in cases:
        method = case.method_label or case.method
        expected["migapi_requests_total", method, case.route, str(case.status)] += 1
        expected["migapi_request_seconds_count", case.route] += 1
        expected["migapi_rows_total",] += case.rows
        expected["migapi_items_total",] += case.items
        expected["migapi_authentication_failures_total", "api_key"] += case.status == 401
    return expected


def test_metrics_and_log_are_what_clients_have_counted(
    service: Service, database: TestDatabase
) -> None:
    cases = CASES * EACH
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(service.send, cases))
    expected = count_expected(cases)
    expected["migapi_sent_bytes_total",] = sum(answer.length for answer in answers)
    metrics = service.read_metrics()
    assert {name: metrics[name] for name in expected} == dict(expected)
    assert sum(v for name, v in metrics.items() if name[0] == "migapi_requests_total") == len(cases)
    assert not any(v for name, v in metrics.items() if name[0] == "migapi_streams_cut_total")
    logged = {line["operation"]: line for line in service.read_requests()}
    assert len(logged) == len(cases)
    for case, answer in zip(cases, answers, strict=True):
        line = logged[answer.operation]
        assert (line["status"], line["rows"], line["bytes"]) == (
            case.status,
            case.rows,
            answer.length,
        )
    check_report_that_is_cut(service, database)


def check_report_that_is_cut(service: Service, database: TestDatabase) -> None:
    """Check that a client who leaves is counted as it is logged."""
    before = service.read_metrics()
    with hold_transaction(database, "lock table commands"):
        service.cut_report()
        [line] = wait_for(lambda: service.find_requests(TRACE))
    after = service.read_metrics()
    assert line["outcome"] == "client left"
    assert after["migapi_streams_cut_total", "client_left"] == 1
    for name, field in (("migapi_rows_total", "rows"), ("migapi_sent_bytes_total", "bytes")):
        assert after[name,] - before[name,] == line[field]
