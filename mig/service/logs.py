"""The log: its destination from the configuration file, and the access lines."""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final, TextIO

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    formatEventAsClassicLogText,
    formatTime,
)
from zope.interface import implementer

from mig.errors import LogError
from mig.service.config_file import Logging
from mig.web.request import RequestEnded
from mig.web.urlencoded import escape_bytes

SYSLOG_SOCKET: Final = Path("/dev/log")
FACILITY_LOCAL3: Final = 19
"""The facility that MIG has always used."""
MAX_DATAGRAM_BYTES: Final = 8192  # many log servers cut or drop longer ones
MAX_OUTCOME_CHARACTERS: Final = 512

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


_SocketAddress = str | tuple[str | int | bytes, ...]


def configure_log(
    logging: Logging,
    parent: MutableMapping[str, object],
    *,
    syslog_socket: Path = SYSLOG_SOCKET,
) -> ILogObserver | None:
    """Return the observer that writes twistd's log, or ``None`` to leave it to twistd.

    :param parent: the options of twistd or twist; they take precedence over ``logging``.
    :param syslog_socket: the socket of the local log server.
    :raises LogError: when the file cannot be opened or the log server has no address.
    """
    observer = None if _has_log_option(parent) else _make_observer(logging, parent, syslog_socket)
    if observer is None or "fileLogObserverFactory" not in parent:
        return observer
    # twist gets its observer from its options, not from the application as twistd does.
    parent["fileLogObserverFactory"] = lambda _: observer
    parent["logLevel"] = LogLevel.debug
    return None


def _has_log_option(parent: Mapping[str, object]) -> bool:
    """Return whether the command line sets the destination of the log."""
    of_twist = parent.get("logFile", sys.stdout) is not sys.stdout
    return of_twist or any(parent.get(name) for name in ("logfile", "syslog", "logger"))


def _make_observer(
    logging: Logging, parent: Mapping[str, object], syslog_socket: Path
) -> ILogObserver | None:
    """Return the observer that the configuration asks for; ``None`` leaves the log to twistd.

    A daemon in the background has no standard output, and twistd writes to its own file instead.
    twist is always in the foreground, and has no option ``nodaemon``; its own options count while
    ``logging`` is the default.
    """
    if logging.mode == "file":
        return _filter_by_level(FileLogObserver(_open_log_file(logging), _format_line), logging)
    if logging.mode == "syslog":
        return _filter_by_level(
            _SyslogObserver(*_resolve_log_server(logging, syslog_socket)), logging
        )
    if parent.get("nodaemon", logging != Logging()):
        return _filter_by_level(FileLogObserver(sys.stdout, _format_line), logging)
    return None


def _filter_by_level(observer: ILogObserver, logging: Logging) -> ILogObserver:
    level = LogLevelFilterPredicate(defaultLogLevel=_LEVELS[logging.level])
    return FilteringLogObserver(observer, [level])


def _format_line(event: LogEvent) -> str | None:
    """Return a line as twistd writes it."""
    return formatEventAsClassicLogText(event, lambda when: _format_time(int(when or 0)))


@lru_cache(maxsize=1)
def _format_time(seconds: int) -> str:
    """Return the time of a line, the same text for a whole second."""
    return formatTime(seconds)  # docs/decisions/0038


def _open_log_file(logging: Logging) -> TextIO:
    """Open the log file for appending, readable by its owner and group.

    :raises LogError: when it cannot be opened.
    """
    assert logging.file is not None
    try:
        log = logging.file.open("a", encoding="utf-8", errors="backslashreplace")
    except OSError as reason:
        raise LogError(f"[logging] cannot open {logging.file}: {reason.strerror}") from None
    with suppress(PermissionError):  # the file belongs to another user, who has set its mode
        if stat.S_ISREG(os.fstat(log.fileno()).st_mode):
            os.fchmod(log.fileno(), 0o640)
    return log


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


# The name that these lines have always had: filters of the log may match on it.
_access_logger = Logger(namespace="mig.web.request.Request")


def write_access_line(event: RequestEnded) -> None:
    """Write the line of a request that has ended."""
    line = (
        f"{event.operation} {event.client} {escape_bytes(event.method)}"
        f" {escape_bytes(event.uri)} {event.status} {event.seconds:.3f}s"
        f" {event.rows} rows {event.sent_bytes} bytes: {event.outcome[:MAX_OUTCOME_CHARACTERS]}"
    )
    # Formatted here: Twisted takes three times as long to format an event with many fields.
    _access_logger.info(line.replace("{", "{{").replace("}", "}}"))


@implementer(ILogObserver)
class _SyslogObserver:
    """An observer that sends events as RFC 3164 datagrams; one that would block is lost."""

    def __init__(self, family: socket.AddressFamily, address: _SocketAddress) -> None:
        self._address = address
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def __call__(self, event: LogEvent) -> None:
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
        priority = FACILITY_LOCAL3 * 8 + _SEVERITIES.get(event.get("log_level", LogLevel.info), 6)
        datagram = f"<{priority}>mig-api[{os.getpid()}]: {text}".encode(errors="backslashreplace")
        with suppress(OSError):
            self._socket.sendto(datagram[:MAX_DATAGRAM_BYTES], self._address)
