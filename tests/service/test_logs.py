"""The log goes where [logging] says, unless an option of twistd says otherwise."""

from __future__ import annotations

import json
import socket
import stat
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import Logger, LogLevel, textFileLogObserver
from twisted.scripts._twistd_unix import ServerOptions

from mig.account import Account
from mig.errors import LogError
from mig.service import logs
from mig.service.config_file import Logging
from tests.support.reactor import record_log

FOREGROUND: dict[str, object] = {"nodaemon": True}
ACCOUNT = Account.of_process()


def make_logger(logging: Logging, syslog_socket: Path = logs.SYSLOG_SOCKET) -> Logger:
    log = logs.configure_log(logging, FOREGROUND, ACCOUNT, syslog_socket=syslog_socket)
    assert log.observer is not None
    return Logger(namespace="test", observer=log.observer)


def test_a_log_file_is_appended_to_and_not_readable_by_others(tmp_path: Path) -> None:
    file = tmp_path / "api.log"
    file.write_text("before\n")
    file.chmod(0o666)
    log = make_logger(Logging(mode="file", file=file, level="warning"))
    log.info("not this")
    log.warn("but {what}", what="this")
    before, line = file.read_text().splitlines()
    assert (before, line.endswith("[test#warn] but this")) == ("before", True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_log_file_that_cannot_be_opened_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(LogError) as told:
        logs.configure_log(Logging(mode="file", file=tmp_path / "no" / "log"), FOREGROUND, ACCOUNT)
    assert str(told.value) == f"[logging] cannot open {tmp_path}/no/log: No such file or directory"


def test_syslog_gets_datagrams_and_never_blocks(tmp_path: Path) -> None:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    unix.bind(str(tmp_path / "log"))
    port = udp.getsockname()[1]
    for server, protocol in ((udp, "udp"), (unix, "unix")):
        server.settimeout(10)
        logging = Logging(mode="syslog", host="127.0.0.1", port=port, protocol=protocol)
        log = make_logger(logging, tmp_path / "log")
        log.debug("not this")
        log.critical("this")
        log.info("this too")
        assert server.recv(9999).startswith(b"<154>mig-api[")
        assert server.recv(9999).endswith(b"]: this too")
    for _ in range(5000):
        log.error("more than the queue holds")
    unix.close()
    log.error("nobody takes it")


def test_a_missing_log_server_is_reported_in_one_line(tmp_path: Path) -> None:
    for logging, why in (
        (
            Logging(mode="syslog", protocol="unix"),
            f"{tmp_path}/log is not the socket of a log server",
        ),
        (Logging(mode="syslog", host="no-such-host.invalid"), "cannot be resolved"),
    ):
        with pytest.raises(LogError, match=why):
            logs.configure_log(logging, FOREGROUND, ACCOUNT, syslog_socket=tmp_path / "log")


def test_twistd_keeps_its_own_log_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = logs.configure_log(Logging(level="error"), {"nodaemon": 0}, ACCOUNT)
    assert log.observer is not None
    Logger(namespace="test", observer=log.observer).debug("every level")
    assert (tmp_path / "twistd.log").read_text().endswith("[test#debug] every level\n")


def test_twist_keeps_its_own_log_unless_one_is_configured() -> None:
    parent: dict[str, object] = {
        "logFile": sys.stdout,
        "fileLogObserverFactory": None,
        "logLevel": LogLevel.info,
    }
    assert logs.configure_log(Logging(), parent, ACCOUNT).observer is None
    assert parent["fileLogObserverFactory"] is None


def test_log_lines_look_like_those_of_twistd(capsys: pytest.CaptureFixture[str]) -> None:
    twistd = StringIO()
    observer = logs.configure_log(Logging(), FOREGROUND, ACCOUNT).observer
    twistd_observer = textFileLogObserver(twistd)
    assert observer is not None
    for seconds in (0.0, 0.9, 1.1, 3600.0, 180 * 86_400.0):
        event = {
            "log_time": 1_790_000_000 + seconds,
            "log_namespace": "test",
            "log_level": LogLevel.info,
            "log_format": "two\nlines",
        }
        observer(event)
        twistd_observer(event)
    assert capsys.readouterr().out == twistd.getvalue() != ""


def test_the_configured_level_applies_in_the_foreground(capsys: pytest.CaptureFixture[str]) -> None:
    log = make_logger(Logging(level="error"))
    log.warn("not this")
    log.error("this")
    assert capsys.readouterr().out.endswith("[test#error] this\n")


@pytest.mark.parametrize(
    "options", [["--logfile", "OWN"], ["--logfile", "-"], ["--syslog"], ["--logger", "test.log"]]
)
def test_an_option_of_twistd_overrides_the_configuration(
    options: list[str], tmp_path: Path
) -> None:
    own, file = tmp_path / "own", tmp_path / "log"
    parent = ServerOptions()
    for name, value in (("logfile", None), ("syslog", 0), ("logger", None), ("nodaemon", 1)):
        parent[name] = value
    parent[options[0].removeprefix("--")] = options[-1].replace("OWN", str(own))
    log = logs.configure_log(Logging(mode="file", file=file), parent, ACCOUNT)
    if log.observer is not None:
        Logger(namespace="test", observer=log.observer).info("this")
    assert own.exists() == ("OWN" in options)
    assert not own.exists() or own.read_text().endswith("this\n")
    assert not file.exists()


def test_twist_logs_to_the_configured_file_unless_told_otherwise(tmp_path: Path) -> None:
    parent: dict[str, Any] = {
        "logFile": sys.stdout,
        "fileLogObserverFactory": None,
        "logLevel": LogLevel.info,
    }
    configured = Logging(mode="file", file=tmp_path / "log")
    assert logs.configure_log(configured, parent, ACCOUNT).observer is None
    Logger(namespace="test", observer=parent["fileLogObserverFactory"](sys.stdout)).info("this")
    assert (tmp_path / "log").read_text().endswith("this\n")
    with (tmp_path / "own").open("w") as own:
        parent = {"logFile": own, "fileLogObserverFactory": None}
        assert logs.configure_log(configured, parent, ACCOUNT).observer is None
        assert parent["fileLogObserverFactory"] is None


def test_json_is_for_every_destination_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where an option of twistd sets the destination, except an observer of its own."""
    cases: list[tuple[Logging, dict[str, object]]] = [
        (Logging(format="json"), {}),
        (Logging(format="json"), {"logfile": "-"}),
        (Logging(format="json", mode="file", file=tmp_path / "2"), {}),
        (Logging(format="json"), {"logfile": tmp_path / "3"}),
    ]
    for number, (logging, options) in enumerate(cases):
        log = logs.configure_log(logging, {**FOREGROUND, **options}, ACCOUNT)
        Logger(namespace="test", observer=log.observer).info("this")
        file = tmp_path / str(number)
        [line] = (file.read_text() if number > 1 else capsys.readouterr().out).splitlines()
        assert json.loads(line)["message"] == "this"
        log.change_format(Logging())
        Logger(namespace="test", observer=log.observer).info("in text again")
        written = file.read_text() if number > 1 else capsys.readouterr().out
        assert written.endswith("[test#info] in text again\n")
    with record_log() as recorded:
        logs.configure_log(Logging(), {**FOREGROUND, "syslog": 1}, ACCOUNT).change_format(
            Logging(format="json")
        )
    assert recorded.lines == [logs.FIXED_FORMAT]
