"""A daemon that root starts for another user is of use to that user, or does not start."""

from __future__ import annotations

import grp
import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlencode

import psycopg2
import pytest

import mig
from mig.account import Account, find_user_name
from mig.actions.spool import Spool
from tests.support.certificates import issue_certificate
from tests.support.daemon import BIN, Daemon, wait_for
from tests.support.fleet import VECTORS, load_fleet
from tests.support.programs import find_readable_python

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch to another user")

NOBODY = Account(uid=65534, gid=65534)
USER, GROUP = NOBODY.name, grp.getgrgid(NOBODY.gid).gr_name
ACTION = (VECTORS / "actions" / "unix-plain.json").read_text()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that every user can enter, unlike one of pytest."""
    with tempfile.TemporaryDirectory(prefix="mig-api-user-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def start_as_nobody(
    folder: Path, options: Sequence[str], environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Return status and output of a start that must end by itself."""
    python, own = find_readable_python(NOBODY)
    twistd = [
        str(python),
        "-P",
        str(BIN / "twistd"),
        "-n",
        "--uid",
        USER,
        "--gid",
        GROUP,
        "mig-api",
    ]
    done = subprocess.run(
        [*twistd, "--database", "postgresql://nobody@127.0.0.1:1/none", *options],
        cwd=folder,
        env={**os.environ, **own, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def describe_owner(path: Path) -> tuple[str, str, int]:
    return path.owner(), path.group(), stat.S_IMODE(path.stat().st_mode)


def test_actions_reach_a_spool_that_root_made_for_the_user(folder: Path) -> None:
    """The log file can be reopened, the certificate loaded again, and the embedded PostgreSQL
    runs as that user, too.
    """
    python, environment = find_readable_python(NOBODY)
    log, spool, database = folder / "api.log", folder / "cache" / "mig", folder / "db"
    (folder / "api.cfg").write_text(f"[logging]\nmode = file\nfile = {log}\n")
    for path in issue_certificate().write(folder):
        os.chown(path, NOBODY.uid, NOBODY.gid)
    daemon = Daemon(
        *("--config", "api.cfg", "--database", f"embedded:{database}"),
        *("--spool", str(spool), "--listen", "tcp:0"),
        *("--listen", "ssl:0:certKey=server.pem:privateKey=server.key"),
        cwd=folder,
        log=log,
        environment=environment,
        program=[python, "-P", BIN / "twistd", "--uid", USER, "--gid", GROUP],
    )
    try:
        assert Path(f"/proc/{daemon.process.pid}").owner() == USER
        server = (database / "data" / "postmaster.pid").read_text().split()[0]
        assert Path(f"/proc/{server}").owner() == USER
        made = [folder / "cache", *(path for path in (folder / "cache").rglob("*"))]
        assert {describe_owner(path) for path in made} == {(USER, GROUP, 0o750)}

        with NOBODY.act():
            dsn = f"host={database}/run dbname=mig user=migadmin"
            load_fleet(dsn)
            with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
                cursor.execute("delete from signatures; delete from commands; delete from actions")
        body = urlencode({"action": ACTION}).encode()
        with urllib.request.urlopen(f"{daemon.base}action/create/", body) as answer:
            assert answer.status == 202
        [file] = (spool / "action" / "new").iterdir()
        assert describe_owner(file) == (USER, GROUP, 0o640)
        assert json.loads(file.read_text())["name"] == json.loads(ACTION)["name"]

        assert describe_owner(log) == (USER, GROUP, 0o640)
        log.rename(folder / "renamed.log")
        rotated = os.open(log, os.O_CREAT | os.O_WRONLY, 0o640)  # as logrotate's "create"
        os.fchown(rotated, NOBODY.uid, NOBODY.gid)
        os.close(rotated)
        daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: urllib.request.urlopen(daemon.base).status and log.read_text())
        wait_for(lambda: f"{folder}/server.pem was loaded" in log.read_text())
    finally:
        daemon.stop()


@pytest.mark.parametrize("name", ["", "spool", "spool/action/new", "spool/action/done"])
def test_a_spool_that_the_user_cannot_use_is_refused(name: str, folder: Path) -> None:
    """The line names the folder, the user, and what the user cannot do."""
    top = folder / "top"
    spool = top / "spool"
    options = ["--spool", str(spool), "--listen", "unix:s"]
    top.mkdir()
    os.chown(top, NOBODY.uid, NOBODY.gid)
    Spool(spool).prepare_folders(NOBODY)
    closed = top / name
    os.chown(closed, 0, 0)
    closed.chmod(0o750)
    verb = "enter" if name in ("", "spool") else "write to" if name.endswith("new") else "read"
    status, output = start_as_nobody(folder, options)
    assert (status, output) == (
        1,
        f"mig-api: the spool {spool} cannot be used: the user {USER} cannot {verb} {closed},"
        " which belongs to root and has the mode 0750\n",
    )


def test_a_log_file_that_the_user_cannot_open_is_refused(folder: Path) -> None:
    log = folder / "api.log"
    log.touch(0o640)
    (folder / "api.cfg").write_text(f"[logging]\nmode = file\nfile = {log}\n")
    status, output = start_as_nobody(folder, ["--config", "api.cfg", "--listen", "unix:s"])
    line = f"mig-api: [logging] the user {USER} cannot open {log}: Permission denied\n"
    assert (status, output) == (1, line)
    assert not (folder / "s").exists()


@pytest.mark.parametrize("name", ["server.pem", "server.key"])
def test_a_certificate_that_the_user_cannot_load_again_is_refused(name: str, folder: Path) -> None:
    """Root could read it, but it would be too late to notice at the next SIGHUP."""
    for path in issue_certificate().write(folder):
        os.chown(path, NOBODY.uid, NOBODY.gid)
    closed = folder / name
    os.chown(closed, 0, 0)
    closed.chmod(0o640)
    listen = "ssl:0:certKey=server.pem:privateKey=server.key"
    status, output = start_as_nobody(folder, ["--listen", "unix:s", "--listen", listen])
    line = f"mig-api: the user {USER} cannot read {closed}: Permission denied\n"
    assert (status, output) == (1, line)
    assert not (folder / "s").exists()


def test_a_user_who_cannot_read_the_program_is_refused(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    assert mig.__file__
    shutil.copytree(Path(mig.__file__).parent, closed / "mig")
    path = f"{closed}:{find_readable_python(NOBODY)[1].get('PYTHONPATH', '')}"
    status, output = start_as_nobody(folder, ["--listen", "unix:s"], {"PYTHONPATH": path})
    assert status == 1
    assert output.startswith(f"mig-api: the user {USER} cannot read {closed}/mig/"), output


def test_acting_for_an_account_ends_with_the_rights_of_root() -> None:
    before = (os.geteuid(), os.getegid(), os.getgroups())
    with pytest.raises(ZeroDivisionError), NOBODY.act():
        assert (os.geteuid(), os.getegid(), os.getgroups()) == (65534, 65534, [65534])
        raise ZeroDivisionError
    assert (os.geteuid(), os.getegid(), os.getgroups()) == before
    assert find_user_name(4_000_000) == "4000000"
