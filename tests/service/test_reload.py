"""SIGHUP loads the configuration file again, while the daemon goes on."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, wait_for
from tests.support.postgres import TestDatabase

CONFIGURATION = "[logging]\nmode = file\nfile = FOLDER/api.log\nformat = {format}\n{more}"


class ConfiguredDaemon:
    """A daemon whose configuration file can be changed."""

    def __init__(self, database: TestDatabase, folder: Path) -> None:
        self._file, self._folder = folder / "api.cfg", folder
        self._log = folder / "api.log"
        self.configure("text")
        arguments = ("--config", str(self._file), "--database", database.dsn, "--listen", "tcp:0")
        self._daemon = Daemon(*arguments, cwd=folder, log=self._log)
        self.stop = self._daemon.stop

    def configure(self, format_: str, more: str = "") -> None:
        text = CONFIGURATION.format(format=format_, more=more)
        self._file.write_text(text.replace("FOLDER", str(self._folder)))

    def reload(self, said: str) -> list[str]:
        """Send SIGHUP, wait until the log says *said*, and return its lines since before."""
        before = len(self._log.read_text())
        self._daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: said in self._log.read_text()[before:])
        return self._log.read_text()[before:].splitlines()

    def log_request(self) -> str:
        """Return the line of a request."""
        before = len(self._log.read_text())
        urllib.request.urlopen(self._daemon.base).read()
        return self._log.read_text()[before:]


@pytest.fixture
def daemon(database: TestDatabase, tmp_path: Path) -> Iterator[ConfiguredDaemon]:
    running = ConfiguredDaemon(database, tmp_path)
    yield running
    running.stop()


def test_a_new_configuration_is_used_or_the_log_says_why_not(daemon: ConfiguredDaemon) -> None:
    # a key that has its effect while the daemon runs
    assert "GET" in daemon.log_request().split()
    daemon.configure("json")
    [line] = daemon.reload("loaded from")
    assert json.loads(line)["message"].endswith("/api.cfg: [logging] format")
    assert json.loads(daemon.log_request())["method"] == "GET"
    daemon.configure("text")
    daemon.reload("loaded from")
    assert "GET" in daemon.log_request().split()
    # a fault in any key, with which nothing changes
    daemon.configure("json", "[server]\nport = x\n")
    [line] = daemon.reload("not loaded")
    assert "the one before it remains in use: " in line
    assert "[server] port must be a whole number from 1 to 65535" in line
    assert "GET" in daemon.log_request().split()
    # a key that needs a new start, which is named each time until there is no difference
    secret = "[postgres]\npassword = secret\n"
    for more in (secret, secret + "dbname = other\n"):
        daemon.configure("text", more)
        [line] = daemon.reload("after the next start")
        assert "[postgres] password" in line and "secret" not in line
    assert "[postgres] dbname" in line
    daemon.configure("json")
    assert len(daemon.reload("loaded from")) == 1
