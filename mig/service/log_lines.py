"""The lines of the log: text as twistd writes it, or a flat JSON object on each."""

from __future__ import annotations

import re
from functools import lru_cache
from json import dumps
from time import gmtime, strftime
from typing import Any, Final

import msgspec
from twisted.logger import (
    LogEvent,
    Logger,
    LogLevel,
    eventAsText,
    formatEventAsClassicLogText,
    formatTime,
)

from mig.access.caller import ANONYMOUS
from mig.hypermedia.urls import HEARTBEAT, READINESS
from mig.values import escape_unprintable
from mig.web.request import RequestEnded
from mig.web.urlencoded import escape_bytes

TEXT: Final = "text"
JSON: Final = "json"

MAX_OUTCOME_CHARACTERS: Final = 512

_CREDENTIALS: Final = re.compile(
    # it begins with =, which is found much faster than one of these words
    "=(?:(?<=key=)|(?<=token=)|(?<=authorization=)|(?<=password=)|(?<=secret=))[^&]*",
    re.IGNORECASE,
)
"""What a client sends as credentials in the query, where none are accepted."""

_CHECKS: Final = (HEARTBEAT, READINESS)
"""What monitoring systems and load balancers ask every few seconds."""

# The name that these lines have always had: filters of the log may match on it.
_access_logger = Logger(namespace="mig.web.request.Request")


class AccessEntry(msgspec.Struct, frozen=True):
    """The line of a request in JSON, with its fields in order.

    ``seconds`` is the time from the end of the headers to the end of the answer, and ``bytes`` what
    was sent of it.
    """

    time: str
    level: str
    operation: str
    caller: str | None
    client: str
    method: str
    route: str | None
    path: str
    status: int
    seconds: float
    rows: int
    bytes: int
    outcome: str
    trace: str | None


class LineFormat:
    """The format of all lines of the log, which may change while the daemon runs.

    :param name: ``text`` or ``json``.
    """

    def __init__(self, name: str = TEXT) -> None:
        self.name = name

    def format_line(self, event: LogEvent) -> str | None:
        """Return an event as a line with its end; ``None`` for one without a message."""
        if self.name == TEXT:
            return formatEventAsClassicLogText(event, _format_local_time)
        entry = _make_entry(event)
        return None if entry is None else f"{_encode(entry)}\n"

    def format_datagram(self, event: LogEvent, max_bytes: int) -> bytes:
        """Return an event as a message to a log server.

        A text is cut at its end. Of an object the longest texts are cut, so that it stays one.
        """
        entry = None if self.name == TEXT else _make_entry(event)
        if entry is None:
            text = eventAsText(event, includeTimestamp=False, includeSystem=False)
            return text.encode(errors="backslashreplace")[:max_bytes]
        message = _encode(entry).encode()
        while len(message) > max_bytes:
            entry = _shorten(entry)
            message = _encode(entry).encode()
        return message

    def log_request(self, request: RequestEnded) -> None:
        """Write the line of a request that has ended."""
        if self.name == JSON:  # _make_entry reads it
            _access_logger.info("{request}", request=request)
            return
        # Formatted here: Twisted takes three times as long to format an event with many fields.
        line = _format_request(request)
        _access_logger.info(line.replace("{", "{{").replace("}", "}}"))

    def log_request_unless_check(self, request: RequestEnded) -> None:
        """Write the line of a request, unless it is a health check that has succeeded."""
        is_good = request.status == 200 and request.outcome == "complete"
        if not (is_good and request.route in _CHECKS and request.method == b"GET"):
            self.log_request(request)


def _format_local_time(when: float | None) -> str:
    return _format_local_second(int(when or 0))


@lru_cache(maxsize=1)
def _format_local_second(seconds: int) -> str:
    """Return the time of a line of text, the same for a whole second."""
    return formatTime(seconds)  # docs/decisions/0038


@lru_cache(maxsize=1)
def _format_utc_second(seconds: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds))


def _format_utc_time(when: float) -> str:
    """Return the time of an entry, to the millisecond."""
    seconds = int(when)
    return f"{_format_utc_second(seconds)}.{int((when - seconds) * 1000):03d}Z"


def _format_request(request: RequestEnded) -> str:
    trace = f" trace {request.trace}" if request.trace else ""
    return (
        f"{request.operation} {request.client} {request.caller or '-'}"
        f" {escape_bytes(request.method)} {_format_uri(request)}"
        f" {request.status} {request.seconds:.3f}s"
        f" {request.rows} rows {request.sent_bytes} bytes{trace}: {_format_outcome(request)}"
    )


def _format_uri(request: RequestEnded) -> str:
    """Return path and query, without credentials that the query should not have."""
    return _CREDENTIALS.sub("=***", escape_bytes(request.uri))


def _format_outcome(request: RequestEnded) -> str:
    return escape_unprintable(request.outcome[:MAX_OUTCOME_CHARACTERS])


_Entry = AccessEntry | dict[str, Any]


def _make_entry(event: LogEvent) -> _Entry | None:
    """Return an event as an object; ``None`` for one without a message."""
    request = event.get("request")
    time = _format_utc_time(event.get("log_time", 0.0))
    level = event.get("log_level", LogLevel.info)
    level_name = "warning" if level is LogLevel.warn else level.name  # as in [logging] level
    if isinstance(request, RequestEnded):
        return AccessEntry(
            time=time,
            level=level_name,
            operation=request.operation,
            caller=None if request.caller == ANONYMOUS.label else request.caller,
            client=request.client,
            method=escape_bytes(request.method),
            route=request.route,
            path=_format_uri(request),
            status=request.status,
            seconds=round(request.seconds, 6),
            rows=request.rows,
            bytes=request.sent_bytes,
            outcome=_format_outcome(request),
            trace=request.trace,
        )
    message = eventAsText(event, includeTimestamp=False, includeSystem=False)
    if not message:
        return None
    entry = {"time": time, "level": level_name}
    if isinstance(event.get("operation"), str):
        entry["operation"] = event["operation"]
    return {**entry, "logger": event.get("log_namespace") or "-", "message": message}


_encode_struct: Final = msgspec.json.Encoder().encode


def _encode(entry: _Entry) -> str:
    if isinstance(entry, AccessEntry):
        return _encode_struct(entry).decode()
    return dumps(entry)  # in ASCII: a message may have characters that end a line


def _shorten(entry: _Entry) -> dict[str, Any]:
    """Return an object without the second half of its longest text."""
    fields = msgspec.structs.asdict(entry) if isinstance(entry, AccessEntry) else entry
    texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    longest = max(texts, key=lambda name: len(texts[name]))
    return {**fields, longest: texts[longest][: len(texts[longest]) // 2]}
