"""Where the log goes when the configuration file says so, and no option of twistd does."""

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
MAX_DATAGRAM_BYTES: Final = 8192
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
    """What is to write twistd's log, or ``None`` where its own way is the right one.

    twist asks its options instead of its application who writes: there they are changed.

    :param parent: the options of twistd or twist; what they say about the log wins.
    :param syslog_socket: where the log server of this machine takes datagrams.
    :raises LogError: when the file cannot be opened or the log server has no address.
    """
    observer = None if _has_log_option(parent) else _make_observer(logging, parent, syslog_socket)
    if observer is None or "fileLogObserverFactory" not in parent:
        return observer
    parent["fileLogObserverFactory"] = lambda _: observer
    parent["logLevel"] = LogLevel.debug
    return None


def _has_log_option(parent: Mapping[str, object]) -> bool:
    """Whether the command line says where the log goes."""
    of_twist = parent.get("logFile", sys.stdout) is not sys.stdout
    return of_twist or any(parent.get(name) for name in ("logfile", "syslog", "logger"))


def _make_observer(
    logging: Logging, parent: Mapping[str, object], syslog_socket: Path
) -> ILogObserver | None:
    """What the configuration asks for.

    A daemon in the background has no standard output: twistd alone knows what to do instead. twist
    is always in the foreground, and has options for what is not configured.
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
    """A line as twistd writes it."""
    return formatEventAsClassicLogText(event, lambda when: _format_time(int(when or 0)))


@lru_cache(maxsize=1)
def _format_time(seconds: int) -> str:
    """The time of a line, which is the same for a second."""
    return formatTime(seconds)


def _open_log_file(logging: Logging) -> TextIO:
    """The log file, opened to be appended to, readable for its group alone."""
    assert logging.file is not None
    try:
        log = logging.file.open("a", encoding="utf-8", errors="backslashreplace")
    except OSError as reason:
        raise LogError(f"[logging] cannot open {logging.file}: {reason.strerror}") from None
    with suppress(PermissionError):
        if stat.S_ISREG(os.fstat(log.fileno()).st_mode):
            os.fchmod(log.fileno(), 0o640)
    return log


def _resolve_log_server(
    logging: Logging, syslog_socket: Path
) -> tuple[socket.AddressFamily, _SocketAddress]:
    """Family and address of the log server, looked up once: later it would block."""
    if logging.protocol == "unix":
        if not syslog_socket.is_socket():
            raise LogError(f"[logging] there is no log server at {syslog_socket}")
        return socket.AF_UNIX, str(syslog_socket)
    try:
        found = socket.getaddrinfo(logging.host, logging.port, type=socket.SOCK_DGRAM)
    except OSError:
        raise LogError(f"[logging] the name of host {logging.host} cannot be resolved") from None
    return found[0][0], found[0][4]


_access_logger = Logger(namespace="mig.web.request.Request")  # the name that these lines have had


def write_access_line(event: RequestEnded) -> None:
    """Write the line of a request that has ended."""
    line = (
        f"{event.operation} {event.client or 'unix'} {escape_bytes(event.method)}"
        f" {escape_bytes(event.uri)} {event.status} {event.seconds:.3f}s"
        f" {event.rows} rows {event.sent_bytes} bytes: {event.outcome[:MAX_OUTCOME_CHARACTERS]}"
    )
    # made here, since Twisted takes three times as long to fill in a format of many fields
    _access_logger.info(line.replace("{", "{{").replace("}", "}}"))


@implementer(ILogObserver)
class _SyslogObserver:
    """Sends events as RFC 3164 datagrams; one that cannot be sent at once is lost."""

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
