"""The installed package, started as an operator starts it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from mig import __version__
from tests.conftest import TestDatabase

BIN = Path(sys.executable).parent


def run(*arguments: str, cwd: Path | str = "/", program: str = "twistd") -> tuple[int, str]:
    """Exit status and output of a start that must end by itself."""
    done = subprocess.run(
        [BIN / program, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


class Daemon:
    """A daemon in the foreground whose log is read until it says that it is ready."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        self.log = cwd / "log"
        self.process = subprocess.Popen(
            [BIN / "twistd", "-n", "mig-api", *arguments],
            cwd=cwd,
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
        )
        for _ in range(600):
            text = self.log.read_text()
            if "ready at " in text:
                self.base = text.partition("ready at ")[2].split()[0]
                return
            assert self.process.poll() is None, text
            time.sleep(0.05)
        raise AssertionError(text)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    assert not list(tmp_path.glob("*.pid")), "a pid file was left"


def test_the_package_holds_the_plugin_and_no_tests() -> None:
    [installed] = Distribution.discover(name="mig-api", path=[sysconfig.get_path("purelib")])
    names = {str(file) for file in installed.files or []}
    assert "twisted/plugins/mig_api.py" in names
    assert "mig/database/schema/0001_tables.sql" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
    assert "twisted/__init__.py" not in names


def test_help_and_version() -> None:
    assert "mig-api" in run("--help")[1]
    status, output = run("mig-api", "--help")
    assert status == 0 and "--database" in output and "--listen" in output
    assert run("mig-api", "--version") == (0, f"mig-api {__version__}\n")


@pytest.mark.parametrize("program", [["twistd", "-n"], ["twistd"], ["twist"]])
def test_a_start_that_cannot_work_says_one_line(program: list[str], folder: Path) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    some_database = ["--database", "postgresql://nobody@127.0.0.1:1/none"]
    cases = [
        ([], "mig-api: no database is given; use --database "),
        ([*some_database, "--listen", f"tcp:{port}"], f"mig-api: cannot listen on tcp:{port}: "),
        ([*some_database, "--listen", "ssl:1"], "mig-api: --listen: 'ssl:1' is no listener; "),
        (["--database", "http://x"], "mig-api: --database is no postgresql:// URL"),
    ]
    for arguments, line in cases:
        tail = ["mig-api", *arguments]
        status, output = run(*program[1:], *tail, cwd=folder, program=program[0])
        assert status == 1
        assert output.startswith(line) and output.count("\n") == 1, output
    listening.close()


@pytest.mark.parametrize("program", [["twistd", "-n"], ["twist"]])
def test_an_unreachable_database_ends_the_start(program: list[str], folder: Path) -> None:
    unreachable = ["--database", "postgresql://nobody@127.0.0.1:1/none", "--listen", "tcp:0"]
    status, output = run(*program[1:], "mig-api", *unreachable, cwd=folder, program=program[0])
    assert status == 1
    assert "the database cannot be reached: " in output
    assert "Traceback" not in output


def test_serves_from_any_folder_and_stops_cleanly(database: TestDatabase, folder: Path) -> None:
    daemon = Daemon("--database", database.dsn, "--listen", "tcp:0", cwd=folder)
    with urllib.request.urlopen(daemon.base) as answer:
        assert answer.headers["Content-Type"] == "application/vnd.collection+json"
    assert daemon.stop() == -signal.SIGTERM
    log = daemon.log.read_text()
    assert " GET /api/v1/ 200 " in log and "Traceback" not in log


def test_runs_on_the_asyncio_reactor(database: TestDatabase, folder: Path) -> None:
    environment = [BIN / "twistd", "--reactor=asyncio", "-n", "mig-api"]
    process = subprocess.Popen(
        [*environment, "--database", database.dsn, "--listen", "tcp:0"],
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
