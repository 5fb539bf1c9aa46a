"""The admin listener of a daemon: health, version and metrics for operators."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mig import __version__
from tests.support.daemon import Daemon, run_program, wait_for
from tests.support.postgres import TestDatabase

ROOT = Path(__file__).parents[2]


class Answered(NamedTuple):
    status: int
    body: str


def ask(path: Path, target: str, host: str = "localhost") -> Answered:
    """Return the answer of the admin listener on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        connection.sendall(
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        received = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    head, _, body = received.partition("\r\n\r\n")
    return Answered(int(head.split()[1]), body)


@pytest.fixture
def daemon(database: TestDatabase, tmp_path: Path) -> Iterator[Daemon]:
    started = Daemon(
        *("--database", database.dsn, "--listen", "tcp:0", "--spool", str(tmp_path / "spool")),
        *("--admin", f"unix:{tmp_path / 'admin'}"),
        cwd=tmp_path,
    )
    yield started
    started.stop()


def test_an_operator_can_ask_for_health_version_and_metrics(daemon: Daemon, tmp_path: Path) -> None:
    admin = tmp_path / "admin"
    assert admin.stat().st_mode & 0o777 == 0o660
    assert ask(admin, "/healthz") == (200, "ok\n")
    version = ask(admin, "/version")
    assert (version.status, json.loads(version.body)) == (200, {"version": __version__})
    ready = ask(admin, "/readyz")
    readiness = json.loads(ready.body)
    assert (ready.status, readiness["status"]) == (200, "ok")
    assert set(readiness["parts"]) == {"database", "handoff", "gpg"}
    metrics = ask(admin, "/metrics")
    names = {family.name for family in text_string_to_metric_families(metrics.body)}
    assert {"migapi_requests", "migapi_outbox_waiting", "migapi_pool_connections"} <= names
    assert ask(admin, "/readyz", host="evil.example").status == 400
    assert ask(admin, "/api/v1/").status == 404


def test_a_part_that_is_not_essential_degrades_the_service(daemon: Daemon, tmp_path: Path) -> None:
    """A load balancer goes on; an operator sees which part, and why."""
    admin, spool = tmp_path / "admin", tmp_path / "spool"
    spool.rename(tmp_path / "gone")

    def find_reason() -> str | None:
        parts = json.loads(ask(admin, "/readyz").body)["parts"]
        reason: str | None = parts["handoff"]["reason"]
        return reason

    assert "cannot be used: No such file or directory" in wait_for(find_reason)
    ready = ask(admin, "/readyz")
    assert (ready.status, json.loads(ready.body)["status"]) == (200, "degraded")


@pytest.mark.parametrize(
    "listen", ["tcp:1665:interface=0.0.0.0", "tcp6:1665:interface=\\:\\:", "ssl:1665:certKey=x"]
)
def test_other_machines_cannot_reach_it(
    database: TestDatabase, tmp_path: Path, listen: str
) -> None:
    """Such a listener is refused, and nothing is bound."""
    status, said = run_program(
        *("-n", "mig-api", "--database", database.dsn, "--listen", f"unix:{tmp_path / 's'}"),
        *("--admin", listen),
    )
    assert status != 0
    assert "--admin: " in said
    assert not (tmp_path / "s").exists()


def test_the_dashboard_and_the_alerts_name_metrics_that_exist(
    daemon: Daemon, tmp_path: Path
) -> None:
    served = ask(tmp_path / "admin", "/metrics").body
    known = {
        sample.name
        for family in text_string_to_metric_families(served)
        for sample in family.samples
    } | {family.name for family in text_string_to_metric_families(served)}
    known |= {f"{name}_total" for name in known} | {f"{name}_bucket" for name in known}
    for file in ("mig-api.grafana.json", "mig-api.rules.yml"):
        text = (ROOT / "etc" / file).read_text()
        named = {word for word in _split_words(text) if word.startswith("migapi_")}
        assert named and not named - known, file


def _split_words(text: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "_" else " " for c in text).split()
