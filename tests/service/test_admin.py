"""The admin listener of a daemon: health, version and metrics for operators."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mig import __version__
from tests.support.admin import ask_admin
from tests.support.daemon import Daemon, run_program
from tests.support.postgres import TestDatabase

ROOT = Path(__file__).parents[2]


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
    assert ask_admin(admin, "/healthz") == (200, "ok\n")
    version = ask_admin(admin, "/version")
    assert (version.status, json.loads(version.body)) == (200, {"version": __version__})
    ready = ask_admin(admin, "/readyz")
    readiness = json.loads(ready.body)
    assert (ready.status, readiness["status"]) == (200, "ok")
    assert set(readiness["parts"]) == {"database", "handoff", "gpg"}
    metrics = ask_admin(admin, "/metrics")
    names = {family.name for family in text_string_to_metric_families(metrics.body)}
    assert {"migapi_requests", "migapi_outbox_waiting", "migapi_pool_connections"} <= names
    assert ask_admin(admin, "/readyz", host="evil.example").status == 400
    assert ask_admin(admin, "/api/v1/").status == 404


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
    served = ask_admin(tmp_path / "admin", "/metrics").body
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
