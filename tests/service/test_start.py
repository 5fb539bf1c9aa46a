"""The installed package starts, fails and stops as an operator expects."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from importlib.metadata import Distribution
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode

import pytest
from psycopg2.extensions import parse_dsn

from mig import __version__
from mig.account import find_user_name
from tests.support.daemon import BIN, Daemon, run_program, wait_for
from tests.support.fleet import VECTORS
from tests.support.postgres import TestDatabase

PROGRAMS = [["twistd", "-n"], ["twistd"], ["twist"]]
UNREACHABLE = ["--database", "postgresql://nobody@127.0.0.1:1/none"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    assert not list(tmp_path.glob("*.pid")), "a pid file was left behind"


def test_the_package_contains_the_plugin_and_no_tests() -> None:
    [installed] = Distribution.discover(name="mig-api", path=[sysconfig.get_path("purelib")])
    names = {str(file) for file in installed.files or []}
    assert "twisted/plugins/mig_api.py" in names
    assert "mig/database/schema/0001_tables.sql" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
    assert "twisted/__init__.py" not in names


def test_help_and_version_are_printed() -> None:
    [line] = [line for line in run_program("--help")[1].splitlines() if "mig-api" in line]
    assert "The MIG API" in line
    status, output = run_program("mig-api", "--help")
    assert status == 0 and "--database" in output and "--listen" in output
    words = " ".join(output.split())
    assert "PORT:interface=ADDRESS:certKey=FILE:privateKey=FILE" in words
    assert "An address that other machines can reach needs authentication" in words
    assert run_program("mig-api", "--version") == (0, f"mig-api {__version__}\n")


@pytest.fixture(scope="module")
def embedded() -> Iterator[Path]:
    """Return a folder that PostgreSQL's account can reach, unlike one of pytest."""
    folder = Path(tempfile.gettempdir()) / f"mig-api-test-{os.getpid()}-start"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def in_use(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon on an embedded database."""
    arguments = ["--database", f"embedded:{embedded}", "--listen", "tcp:0"]
    daemon = Daemon(*arguments, cwd=tmp_path_factory.mktemp("embedded"))
    yield daemon
    daemon.stop()


def fail_to_start(program: list[str], folder: Path, arguments: list[str]) -> tuple[int, str]:
    """Return status and output of a start that fails; pid file and log are in *folder*."""
    where = ["--pidfile", f"{folder}/mig.pid"] if program == ["twistd"] else []
    return run_program(*program[1:], *where, "mig-api", *arguments, cwd=folder, program=program[0])


FAULTS: dict[str, tuple[list[str], str]] = {
    "no database": (
        [],
        "there is no database; use --database postgresql://USER@HOST/NAME,"
        " --database embedded:FOLDER for a demo, or [postgres] in the file of --config",
    ),
    "no such form of database": (
        ["--database", "http://x"],
        "--database must be a postgresql:// URL",
    ),
    "no folder of the spool": (
        [*UNREACHABLE, "--config", "spool.cfg"],
        "[scheduler] handoff is spool, but the spool has no folder: set [directories] spool or",
    ),
    "no folder": (["--database", "embedded:"], "--database embedded: needs a folder"),
    "folder in use": (["--database", "embedded:EMBEDDED"], "EMBEDDED is in use by another mig-api"),
    "port in use": (
        [*UNREACHABLE, "--listen", "unix:s", "--listen", "tcp:PORT"],
        "--listen: cannot listen on tcp:PORT: Address already in use",
    ),
    "no such listener": (
        [*UNREACHABLE, "--listen", "sctp:1"],
        "--listen: 'sctp:1' is not a listener; accepted are tcp:PORT:interface=IPV4, ",
    ),
    "public listener": (
        [*UNREACHABLE, "--listen", "unix:s", "--listen", "tcp:PORT:interface=0.0.0.0"],
        "--listen: tcp:PORT:interface=0.0.0.0: other machines could reach it, which needs"
        " [authentication] enabled = on (--authentication on) and TLS (ssl:PORT:interface=ADDRESS",
    ),
    "public listener without TLS": (
        [*UNREACHABLE, "--authentication", "on", "--listen", "tcp:0:interface=0.0.0.0"],
        "--listen: tcp:0:interface=0.0.0.0: other machines could reach it, which needs TLS"
        " (ssl:PORT:interface=ADDRESS:certKey=FILE:privateKey=FILE, or [server] tlscert) or,"
        " without it, [server] cleartext = on; or listen on 127.0.0.1, ::1 or a Unix socket, and"
        " let a reverse proxy with TLS forward",
    ),
    "public TLS listener without authentication": (
        [*UNREACHABLE, "--config", "public-tls.cfg"],
        "[server] ip, port: ssl:1664:interface=0.0.0.0:certKey=FOLDER/no.pem:privateKey=FOLDER/no.k"
        "ey: other machines could reach it, which needs [authentication] enabled = on",
    ),
    "no certificate": (
        [*UNREACHABLE, "--listen", "unix:s", "--listen", "ssl:0:certKey=no.pem"],
        "the user USER cannot read FOLDER/no.pem: No such file or directory",
    ),
    "public listener in the file": (
        [*UNREACHABLE, "--config", "public.cfg"],
        "[server] ip, port: tcp:1664:interface=0.0.0.0: other machines could reach it",
    ),
    "bad file": (
        ["--config", "bad.cfg"],
        "FOLDER/bad.cfg: [server] port must be a whole number from 1 to 65535;"
        " [authentication] enabled must be on or off;"
        " [server] tlscert must be set when tlskey is",
    ),
    "no file": (["--config", "no.cfg"], "cannot read FOLDER/no.cfg: No such file or directory"),
    "log file": (
        [*UNREACHABLE, "--config", "log.cfg", "--listen", "unix:s"],
        "[logging] cannot open FOLDER/no/log: No such file or directory",
    ),
    "bad public URL": (
        [*UNREACHABLE, "--public-url", "http://x/y"],
        "--public-url must be http://NAME or https://NAME, with or without :PORT",
    ),
    "bad option": (["--databse", "x"], "option --databse not recognized; see mig-api --help"),
    "superfluous word": (["x"], "Wrong number of arguments.; see mig-api --help"),
}


@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_start_that_cannot_work_ends_with_one_line(
    program: list[str], fault: str, folder: Path, in_use: Daemon, embedded: Path
) -> None:
    (folder / "bad.cfg").write_text(
        "[server]\nport = x\ntlskey = k\n[authentication]\nenabled = x\n"
    )
    (folder / "public-tls.cfg").write_text(
        "[server]\nip = 0.0.0.0\ntlscert = no.pem\ntlskey = no.key\n"
    )
    (folder / "public.cfg").write_text("[server]\nip = 0.0.0.0\n")
    (folder / "spool.cfg").write_text("[scheduler]\nhandoff = spool\n")
    (folder / "log.cfg").write_text("[logging]\nmode = file\nfile = no/log\n")
    port = in_use.base.split(":")[2].partition("/")[0]

    arguments, line = FAULTS[fault]

    def fill_in(text: str) -> str:
        text = text.replace("EMBEDDED", str(embedded)).replace("FOLDER/", f"{folder}/")
        text = text.replace("USER cannot", f"{find_user_name(os.geteuid())} cannot")
        if fault in ("port in use", "public listener"):
            return text.replace("tcp:PORT", f"tcp:{port}")
        return text

    before = set(folder.iterdir())
    status, output = fail_to_start(program, folder, [fill_in(text) for text in arguments])
    assert status == 1
    assert output.startswith(f"mig-api: {fill_in(line)}") and output.count("\n") == 1, output
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
def test_an_unreachable_database_ends_the_start(program: list[str], folder: Path) -> None:
    """Only a running reactor can find out.

    The parent of a daemon has ended with status 0 by then, so the line is in the log.
    """
    log = folder / "twistd.log"
    status, output = fail_to_start(program, folder, [*UNREACHABLE, "--listen", "unix:s"])
    if program == ["twistd"]:
        assert (status, output) == (0, "")
        wait_for(lambda: "Server Shut Down" in log.read_text() or None)
        wait_for(lambda: not list(folder.glob("*.pid")))
        output = log.read_text()
    else:
        assert status == 1
    said = [line for line in output.splitlines() if "mig-api: " in line and "critical" in line]
    assert len(said) == 1 and "the database cannot be reached: " in said[0], output
    assert "Traceback" not in output
    assert not (folder / "s").exists()


def test_an_embedded_database_is_set_up_upgraded_and_found_again(
    in_use: Daemon, embedded: Path, folder: Path
) -> None:
    """The daemon serves as the limited role; after kill -9 the next start takes over."""
    other = embedded.with_name(embedded.name + "-2")
    arguments = ["--database", f"embedded:{other}", "--listen", "unix:s"]
    try:
        daemon = Daemon(*arguments, cwd=folder)
        daemon.process.kill()
        daemon.process.wait(30)
        server = int((other / "data" / "postmaster.pid").read_text().split()[0])
        daemon = Daemon(*arguments, cwd=folder)
        with closing(http.client.HTTPConnection("localhost")) as connection:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(folder / "s"))
            connection.request("GET", "/api/v1/search?type=agent")
            assert connection.getresponse().status == 200
        assert daemon.stop() == -signal.SIGTERM
        assert not Path(f"/proc/{server}").exists() or is_zombie(server)
        assert not (folder / "s").exists()
    finally:
        shutil.rmtree(other, ignore_errors=True)


def is_zombie(pid: int) -> bool:
    """Whether a process has ended, even when no parent has reaped it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_start_that_is_stopped_early_leaves_nothing_behind(embedded: Path, folder: Path) -> None:
    other = embedded.with_name(embedded.name + "-3")
    arguments = ["mig-api", "--database", f"embedded:{other}", "--listen", "unix:s"]
    process = subprocess.Popen(
        [BIN / "twistd", "-n", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    try:
        assert next((line for line in process.stdout if "setting up PostgreSQL" in line), None)
        process.terminate()
        output = process.stdout.read()
        assert process.wait(30) == -signal.SIGTERM
        assert "Traceback" not in output, output
        assert not (folder / "s").exists()
        wait_for(lambda: not find_processes(str(other)))
    finally:
        process.stdout.close()
        shutil.rmtree(other, ignore_errors=True)


def test_the_end_of_an_embedded_database_ends_the_daemon(embedded: Path, folder: Path) -> None:
    """The status is 1 and one line says why, also for a server that an earlier daemon started."""
    other = embedded.with_name(embedded.name + "-5")
    arguments = ["--database", f"embedded:{other}", "--listen", "unix:s"]
    try:
        for is_adopted in (False, True):
            daemon = Daemon(*arguments, cwd=folder)
            if is_adopted:
                daemon.process.kill()
                daemon.process.wait(30)
                daemon = Daemon(*arguments, cwd=folder)
            os.kill(int((other / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            assert daemon.process.wait(30) == 1
            log = daemon.log.read_text()
            [line] = [line for line in log.splitlines() if "#critical" in line]
            reason = f"mig-api: the PostgreSQL in {other} has ended; see {other}/postgres.log"
            assert line.endswith(reason)
            assert "Traceback" not in log
            assert not (folder / "s").exists()
            wait_for(lambda: not find_processes(f"{other}/data"))
    finally:
        shutil.rmtree(other, ignore_errors=True)


def test_a_daemon_without_gpg_says_what_does_not_work(database: TestDatabase, folder: Path) -> None:
    program = [sys.executable, "-P", str(BIN / "twistd")]
    daemon = Daemon(
        *("--database", database.dsn, "--listen", "tcp:0"),
        cwd=folder,
        program=program,
        environment={"PATH": str(folder)},
    )
    try:
        [line] = [line for line in daemon.log.read_text().splitlines() if "gpg" in line]
        assert line.endswith(
            "gpg is not in PATH: until it is installed, actions and new investigators are answered"
            " by 503"
        )
        assert "#warn" in line
        key = urlencode({"name": "Bob", "publickey": (VECTORS / "keys" / "bob.asc").read_text()})
        with pytest.raises(HTTPError) as refusal:
            urllib.request.urlopen(f"{daemon.base}investigator/create/", key.encode())
        assert refusal.value.code == 503
    finally:
        daemon.stop()


def find_processes(text: str) -> list[str]:
    """Return the command lines that contain *text*."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if text in line]


def test_a_configuration_file_is_enough_to_start(database: TestDatabase, folder: Path) -> None:
    """It sets the database, listener, public URL, base route and log; options override it."""
    dsn = parse_dsn(database.dsn)
    (folder / "api.cfg").write_text(
        f"""
[server]
host = "https://mig.example.net"
baseroute = "/mig"
port = 1
clientpublicip = x-forwarded-for:0
[maxmind]
path = places.mmdb
[postgres]
host = "{dsn["host"]}"
dbname = {dsn["dbname"]}
user = {dsn["user"]}
[logging]
mode = file
file = mig.log
"""
    )
    arguments = ["--config", "api.cfg", "--listen", "unix:s"]
    daemon = Daemon(*arguments, cwd=folder, log=folder / "mig.log")
    assert daemon.base == "https://mig.example.net/mig/"
    with closing(http.client.HTTPConnection("localhost")) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(folder / "s"))
        connection.request("GET", "/mig/", headers={"X-Forwarded-For": "192.0.2.7"})
        assert b'"href":"https://mig.example.net/mig/' in connection.getresponse().read()
    daemon.stop()
    log = daemon.log.read_text()
    assert "have no effect: [maxmind] path" in log
    assert " 192.0.2.7 - GET /mig/ 200 " in log
    assert "GET" not in daemon.output.read_text()


def test_a_daemon_in_the_background_can_be_stopped_cleanly(embedded: Path, folder: Path) -> None:
    """It keeps its lock across the forks, and logs where the file says.

    SIGTERM ends it with its database, and deletes the pid file and the socket.
    """
    other = embedded.with_name(embedded.name + "-4")
    pid_file, log = folder / "mig.pid", folder / "log"
    (folder / "api.cfg").write_text("[logging]\nmode = file\nfile = log\n")
    arguments = ["--config", "api.cfg", "--database", f"embedded:{other}"]
    listen = ["--listen", "unix:s", "--listen", "tcp:0"]
    try:
        where = ["--pidfile", str(pid_file)]
        assert run_program(*where, "mig-api", *arguments, *listen, cwd=folder) == (0, "")
        text = wait_for(lambda: log.read_text() if "ready at " in log.read_text() else None)
        status, output = run_program("mig-api", *arguments, cwd=folder)
        assert (status, output) == (1, f"mig-api: {other} is in use by another mig-api\n")
        base = text.partition("ready at ")[2].split()[0]
        assert base.startswith("http://localhost:") and base.endswith("/api/v1/")
        with urllib.request.urlopen(base) as answer:
            assert answer.status == 200
        assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o660
        assert stat.S_IMODE(log.stat().st_mode) == 0o640
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
        wait_for(lambda: not pid_file.exists())
        assert {file.name for file in folder.iterdir()} == {"api.cfg", "log"}
        assert not find_processes(str(other))
    finally:
        shutil.rmtree(other, ignore_errors=True)


def test_a_database_of_a_newer_version_ends_the_start(database: TestDatabase, folder: Path) -> None:
    database.execute("insert into mig_schema values (99)")
    arguments = ["--database", database.dsn, "--listen", "tcp:0"]
    status, output = fail_to_start(["twistd", "-n"], folder, arguments)
    assert status == 1
    assert "made by a newer mig-api" in output and "Traceback" not in output


def test_the_daemon_runs_in_any_folder_and_stops_cleanly(
    database: TestDatabase, folder: Path
) -> None:
    daemon = Daemon("--database", database.dsn, "--listen", "tcp:0", cwd=folder)
    with urllib.request.urlopen(daemon.base) as answer:
        assert answer.headers["Content-Type"] == "application/vnd.collection+json"
    assert daemon.stop() == -signal.SIGTERM
    log = daemon.log.read_text()
    assert " GET /api/v1/ 200 " in log and "Traceback" not in log


def test_the_daemon_runs_on_the_asyncio_reactor(database: TestDatabase, folder: Path) -> None:
    program = [str(BIN / "twistd"), "--reactor=asyncio", "-n", "mig-api"]
    process = subprocess.Popen(
        [*program, "--database", database.dsn, "--listen", "tcp:0"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout
    base = next(line for line in process.stdout if "ready at " in line).split()[-1]
    with urllib.request.urlopen(base) as answer:
        assert answer.status == 200
    process.terminate()
    assert process.wait(30) == -signal.SIGTERM
    process.stdout.close()
