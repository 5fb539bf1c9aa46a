"""A daemon says at its start whether callers need credentials, and who may give them."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError

import pytest
from psycopg2.extensions import make_dsn

from mig.database.schema.declaration import API_ROLE
from mig.model.permissions import ALL_PERMISSIONS, Permission
from tests.support.callers import add_api_key, add_investigator, with_key
from tests.support.daemon import Daemon
from tests.support.postgres import TestDatabase

CONFIGURATION_OF_2017 = """
[authentication]
    # turn this on after initial setup
    enabled = on
    # timestamp validity
    tokenduration = 10m
[server]
    ip = "127.0.0.1"
    port = 51664
    baseroute = "/api/v1"
    clientpublicip = peer
[logging]
    mode = "stdout"
    level = "info"
"""


@contextmanager
def run_daemon(database: TestDatabase, folder: Path, *arguments: str) -> Iterator[Daemon]:
    daemon = Daemon(
        *("--database", make_dsn(database.dsn, user=API_ROLE), "--listen", "tcp:0", *arguments),
        cwd=folder,
    )
    try:
        yield daemon
    finally:
        daemon.stop()


def get(daemon: Daemon, path: str, headers: dict[str, str]) -> int:
    url = daemon.base.rstrip("/") + path
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            status: int = answer.status
            return status
    except HTTPError as refused:
        return refused.code


@pytest.mark.parametrize("arguments", [[], ["--authentication", "off"]])
def test_a_daemon_that_requires_no_credentials_warns_of_what_that_means(
    database: TestDatabase, tmp_path: Path, arguments: list[str]
) -> None:
    with run_daemon(database, tmp_path, *arguments) as daemon:
        assert get(daemon, "/dashboard", {}) == 200
    [line] = [line for line in daemon.log.read_text().splitlines() if "authentication" in line]
    assert line.endswith(
        "authentication is off: every account of this host that can connect acts with all"
        " permissions; a Unix socket with mode=660 is better"
    )


def test_a_configuration_of_2017_starts_and_requires_credentials(
    database: TestDatabase, tmp_path: Path
) -> None:
    key = add_api_key(database, add_investigator(database))
    (tmp_path / "api.cfg").write_text(CONFIGURATION_OF_2017)
    with run_daemon(database, tmp_path, "--config", "api.cfg") as daemon:
        assert get(daemon, "/dashboard", {}) == 401
        assert get(daemon, "/dashboard", with_key(key)) == 200
    assert database.execute("select keyid from apikeyuses") == [(1,)]
    text = daemon.log.read_text()
    assert "who may create or change investigators: nobody (`mig-api investigator" in text
    assert key not in text


def test_a_daemon_names_those_who_may_change_investigators(
    database: TestDatabase, tmp_path: Path
) -> None:
    add_investigator(database, "nobody")
    add_investigator(database, "root", permissions=ALL_PERMISSIONS)
    add_investigator(database, "gone", permissions=ALL_PERMISSIONS, status="disabled")
    add_investigator(database, "clerk\n", permissions=Permission.INVESTIGATOR_CREATE)
    with run_daemon(database, tmp_path, "--authentication", "on") as daemon:
        pass
    [line] = [line for line in daemon.log.read_text().splitlines() if "authentication" in line]
    assert line.endswith(
        "authentication is on; who may create or change investigators: 2 'root'"
        " (investigator_create, investigator_update); 4 'clerk\\n' (investigator_create)"
    )
