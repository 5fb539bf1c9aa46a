"""The log and its destination, from the configuration file or the options of twistd."""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Final, TextIO

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
)
from twisted.python.logfile import LogFile
from zope.interface import implementer

from mig.account import Account
from mig.errors import LogError, describe_error
from mig.service.config_file import Logging
from mig.service.log_lines import TEXT, LineFormat
from mig.web.site import RequestObserver

SYSLOG_SOCKET: Final = Path("/dev/log")
FACILITY_LOCAL3: Final = 19
"""The facility that MIG has always used."""
MAX_DATAGRAM_BYTES: Final = 8192  # many log servers cut or drop longer ones
FIXED_FORMAT: Final = (
    "[logging] format has no effect: twistd or twist writes the log itself, as its options ask for"
)

_LEVELS: Final = {
    "debug": LogLevel.debug,
    "info": LogLevel.info,
    "warning": LogLevel.warn,
    "error": LogLevel.error,
    "critical": LogLevel.critical,
}
_SEVERITIES: Final = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}


_logger = Logger()

_SocketAddress = str | tuple[str | int | bytes, ...]


def _do_nothing() -> None:
    """Do what a signal does to a log without a file."""


@dataclass(frozen=True, kw_only=True)
class Log:
    """The log of the daemon, and what SIGHUP and SIGUSR1 do to its file.

    ``observer`` is ``None`` when twistd or twist has one of its own. ``lines`` is the format of the
    lines; ``None`` when that observer has a format of its own. ``reopen`` goes on with the file
    that has the log's name now; ``rotate`` does the same, or renames twistd's own log first.
    """

    observer: ILogObserver | None = None
    lines: LineFormat | None = None
    reopen: Callable[[], None] = _do_nothing
    rotate: Callable[[], None] = _do_nothing

    def make_access_logger(self, logging: Logging) -> RequestObserver:
        """Return the observer of requests that writes the access log."""
        lines = self.lines or LineFormat()
        return lines.log_request if logging.heartbeat else lines.log_request_unless_check

    def change_format(self, logging: Logging) -> None:
        """Write the next lines in the format that ``logging`` names."""
        if self.lines is not None:
            self.lines.name = logging.format
        elif logging.format != TEXT:
            _logger.warn("{warning}", warning=FIXED_FORMAT)


def configure_log(
    logging: Logging,
    parent: MutableMapping[str, object],
    account: Account,
    *,
    syslog_socket: Path = SYSLOG_SOCKET,
) -> Log:
    """Return the log that the options of twistd or twist ask for, or else ``logging``.

    :param parent: the options of twistd or twist, which take precedence.
    :param account: the account of the running daemon, which must be able to reopen a log file.
    :param syslog_socket: the socket of the local log server.
    :raises LogError: when the file cannot be opened or the log server has no address.
    """
    if "fileLogObserverFactory" not in parent:
        return _configure_twistd_log(logging, parent, account, syslog_socket)
    if parent["logFile"] is not sys.stdout:
        return _make_twist_log(parent["logFile"])
    log = Log() if logging == Logging() else _make_log(logging, account, syslog_socket)
    if log.observer is None:
        return log
    # twist gets its observer from its options, not from the application as twistd does.
    observer = log.observer
    parent["fileLogObserverFactory"] = lambda _: observer
    parent["logLevel"] = LogLevel.debug
    return replace(log, observer=None)


def _configure_twistd_log(
    logging: Logging, parent: Mapping[str, object], account: Account, syslog_socket: Path
) -> Log:
    if parent.get("logger") or parent.get("syslog"):
        return Log()
    file = str(parent.get("logfile") or "")
    if file == "-":
        return _make_stream_log(LineFormat(logging.format)) if parent.get("nodaemon") else Log()
    if file:
        return _make_twistd_log(Path(file), account, LineFormat(logging.format))
    if logging.mode == "stdout" and not parent.get("nodaemon"):
        # there is no standard output
        return _make_twistd_log(Path("twistd.log"), account, LineFormat(logging.format))
    return _make_log(logging, account, syslog_socket)


def _make_stream_log(lines: LineFormat) -> Log:
    """Return the log that twistd would write to the standard output."""
    return Log(observer=FileLogObserver(sys.stdout, lines.format_line), lines=lines)


def _make_twistd_log(path: Path, account: Account, lines: LineFormat) -> Log:
    """Return the log that twistd would write to ``path``, but which can also be reopened.

    :raises LogError: when it cannot be opened.
    """
    path = path.absolute()
    try:
        _open_for_appending(path, account).close()
        with account.act():
            file = LogFile.fromFullPath(str(path))
    except OSError as reason:
        raise LogError(_explain_failure(path, account, reason)) from None

    def reopen() -> None:
        # LogFile closes the old file first: if it cannot open the new one, nothing is logged.
        with path.open("ab+"):
            file.reopen()

    observer = FileLogObserver(file, lines.format_line)
    return Log(observer=observer, lines=lines, reopen=reopen, rotate=file.rotate)


def _make_twist_log(file: object) -> Log:
    """Return the log that twist writes to the file of its option ``log-file``."""
    if not isinstance(file, TextIOWrapper) or file in (sys.stdout, sys.stderr):
        return Log()
    path = Path(file.name).absolute()
    reopen = partial(_replace_file, file, lambda: path.open("a"))
    return Log(reopen=reopen, rotate=reopen)


