"""The hand-off that a daemon chooses: by its configuration, or by the scheduler's tables."""

from __future__ import annotations

import http.client
import socket
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import pytest
from psycopg2.extensions import parse_dsn

from mig.openpgp.certificate import parse_armored
from tests.support.cli import run_cli
from tests.support.daemon import Daemon
from tests.support.fleet import VECTORS
from tests.support.generations import GENERATIONS
from tests.support.postgres import NewDatabase, TestDatabase

ACTION = (VECTORS / "actions" / "unix-plain.json").read_text()
# A file of 2017, which names neither a spool nor a hand-off.
CONFIGURATION_OF_2017 = """
[authentication]
    enabled = off
    tokenduration = 10m
[manifest]
    requiredsignatures = 2
[server]
    ip = "127.0.0.1"
    port = 12346
    host = "http://localhost:12346"
    baseroute = "/api/v1"
[postgres]
    host = "{host}"
    dbname = "{dbname}"
    user = "{user}"
    sslmode = "disable"
    maxconn = 10
[logging]
    mode = "stdout"
    level = "info"
[maxmind]
    path = "/var/lib/maxmind/city.mmdb"
"""


def set_up_database(new_database: NewDatabase, generation: str) -> TestDatabase:
    """Return a database of a generation with the schema, and with Bob's key."""
    database = new_database("template0")
    database.execute(GENERATIONS[generation].sql)
    assert run_cli("migrate", "--database", database.dsn)[0] == 0
    armored = (VECTORS / "keys" / "bob.asc").read_bytes()
    database.execute(
        "insert into investigators"
        " (name, pgpfingerprint, publickey, status, createdat, lastmodified)"
        " values ('Bob', %s, %s, 'active', now(), now())",
        (parse_armored(armored).fingerprint, armored),
    )
    return database


def serve_action(database: TestDatabase, folder: Path, *options: str, extra: str = "") -> int:
    """Run a daemon with a file of 2017, and return the status of a posted action."""
    file = folder / "api.cfg"
    file.write_text(CONFIGURATION_OF_2017.format(**parse_dsn(database.dsn)) + extra)
    daemon = Daemon("--config", str(file), "--listen", "unix:s", *options, cwd=folder)
    try:
        with closing(http.client.HTTPConnection("localhost")) as connection:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(folder / "s"))
            connection.request(
                "POST",
                "/api/v1/action/create/",
                urlencode({"action": ACTION}),
                {"Content-Type": "application/x-www-form-urlencoded"},
            )
            return connection.getresponse().status
    finally:
        daemon.stop()


def test_a_file_of_2017_takes_actions_through_the_database(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    database = set_up_database(new_database, "2017")
    assert serve_action(database, tmp_path) == 202
    assert database.execute("select status from actions") == [("pending",)]
    log = (tmp_path / "output").read_text()
    assert "actions are handed over through the database, whose tables are of 2017" in log


def test_tables_of_2014_need_a_spool(new_database: NewDatabase, tmp_path: Path) -> None:
    """Without one the start warns, and actions are refused."""
    database = set_up_database(new_database, "2014")
    assert serve_action(database, tmp_path) == 503
    log = (tmp_path / "output").read_text()
    assert "no action can be handed over: set a spool ([directories] spool) or" in log


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_folder_for_the_spool_is_used(
    new_database: NewDatabase, tmp_path: Path, generation: str
) -> None:
    database = set_up_database(new_database, generation)
    assert serve_action(database, tmp_path, "--spool", "spool") == 202
    assert len(list((tmp_path / "spool" / "action" / "new").iterdir())) == 1
    log = (tmp_path / "output").read_text()
    assert f"actions are handed over through the spool {tmp_path}/spool" in log


@pytest.mark.parametrize(("handoff", "status"), [("none", 503), ("database", 202)])
def test_a_configured_handoff_is_used(
    new_database: NewDatabase, tmp_path: Path, handoff: str, status: int
) -> None:
    """Also when the spool has a folder, and the tables are of the other generation."""
    generation = "2017" if handoff == "none" else "2014"
    database = set_up_database(new_database, generation)
    extra = f"[scheduler]\nhandoff = {handoff}\n"
    assert serve_action(database, tmp_path, "--spool", "spool", extra=extra) == status
    assert not (tmp_path / "spool").exists()
