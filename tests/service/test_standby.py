"""A daemon serves what is read from a hot standby, and refuses what is written."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest

from tests.support import fleet
from tests.support.cli import run_cli
from tests.support.cluster import Cluster, make_cluster
from tests.support.daemon import Daemon
from tests.support.postgres import MANY_COMMANDS, insert_many_commands

REPORT = f"search?type=command&report=complianceitems&limit=100000&{fleet.ANY_TIME}"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with make_cluster() as made:
        yield made


def test_reports_come_from_a_standby_and_writes_are_refused(
    cluster: Cluster, tmp_path: Path
) -> None:
    """API keys work there; when they were used is not stored."""
    primary = cluster.start_primary()
    insert_many_commands(primary.database)
    dsn = primary.format_dsn()
    status, _, errors = run_cli("investigator", "add", "Alice", "--admin", MIG_DATABASE=dsn)
    assert status == 0, errors
    status, key, errors = run_cli("apikey", "create", "1", "--name", "k", MIG_DATABASE=dsn)
    assert status == 0, errors
    standby = cluster.start_standby(primary)
    standby.wait_for_replay(primary)
    arguments = ("--database", standby.format_dsn(), "--authentication", "on", "--listen", "tcp:0")
    daemon = Daemon(*arguments, cwd=tmp_path)
    try:
        assert fetch(daemon, REPORT, key).count(b'"name":"compliance item"') == MANY_COMMANDS * 5
        with pytest.raises(HTTPError) as refused:
            fetch(daemon, "apikey/revoke/", key, b"id=1")
        assert refused.value.code == 503
        assert fetch(daemon, "dashboard", key)
    finally:
        daemon.stop()
    assert "Traceback" not in daemon.output.read_text()


def fetch(daemon: Daemon, path: str, key: str, body: bytes | None = None) -> bytes:
    headers = {"X-MIGAPIKEY": key.strip()}
    request = urllib.request.Request(daemon.base + path, body, headers)
    answer: bytes = urllib.request.urlopen(request).read()
    return answer
