"""What is done with a request before Klein sees it, and how any answer leaves."""

from __future__ import annotations

import re
from functools import lru_cache
from io import BytesIO
from random import Random
from time import time
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.logger import Logger
from twisted.web import server
from twisted.web.http import datetimeToString
from werkzeug.http import parse_accept_header

from mig.api import errors
from mig.errors import ExpectationFailed, Forbidden, InvalidInput, Refusal, TooLarge
from mig.hypermedia import document as collection
from mig.web import forms as bodies
from mig.web.urlencoded import Parameters, pairs, printable

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
LONGEST_OUTCOME = 512

_operations = Random()  # noqa: S311 - the ids name requests, they keep no secret
_METHOD = re.compile(rb"[A-Z]{1,32}")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?", re.ASCII)

_PORTS = {"http": ":80", "https": ":443"}


class Request(server.Request):
    """One request: its operation id, checks, negotiated answer and line in the access log.

    ``rows`` and ``outcome`` are for the access log: how many rows were served, and how it ended.
    """

    log = Logger()
    site: Any
    channel: Any
    media: bodies.Media
    content: BytesIO

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.operation = str(_operations.getrandbits(53))
        self.rows = 0
        self.outcome = "complete"
        self.aborted = False
        self.begun = False
        self._logged = False
        self._longest = self._received = self._held = 0

    def begin(self, method: bytes, target: bytes, version: bytes) -> None:
        """Take what the request's first line says; from here on there will be an answer."""
        self.begun = True
        self.site = self.channel.site
        self._started = self.site.clock.seconds()
        self.method, self.clientproto = method, version
        self._take_target(target if target.startswith(b"/") else b"/")
        self.setHeader(b"date", _date(int(time())))
        self.setHeader(b"x-request-id", self.operation.encode())
        self.notifyFinish().addErrback(self._left)

    def admit(self, method: bytes, target: bytes, version: bytes, length: int | None) -> None:
        """Refuse what the first line and the headers show to be unfit, before any body is read.

        :param length: of the body in bytes; ``None`` when it comes in chunks.
        :raises Refusal: saying why.
        """
        self.begin(method, target, version)
        if not _METHOD.fullmatch(method):
            raise InvalidInput("the method must be in capital letters", "method")
        addressed = self._check_target(target)
        path = self._decoded_path()
        host = self._host()
        if method == b"POST" or length != 0:
            self._admit_body(path, addressed or host, length)
        expected = self.requestHeaders.getRawHeaders(b"expect", ())
        if any(expectation.lower() != b"100-continue" for expectation in expected):
            raise ExpectationFailed("of Expect, only 100-continue is understood")

    def _admit_body(self, path: str, addressed: str, length: int | None) -> None:
        self._longest = self.site.longest_body(path, self.method.decode())
        if self.method == b"POST":
            self._refuse_foreign_pages(addressed)
            self.media = bodies.media(self.requestHeaders)
        if length is not None and length > self._longest:
            raise TooLarge(self._longest)

    def _refuse_foreign_pages(self, addressed: str) -> None:
        """Refuse what a page of another site makes a browser send, whether its user wants or not.

        :param addressed: host and port by which the client calls us.
        """
        ours = {_origin(self.site.public_origin)}
        if addressed:
            ours |= {_origin(f"{scheme}://{addressed}") for scheme in _PORTS}
        origins = self.requestHeaders.getRawHeaders(b"origin", [])
        sites = self.requestHeaders.getRawHeaders(b"sec-fetch-site", [])
        if any(_origin(origin.decode("latin-1")) not in ours for origin in origins) or any(
            site not in (b"same-origin", b"none") for site in sites
        ):
            raise Forbidden("the page of another site must not submit anything here")

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()
        if length != 0:
            self.notifyFinish().addBoth(self._release)

    def handleContentChunk(self, data: bytes) -> None:
        if self.finished:
            return
        self._received += len(data)
        try:
            if self._received > self._longest:
                raise TooLarge(self._longest)
            if self.method == b"POST":
                self.site.hold(len(data))
                self._held += len(data)
                self.content.write(data)
        except Refusal as refusal:
            self.channel.refuse(refusal)

    def _release(self, _: Any) -> None:
        self.site.hold(-self._held)
        self._held = 0

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The request is whole; its first line was taken when it was admitted."""
        self.content.seek(0)
        self.args = {}
        self.process()

    def refuse(self, refusal: Refusal) -> None:
        """Answer *refusal* and nothing else on this connection."""
        self.setHeader(b"connection", b"close")
        self.write(errors.refused(self, refusal))
        self.finish()

    def _take_target(self, target: bytes) -> None:
        self.uri = target
        self.path = target.partition(b"?")[0]

    def _decoded_path(self) -> str:
        try:
            path = unquote_to_bytes(self.path).decode()
        except UnicodeDecodeError:
            raise InvalidInput("the path is not UTF-8", "path") from None
        if "\0" in path:
            raise InvalidInput("the path holds a NUL character", "path")
        return path

    def _host(self) -> str:
        """The header Host, checked, which is then overwritten by the public one."""
        hosts = self.requestHeaders.getRawHeaders(b"host", [])
        if len(hosts) > 1:
            raise InvalidInput("the header Host is given twice", "Host")
        if not hosts and self.clientproto != b"HTTP/1.0":
            raise InvalidInput("the header Host is missing", "Host")
        host = hosts[0].decode("latin-1") if hosts else ""
        if hosts:
            self._check_host(host)
        self.requestHeaders.setRawHeaders(b"host", [self.site.public_host])
        return host

    def _check_target(self, target: bytes) -> str:
        """Take an absolute form apart; refuse what is no path (RFC 9112, 3.2).

        :returns: host and port of the absolute form, else nothing.
        """
        if target.startswith(b"/"):
            return ""
        absolute = _ABSOLUTE.fullmatch(target)
        if not absolute:
            raise InvalidInput("the request's target must be a path", "path")
        self._take_target(absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2])
        authority = absolute[1].decode("latin-1")
        self._check_host(authority)
        return authority

    def _check_host(self, text: str) -> None:
        match = _HOST.fullmatch(text)
        name = match[1].lower() if match else ""
        if name in LOOPBACK or name in self.site.host_names:
            return
        local = getattr(self.getHost(), "host", "")
        if name not in {local, f"[{local}]"} - {""}:
            raise InvalidInput(
                f"the header Host must be {' or '.join(sorted(self.site.host_names | LOOPBACK))}"
                " or the address of a listener",
                "Host",
            )

    def parameters(self) -> Parameters:
        """Names and values of the query string, in order, taken strictly.

        :raises InvalidInput: see :func:`mig.web.urlencoded.pairs`.
        """
        return pairs(self.uri.partition(b"?")[2], "parameter")

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
        line = (
            f"{self.operation} {getattr(self.client, 'host', 'unix')} {printable(self.method)}"
            f" {printable(self.uri)} {self.code} {self.site.clock.seconds() - self._started:.3f}s"
            f" {self.rows} rows {self.sentLength} bytes: {self.outcome[:LONGEST_OUTCOME]}"
        )
        # made here, since Twisted takes three times as long to fill in a format of many fields
        self.log.info(line.replace("{", "{{").replace("}", "}}"))


@lru_cache(maxsize=1)
def _date(seconds: int) -> bytes:
    """The header Date, which is the same for a second."""
    return bytes(datetimeToString(seconds))


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


def _origin(text: str) -> str:
    """An origin in the form in which two can be compared (RFC 6454, 4 and 6)."""
    scheme, _, authority = text.lower().partition("://")
    return f"{scheme}://{authority.removesuffix(_PORTS.get(scheme, ''))}"


def _uri(text: str) -> str:
    """*text* as it came, what a URI must not hold percent-encoded."""
    return re.sub(
        r"[^A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]",
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("latin-1")),
        text,
    )
