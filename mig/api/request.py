"""What is done with a request before Klein sees it, and how any answer leaves."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.logger import Logger
from twisted.web import server
from twisted.web.http import datetimeToString
from werkzeug.http import parse_accept_header

from mig.records import collection
from mig.values import InvalidInput, new_id

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
MOST_PARAMETERS = 64
LONGEST_OUTCOME = 512

_METHOD = re.compile(rb"[A-Z]{1,32}")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?", re.ASCII)
_ESCAPES = re.compile(r"%(?![0-9A-Fa-f]{2})")

Parameters = list[tuple[str, str]]


class Request(server.Request):
    """One request: its operation id, checks, negotiated answer and line in the access log.

    ``rows`` and ``outcome`` are for the access log: how many rows were served, and how it ended.
    """

    log = Logger()
    site: Any
    channel: Any

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.operation = str(new_id())
        self.rows = 0
        self.outcome = "complete"
        self.aborted = False
        self._logged = False

    def process(self) -> None:
        """Check what Klein and Werkzeug would trip over, then hand the request to them."""
        self.site = self.channel.site
        self._started = self.site.clock.seconds()
        self.setHeader(b"date", datetimeToString())
        self.setHeader(b"x-request-id", self.operation.encode())
        self.notifyFinish().addErrback(self._left)
        try:
            self._check()
        except InvalidInput as refusal:
            self.write(self.site.errors.refused(self, refusal))
            self.finish()
            return
        super().process()

    def _check(self) -> None:
        if not _METHOD.fullmatch(self.method):
            raise InvalidInput("the method must be in capital letters", "method")
        self._check_target()
        try:
            path = unquote_to_bytes(self.path).decode()
        except UnicodeDecodeError:
            raise InvalidInput("the path is not UTF-8", "path") from None
        if "\0" in path:
            raise InvalidInput("the path holds a NUL character", "path")
        hosts = self.requestHeaders.getRawHeaders(b"host", [])
        if len(hosts) > 1:
            raise InvalidInput("the header Host is given twice", "Host")
        if hosts:
            self._check_host(hosts[0].decode("latin-1"))
        elif self.clientproto != b"HTTP/1.0":
            raise InvalidInput("the header Host is missing", "Host")
        self.requestHeaders.setRawHeaders(b"host", [self.site.public_host])

    def _check_target(self) -> None:
        """Take the address of an absolute form apart; refuse what is no path (RFC 9112, 3.2)."""
        absolute = _ABSOLUTE.fullmatch(self.uri)
        if absolute:
            self.uri = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
            self.path = self.uri.partition(b"?")[0]
            self._check_host(absolute[1].decode("latin-1"))
        elif not self.uri.startswith(b"/"):
            self.uri = self.path = b"/"
            raise InvalidInput("the request's target must be a path", "path")

    def _check_host(self, text: str) -> None:
        match = _HOST.fullmatch(text)
        name = match[1].lower() if match else ""
        local = getattr(self.getHost(), "host", "")
        if name not in LOOPBACK | self.site.host_names | {local, f"[{local}]"} - {""}:
            raise InvalidInput(
                f"the header Host must be {' or '.join(sorted(self.site.host_names | LOOPBACK))}"
                " or the address of a listener",
                "Host",
            )

    def parameters(self) -> Parameters:
        """Names and values of the query string, in order, taken strictly.

        :raises InvalidInput: for broken percent-encoding, text that is no UTF-8, NUL, and for
            more than :data:`MOST_PARAMETERS`.
        """
        pieces = [p for p in self.uri.partition(b"?")[2].split(b"&") if p]
        if len(pieces) > MOST_PARAMETERS:
            raise InvalidInput(f"there are more than {MOST_PARAMETERS} parameters")
        return [
            (_decoded(name, "a parameter's name"), _decoded(value, _printable(name)))
            for name, _, value in (piece.partition(b"=") for piece in pieces)
        ]

    def href(self) -> str:
        """The address that answers, under the public URL."""
        root: str = self.site.urls.root
        return root + _uri(self.uri.decode("latin-1"))

    def negotiate(self) -> None:
        """Set the media type that the client prefers for a Collection+JSON document."""
        accept = ",".join(
            header.decode("latin-1") for header in self.requestHeaders.getRawHeaders(b"accept", [])
        )
        self.setHeader(b"server", b"mig-api")
        self.setHeader(b"content-type", media_type(accept))
        self.setHeader(b"vary", b"Accept")

    def answer(self, document: bytes, status: int = 200) -> bytes:
        """A whole document as the answer to this request; the caller writes it."""
        self.setResponseCode(status)
        self.negotiate()
        self.setHeader(b"content-length", b"%d" % len(document))
        return document

    def abort(self, outcome: str) -> None:
        """Cut the connection, so that the client sees that its answer is not whole."""
        self.outcome = outcome
        self.aborted = True
        if self.channel is not None:
            self.channel.transport.abortConnection()

    def finish(self) -> None:
        if not self.aborted:
            super().finish()
            self._write_access_line()

    def _left(self, reason: Any) -> None:
        if not self.aborted:
            self.outcome = "client left"
        self._write_access_line()

    def _write_access_line(self) -> None:
        if self._logged:
            return
        self._logged = True
        self.log.info(
            "{operation} {client} {method} {uri} {status} {seconds:.3f}s"
            " {rows} rows {bytes} bytes: {outcome}",
            operation=self.operation,
            client=getattr(self.client, "host", "unix"),
            method=_printable(self.method),
            uri=_printable(self.uri),
            status=self.code,
            seconds=self.site.clock.seconds() - self._started,
            rows=self.rows,
            bytes=self.sentLength,
            outcome=self.outcome[:LONGEST_OUTCOME],
        )


@lru_cache(maxsize=256)
def media_type(accept: str) -> bytes:
    """The media type of a Collection+JSON document for a client that accepts *accept*."""
    wanted = max(_quality(accept, "application/json"), _quality(accept, "text/html"))
    if wanted > _quality(accept, collection.MEDIA_TYPE):
        return b"application/json"
    return collection.MEDIA_TYPE.encode()


def _quality(accept: str, media_type: str) -> float:
    """How much a client wants exactly this media type; 0 when it does not name it."""
    return max(
        (
            quality
            for value, quality in parse_accept_header(accept)
            if value.partition(";")[0].strip().lower() == media_type
        ),
        default=0.0,
    )


def _decoded(raw: bytes, what: str) -> str:
    text = raw.replace(b"+", b" ").decode("latin-1")
    if _ESCAPES.search(text):
        raise InvalidInput(f"{what}: % must be followed by two hexadecimal digits", what)
    try:
        decoded = unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"{what} is not UTF-8", what) from None
    if "\0" in decoded:
        raise InvalidInput(f"{what} holds a NUL character", what)
    return decoded


def _printable(raw: bytes) -> str:
    """Bytes of a request as one line of printable ASCII, cut to a length a log can bear."""
    return ascii(raw[:1024].decode("latin-1"))[1:-1]


def _uri(text: str) -> str:
    """*text* as it came, what a URI must not hold percent-encoded."""
    return re.sub(
        r"[^A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]",
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("latin-1")),
        text,
    )
