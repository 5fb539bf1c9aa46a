"""A password of the database reaches neither the log, an answer, nor another process."""

from __future__ import annotations

import os
import signal
import stat
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote, urlencode

import pytest

from mig.database.schema.declaration import API_ROLE
from tests.support.cluster import Cluster, Server, make_cluster
from tests.support.daemon import Daemon, run_program, wait_for
from tests.support.fleet import VECTORS
from tests.support.programs import find_program

OTHER_SECRETS = {
    "PGPASSWORD": "secret-of-libpq",
    "MIG_DATABASE": "postgresql://u:secret-of-mig@h/d",
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with make_cluster() as made:
        yield made


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Server:
    return cluster.start_primary()


def write_gpg_that_records(folder: Path) -> Path:
    """Write a gpg that records its environment and arguments first; return the record."""
    record = folder / "gpg-record"
    script = folder / "bin" / "gpg"
    script.parent.mkdir()
    script.write_text(
        "#!/bin/sh\n"
        f"cat /proc/$$/environ /proc/$$/cmdline >>{record}\n"
        f'exec {find_program("gpg")} "$@"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return record


def read_children(process: int) -> bytes:
    """Return the environments and arguments of the processes that a process has started."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    files = [f"/proc/{child}/{name}" for child in children for name in ("environ", "cmdline")]
    return b"\0".join(Path(file).read_bytes() for file in files)


def post(url: str, fields: dict[str, str]) -> bytes:
    """Return the answer to a form, also to one that is refused."""
    try:
        with urllib.request.urlopen(url, urlencode(fields).encode()) as answer:
            return bytes(answer.read())
    except HTTPError as refusal:
        return refusal.read()


def get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url) as answer:
            return bytes(answer.read())
    except HTTPError as refusal:
        return refusal.read()


def test_a_password_of_the_database_stays_in_the_daemon(
    cluster: Cluster, server: Server, tmp_path: Path
) -> None:
    """Neither gpg nor the parser of actions gets it, nor the environment of the daemon."""
    secrets = [cluster.password, "secret-of-libpq", "secret-of-mig"]
    record = write_gpg_that_records(tmp_path)
    dsn = f"postgresql://{API_ROLE}:{quote(cluster.password)}@127.0.0.1:{server.port}/mig"
    daemon = Daemon(
        *("--database", dsn, "--listen", "tcp:0"),
        cwd=tmp_path,
        environment={**OTHER_SECRETS, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
    )
    key = (VECTORS / "keys" / "bob.asc").read_text()
    shown = [
        post(f"{daemon.base}investigator/create/", {"name": "Bob", "publickey": key}),
        post(f"{daemon.base}action/create/", {"action": "[" + "1," * 20_000}),
        get(f"{daemon.base}search?type=agent"),
    ]
    assert b'"Bob"' in shown[0]
    wait_for(record.exists)
    children = read_children(daemon.process.pid)
    assert b"mig.actions.parser_worker" in children and b"--status-fd" in record.read_bytes()
    server.kill()
    shown += [get(f"{daemon.base}{path}") for path in ("search?type=agent", "dashboard", "")]
    server.start()
    assert daemon.stop() == -signal.SIGTERM
    log = daemon.log.read_bytes()
    assert b"503" in log
    for place in (*shown, children, record.read_bytes(), log):
        for secret in secrets:
            assert secret.encode() not in place


@pytest.mark.parametrize("program", ["twistd", "mig-api"])
@pytest.mark.parametrize(
    ("dsn", "reason"),
    [
        ("postgresql://migapi:hunter2@127.0.0.1:PORT/mig", "password authentication failed"),
        ("postgresql://migapi:hunter2@127.0.0.1:1/mig", "the database cannot be reached"),
        ("postgresql://migapi:hunter2@[::1/mig", "must be a postgresql:// URL"),
        ("postgresql://migapi:hunter2@127.0.0.1/mig?hunter2=1", "must be a postgresql:// URL"),
        ("host=127.0.0.1 password='hunter2", "must be a postgresql:// URL"),
        ("http://migapi:hunter2@127.0.0.1/mig", "must be a postgresql:// URL"),
    ],
)
def test_an_error_never_shows_a_password(
    server: Server, tmp_path: Path, program: str, dsn: str, reason: str
) -> None:
    arguments = {
        "twistd": ["-n", "mig-api", "--listen", "unix:s", "--database"],
        "mig-api": ["migrate", "--plan", "--database"],
    }[program]
    status, output = run_program(
        *arguments, dsn.replace("PORT", str(server.port)), cwd=tmp_path, program=program
    )
    assert status != 0 and reason in output
    assert "hunter2" not in output and "Traceback" not in output


def test_a_password_file_keeps_the_password_out_of_sight(
    cluster: Cluster, server: Server, tmp_path: Path
) -> None:
    """Everyone can see the arguments of a process; they have no password then."""
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"127.0.0.1:{server.port}:mig:{API_ROLE}:{cluster.password}\n")
    passwords.chmod(0o600)
    daemon = Daemon(
        *("--database", f"postgresql://{API_ROLE}@127.0.0.1:{server.port}/mig"),
        *("--listen", "tcp:0"),
        cwd=tmp_path,
        environment={"PGPASSFILE": str(passwords)},
    )
    assert b'"collection"' in get(daemon.base)
    for name in ("cmdline", "environ"):
        shown = Path(f"/proc/{daemon.process.pid}/{name}").read_bytes()
        assert cluster.password.encode() not in shown
    daemon.stop()
