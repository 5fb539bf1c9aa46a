"""SIGHUP and SIGUSR1 are for the log file, however the daemon runs, and end no process."""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.daemon import BIN, wait_for
from tests.support.postgres import TestDatabase
from tests.support.programs import find_program

ETC = Path(__file__).parent.parent.parent / "etc"


class LoggingDaemon:
    """A daemon that runs in one of several ways, and the file to which it logs."""

    def __init__(self, program: str, log: str, database: TestDatabase, folder: Path) -> None:
        self.folder = folder
        self.log = folder / log
        options = [word.replace("FOLDER", str(folder)) for word in program.split()]
        is_background = options[0] == "twistd" and "-n" not in options
        if is_background:
            options += ["--pidfile", str(folder / "pid")]
        (folder / "api.cfg").write_text("[logging]\nheartbeat = on\nmode = file\nfile = api.log\n")
        config = ["--config", "api.cfg"] if log == "api.log" else []
        arguments = [*config, "--database", database.dsn, "--listen", "tcp:0"]
        started = subprocess.Popen(
            [BIN / options[0], *options[1:], "mig-api", *arguments],
            cwd=folder,
            stdout=(folder / "output").open("wb"),
        )
        self.process = None if is_background else started
        text = wait_for(lambda: self.read_log() if "ready at " in self.read_log() else None)
        self.base = text.partition("ready at ")[2].split()[0].split('"')[0]
        self.pid = int((folder / "pid").read_text()) if is_background else started.pid

    def read_log(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def get(self, path: str) -> None:
        urllib.request.urlopen(self.base + path).read()

    def count_lines(self, text: str) -> dict[str, int]:
        """Return how often each file of the log contains *text*."""
        files = sorted(self.folder.glob(f"{self.log.name}*"))
        return {file.name: file.read_text().count(text) for file in files}

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        if self.process is not None:
            assert self.process.wait(30) == -signal.SIGTERM
        wait_for(lambda: not Path(f"/proc/{self.pid}").exists())


WAYS = {
    "twistd -n": ("twistd -n", "output"),
    "twistd -n, [logging] file": ("twistd -n", "api.log"),
    "twistd -n --logfile": ("twistd -n --logfile FOLDER/own.log", "own.log"),
    "twistd --logfile": ("twistd --logfile FOLDER/own.log", "own.log"),
    "twistd": ("twistd", "twistd.log"),
    "twistd, [logging] file": ("twistd", "api.log"),
    "twist, [logging] file": ("twist", "api.log"),
    "twist --log-file": ("twist --log-file own.log --log-format text", "own.log"),
}

LOGS_OF_TWISTD = ["twistd -n --logfile", "twistd --logfile", "twistd"]
FILES = [way for way in WAYS if way != "twistd -n"]


@pytest.fixture
def daemon(
    request: pytest.FixtureRequest, database: TestDatabase, tmp_path: Path
) -> Iterator[LoggingDaemon]:
    running = LoggingDaemon(*WAYS[request.param], database, tmp_path)
    yield running
    running.stop()


@pytest.mark.parametrize("daemon", FILES, indirect=True)
def test_signals_reopen_or_rotate_the_log_file(
    daemon: LoggingDaemon, request: pytest.FixtureRequest
) -> None:
    """SIGUSR1 renames twistd's own log, as twistd documents it; any other is reopened."""
    name = daemon.log.name
    daemon.log.rename(daemon.folder / f"{name}.hup")
    check_new_file(daemon, signal.SIGHUP, f"{name}.hup")
    if request.node.callspec.params["daemon"] in LOGS_OF_TWISTD:
        check_new_file(daemon, signal.SIGUSR1, f"{name}.1")
    else:
        daemon.log.rename(daemon.folder / f"{name}.usr1")
        check_new_file(daemon, signal.SIGUSR1, f"{name}.usr1")


def check_new_file(daemon: LoggingDaemon, number: int, old: str) -> None:
    """Check that the daemon goes on with a new file at the signal, and leaves the *old* one."""
    new = daemon.log.name
    daemon.get(f"?before-{old}")
    daemon.send_signal(number)
    wait_for(lambda: daemon.log.exists() and (daemon.folder / old).exists())
    daemon.get(f"?after-{old}")
    before, after = (daemon.count_lines(f"?{when}-{old}") for when in ("before", "after"))
    assert (before[old], before[new]) == (1, 0)
    assert (after[old], after[new]) == (0, 1)


@pytest.mark.parametrize("daemon", ["twistd -n"], indirect=True)
def test_signals_end_no_daemon_without_a_log_file(daemon: LoggingDaemon) -> None:
    for number in (signal.SIGHUP, signal.SIGUSR1):
        daemon.send_signal(number)
        daemon.get("")


@pytest.mark.parametrize("daemon", ["twistd -n, [logging] file", "twistd --logfile"], indirect=True)
def test_a_log_file_that_cannot_be_reopened_remains_in_use(daemon: LoggingDaemon) -> None:
    renamed = daemon.log.rename(daemon.folder / "renamed")
    daemon.log.mkdir()
    daemon.send_signal(signal.SIGHUP)
    wait_for(lambda: "the log file cannot be reopened: " in renamed.read_text())
    daemon.log.rmdir()
    daemon.get("?more")
    assert renamed.read_text().count("?more") == 1


@pytest.mark.parametrize("daemon", ["twistd -n, [logging] file"], indirect=True)
def test_logrotate_loses_no_line(daemon: LoggingDaemon) -> None:
    """The file in etc/ is used as it is, apart from paths and users."""
    logrotate = find_program("logrotate")
    folder = daemon.folder
    reload = folder / "systemctl"
    reload.write_text(f'#!/bin/sh\necho "$@" >>{folder}/reloads\nkill -HUP {daemon.pid}\n')
    reload.chmod(0o755)
    text = (ETC / "mig-api.logrotate").read_text()
    owner = f"{daemon.log.owner()} {daemon.log.group()}"
    for old, new in (
        ("/var/log/mig-api/api.log", str(daemon.log)),
        ("mig-api mig\n", f"{owner}\n"),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "logrotate.conf").write_text(text)
    (folder / "logrotate.conf").chmod(0o644)
    for number in range(3):
        daemon.get(f"?before{number}")
        inode = daemon.log.stat().st_ino
        subprocess.run(
            [
                logrotate,
                "--force",
                "--state",
                str(folder / "state"),
                str(folder / "logrotate.conf"),
            ],
            check=True,
            env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        )
        assert daemon.log.stat().st_ino != inode
        daemon.get(f"?after{number}")
    assert (folder / "reloads").read_text() == "reload mig-api@*.service\n" * 3
    texts = subprocess.run(
        ["zcat", "-f", *folder.glob("api.log*")], capture_output=True, text=True, check=True
    ).stdout
    for number in range(3):
        assert texts.count(f"?before{number}") == texts.count(f"?after{number}") == 1
    assert len(list(folder.glob("api.log*.gz"))) == 2
