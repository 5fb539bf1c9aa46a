"""The PostgreSQL of demo and tests is private, is found again, and ends when stopped."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from mig.database.database import Database
from mig.database.schema.declaration import API_ROLE
from mig.demo.postgres import OWNER_ROLE, EmbeddedPostgres
from mig.errors import PostgresError
from mig.model.statement import select_ids
from tests.support.reactor import reactor

PROGRAM = """
import sys
from pathlib import Path
from twisted.internet import task, defer
from mig.model.statement import select_ids
from mig.demo.postgres import EmbeddedPostgres

async def main(reactor):
    server = EmbeddedPostgres(reactor, Path(sys.argv[1]), {"fsync": "off"})
    server.lock_folder()
    await server.start()
    print("ready", flush=True)
    await defer.Deferred()

task.react(lambda reactor: defer.ensureDeferred(main(reactor)))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a path directly below the temporary folder, which PostgreSQL's account can enter."""
    path = Path(tempfile.gettempdir()) / f"mig-api-embedded-{os.getpid()}"
    yield path
    assert not find_servers(path), "a server is still running"
    shutil.rmtree(path, ignore_errors=True)


def find_servers(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            running = (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
        if running and f"{folder}/data".encode() in command:
            found.append(int(process.name))
    return found


async def query_current_user(server: EmbeddedPostgres, role: str = OWNER_ROLE) -> str:
    database = Database(reactor, server.format_dsn(role))
    try:
        return (await database.query(select_ids("select current_user::text")))[0].id
    finally:
        database.stop()


@pytest_twisted.ensureDeferred
async def test_the_server_is_private_and_found_again_after_kill_9(folder: Path) -> None:
    home = Path.home()
    modes = [path.stat().st_mode for path in (home, home.parent, Path("/"))]
    daemon = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)], stdout=subprocess.PIPE, cwd="/"
    )
    assert daemon.stdout and daemon.stdout.readline() == b"ready\n"
    server = EmbeddedPostgres(reactor, folder, {"fsync": "off"})
    with pytest.raises(PostgresError, match="is in use by another mig-api"):
        server.lock_folder()
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    daemon.stdout.close()
    assert find_servers(folder), "the server outlives a killed daemon"
    server.lock_folder()
    await server.start()
    assert await query_current_user(server) == OWNER_ROLE
    assert await query_current_user(server, API_ROLE) == API_ROLE
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "run").stat().st_mode & 0o777 == 0o700
    check_no_other_user(server)
    await server.stop()
    assert not find_servers(folder)
    assert [path.stat().st_mode for path in (home, home.parent, Path("/"))] == modes


def check_no_other_user(server: EmbeddedPostgres) -> None:
    if os.geteuid() != 0:
        return  # only root can try as somebody else
    nobody = pwd.getpwnam("nobody")
    tried = subprocess.run(
        [server.get_program_path("psql"), "-d", server.format_dsn(), "-c", "select 1"],
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert tried.returncode != 0 and "Permission denied" in tried.stderr


@pytest_twisted.ensureDeferred
async def test_a_crashed_server_starts_again_in_a_long_path(folder: Path) -> None:
    long = folder.with_name(f"{folder.name}-{'x' * 150}")
    server = EmbeddedPostgres(reactor, long, {"fsync": "off"})
    server.lock_folder()
    await server.start()
    for pid in find_servers(long):
        os.kill(pid, signal.SIGKILL)
    await server.stop()
    again = EmbeddedPostgres(reactor, long, {"fsync": "off"})
    again.lock_folder()
    await again.start()
    assert await query_current_user(again) == OWNER_ROLE
    await again.stop()
    assert not find_servers(long)
    again.delete_folder()


def test_a_folder_of_somebody_else_is_refused(folder: Path) -> None:
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        with pytest.raises(PostgresError, match="must be a folder that belongs to"):
            EmbeddedPostgres(reactor, folder).lock_folder()
    folder.rmdir()
    folder.write_text("a file")
    with pytest.raises(PostgresError, match="must be a folder that belongs to"):
        EmbeddedPostgres(reactor, folder).lock_folder()
    folder.unlink()