def _make_log(logging: Logging, account: Account, syslog_socket: Path) -> Log:
    """Return the log that the configuration asks for.

    :raises LogError: when the file cannot be opened or the log server has no address.
    """
    lines = LineFormat(logging.format)
    if logging.mode == "syslog":
        server = _SyslogObserver(*_resolve_log_server(logging, syslog_socket), lines)
        return Log(observer=_filter_by_level(server, logging), lines=lines)
    if logging.mode == "stdout":
        observer = FileLogObserver(sys.stdout, lines.format_line)
        return Log(observer=_filter_by_level(observer, logging), lines=lines)
    assert logging.file is not None
    try:
        file = _open_log_file(logging.file, account)
    except OSError as reason:
        raise LogError(f"[logging] {_explain_failure(logging.file, account, reason)}") from None
    reopen = partial(_replace_file, file, partial(_open_log_file, logging.file, account))
    observer = FileLogObserver(file, lines.format_line)
    return Log(
        observer=_filter_by_level(observer, logging), lines=lines, reopen=reopen, rotate=reopen
    )


def _explain_failure(path: Path, account: Account, reason: OSError) -> str:
    who = "" if account.is_current else f"the user {account.name} "
    return f"{who}cannot open {path}: {reason.strerror}"


def handle_signals(reactor: IReactorFromThreads, log: Log, reload: Callable[[], None]) -> None:
    """Have SIGHUP reopen the log file, and SIGUSR1 rotate it; neither ends the process.

    twistd installs a handler of SIGUSR1 only for a log of its own: docs/decisions/0047.

    :param reload: what SIGHUP does, too, and says in the reopened log.
    """
    signals: dict[signal.Signals, list[Callable[[], None]]] = {
        signal.SIGHUP: [partial(_change_file, log.reopen), reload],
        signal.SIGUSR1: [partial(_change_file, log.rotate)],
    }

    def schedule(number: int, _frame: object) -> None:
        for call in signals[signal.Signals(number)]:
            reactor.callFromThread(call)

    for number in signals:
        signal.signal(number, schedule)


def _change_file(change: Callable[[], None]) -> None:
    """Reopen or rotate the log file; when that fails, the old file remains in use."""
    try:
        change()
    except OSError as reason:
        _logger.error("the log file cannot be reopened: {reason}", reason=describe_error(reason))


def _filter_by_level(observer: ILogObserver, logging: Logging) -> ILogObserver:
    level = LogLevelFilterPredicate(defaultLogLevel=_LEVELS[logging.level])
    return FilteringLogObserver(observer, [level])


def _open_log_file(path: Path, account: Account) -> TextIO:
    """Open a log file for appending, readable by its owner and group.

    :raises OSError: when ``account`` cannot write to it.
    """
    log = _open_for_appending(path, account)
    with suppress(PermissionError):  # the file belongs to another user, who has set its mode
        if stat.S_ISREG(os.fstat(log.fileno()).st_mode):
            os.fchmod(log.fileno(), 0o640)
    return log


def _open_for_appending(path: Path, account: Account) -> TextIO:
    """Open a file as ``account``, so that it can be opened again later.

    A file that is missing and that only root can make is made by root, for the account.

    :raises OSError: when it cannot be opened.
    """
    open_file = partial(path.open, "a", encoding="utf-8", errors="backslashreplace")
    try:
        with account.act():
            return open_file()
    except PermissionError:
        if account.is_current or os.path.lexists(path):
            raise
    made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    os.fchown(made, account.uid, account.gid)
    os.close(made)
    with account.act():
        return open_file()


def _replace_file(file: TextIO, open_new: Callable[[], TextIO]) -> None:
    """Have ``file`` write to a newly opened file; nothing changes when that cannot be opened.

    :raises OSError: when the new file cannot be opened.
    """
    with open_new() as new:
        os.dup2(new.fileno(), file.fileno(), inheritable=False)


def _resolve_log_server(
    logging: Logging, syslog_socket: Path
) -> tuple[socket.AddressFamily, _SocketAddress]:
    """Return family and address of the log server, looked up once: a look-up blocks.

    :raises LogError: when there is none.
    """
    if logging.protocol == "unix":
        if not syslog_socket.is_socket():
            raise LogError(f"[logging] {syslog_socket} is not the socket of a log server")
        return socket.AF_UNIX, str(syslog_socket)
    try:
        addresses = socket.getaddrinfo(logging.host, logging.port, type=socket.SOCK_DGRAM)
    except OSError:
        raise LogError(f"[logging] the host name {logging.host} cannot be resolved") from None
    family, _, _, _, address = addresses[0]
    return family, address


@implementer(ILogObserver)
class _SyslogObserver:
    """An observer that sends events as RFC 3164 datagrams; one that would block is lost."""

    def __init__(
        self, family: socket.AddressFamily, address: _SocketAddress, lines: LineFormat
    ) -> None:
        self._address = address
        self._lines = lines
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def __call__(self, event: LogEvent) -> None:
        priority = FACILITY_LOCAL3 * 8 + _SEVERITIES.get(event.get("log_level", LogLevel.info), 6)
        header = f"<{priority}>mig-api[{os.getpid()}]: ".encode()
        message = self._lines.format_datagram(event, MAX_DATAGRAM_BYTES - len(header))
        with suppress(OSError):
            self._socket.sendto(header + message, self._address)
