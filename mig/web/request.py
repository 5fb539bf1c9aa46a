"""One request: its state, its answer, and the event at its end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from random import Random
from typing import Final, Protocol

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, ITCPTransport
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import HTTPChannel, datetimeToString

from mig.errors import CredentialFault, MigError
from mig.limits import Limits
from mig.reactor import WallClock
from mig.tracing import name_statements, parse_traceparent
from mig.web.body import RequestBody
from mig.web.budget import BodyBudget
from mig.web.connections import ConnectionLimiter
from mig.web.encoding import ENCODINGS, MIN_ENCODED_BYTES, SLICE_BYTES, encode_whole
from mig.web.forms import ContentType
from mig.web.interfaces import Caller, Client, ClientIdentifier, Route
from mig.web.negotiation import HTML, choose_encoding, choose_media_type
from mig.web.turns import FairScheduler
from mig.web.urlencoded import NameValuePairs, parse_pairs

HSTS: Final = b"max-age=31536000"
"""Tells browsers to use nothing but TLS for a year (RFC 6797)."""

PAGE_HEADERS: Final[Mapping[bytes, bytes]] = {
    # nothing is loaded but our style sheet, so no text of a record can run
    b"content-security-policy": (
        b"default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
}

_OTHER_PHRASES: Final[Mapping[int, bytes]] = {
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
}
"""The reason phrases of statuses that Twisted does not know."""

_operations = Random()  # noqa: S311 - the ids name requests and keep no secret


class RequestEnded(Struct, frozen=True, kw_only=True, gc=False):
    """A request that has ended, successfully or not.

    ``route`` and ``caller`` are ``None`` for a request that was refused before they were known,
    ``client`` is the address of the client. ``caller`` is the caller in the log, and ``sender`` the
    caller. ``items`` are those of a report. ``refusal`` is what a client was told whose request was
    refused, and ``credential_fault`` what was wrong with its credentials, if that is why. ``trace``
    is the id of the trace that it belongs to, if it has a valid header
    ``traceparent``.
    """

    operation: str
    client: str
    method: bytes
    uri: bytes
    route: str | None
    caller: str | None
    status: int
    seconds: float
    rows: int
    items: int
    sent_bytes: int
    received_bytes: int
    outcome: str
    sender: Caller | None = None
    refusal: str | None = None
    credential_fault: CredentialFault | None = None
    trace: str | None = None


class RequestChecker(Protocol):
    """The function that decides about a request: :meth:`mig.web.gate.Gate.check_request`."""

    def __call__(self, request: Request, length: int | None) -> Deferred[None] | None:
        """Accept or refuse the request; the body has ``length`` bytes."""


class BaseSite(server.Site):
    """The site as a request and its connection use it.

    ``is_stopping`` tells that every answer is the last one on its connection.
    """

    is_stopping: bool
    check_request: RequestChecker
    clients: ClientIdentifier
    clock: IReactorTime
    wall_clock: WallClock
    limits: Limits
    base: str
    public_root: str
    media_types: tuple[str, ...]
    body_budget: BodyBudget
    connections: ConnectionLimiter
    scheduler: FairScheduler

    def render_error(self, request: Request, error: BaseException) -> bytes:
        """Set the status and headers of the answer to an error; return its document."""
        raise NotImplementedError

    def notify_observers(self, event: RequestEnded) -> None:
        """Tell every observer that a request has ended."""
        raise NotImplementedError


class BaseChannel(HTTPChannel):
    """The connection as a request uses it."""

    transport: ITCPTransport  # or that of a UNIX socket or TLS, which has what is used here
    site: BaseSite

    def refuse_and_close(self, error: BaseException) -> None:
        """Answer the request that is being read with ``error``, and end the connection."""
        raise NotImplementedError


class Request(server.Request):
    """One request: its operation id, its route and caller, and its negotiated answer.

    ``rows``, ``items`` and ``outcome`` are for the log and the metrics: how many rows and
    compliance items were served, and how the request ended. ``refusal`` is what the client is told
    when the request is refused. ``trace`` is the id of the trace that the request belongs to, if it
    names one.
    ``is_addressed`` tells that its target and its Host are sound, so that what follows on the
    connection can be trusted to be a request; ``is_disconnected``, that the connection is lost;
    ``is_from_other_site``, that a page of another site made a browser send it;
    ``is_page_wanted``, that its answer is a page for a browser, unless it asks for another format.
    """

    site: BaseSite
    channel: BaseChannel
    content_type: ContentType
    identified_client: Client
    content: BytesIO

    def __init__(self, channel: BaseChannel, queued: object = False) -> None:
        super().__init__(channel)  # Twisted still passes ``queued``, and ignores it
        self.operation = str(_operations.getrandbits(53))  # exact as a JSON number, like any id
        self.route: Route | None = None
        self.caller: Caller | None = None
        self.body: RequestBody | None = None
        self.rows = 0
        self.items = 0
        self.outcome = "complete"
        self.refusal: str | None = None
        self.credential_fault: CredentialFault | None = None
        self.trace: str | None = None
        self._media_type = ""
        self._headers: Mapping[bytes, bytes] = {}
        self.is_aborted = False
        self.has_request_line = False
        self.target = b""
        self.is_addressed = False
        self.is_disconnected = False
        self.is_from_other_site = False
        self.is_page_wanted = False
        self._error: BaseException | None = None
        self._is_decided = False
        self._is_complete = False
        self._has_ended = False

    def set_request_line(self, method: bytes, target: bytes, version: bytes) -> None:
        """Set what the request line says; from here on the request gets an answer."""
        self.has_request_line = True
        self.site = self.channel.site
        self._started = self.site.clock.seconds()
        self.method, self.target, self.clientproto = method, target, version
        self.identified_client = self.site.clients.identify_client(
            self.channel.getPeer(), self.requestHeaders
        )
        self.set_target(target if target.startswith(b"/") else b"/")
        if traceparents := self.requestHeaders.getRawHeaders(b"traceparent"):
            self.trace = parse_traceparent(traceparents)
        self.setHeader(b"date", _format_date(int(self.site.wall_clock())))
        self.setHeader(b"x-request-id", self.operation.encode())
        if self.channel.isSecure():
            self.setHeader(b"strict-transport-security", HSTS)
        self.notifyFinish().addErrback(self._record_disconnect)

    def set_target(self, target: bytes) -> None:
        """Set the path and query of the request."""
        self.uri = target
        self.path = target.partition(b"?")[0]

    @property
    def client_address(self) -> str:
        """The address of the client, which a trusted proxy may have named."""
        return self.identified_client.address

    @property
    def client_group(self) -> str:
        """What limits are shared by: the client's IPv4 address or network of IPv6."""
        return self.identified_client.group

    @property
    def is_refused(self) -> bool:
        """Whether the gate has refused the request."""
        return self._error is not None

    # The body

    # Twisted's own methods keep a body of any length, and parse forms leniently.

    def gotLength(self, length: int | None) -> None:
        """Prepare for the body, which the gate has created if there is one."""
        self.content = BytesIO()
        if self.body is not None:
            self.content = self.body.content
            self.body.send_refusal = self.channel.refuse_and_close
            self.notifyFinish().addBoth(self._release_body, self.body)

    def handleContentChunk(self, data: bytes) -> None:
        """Take a piece of the body; refuse the request when the body is too long."""
        if self.finished or self.body is None:
            return
        try:
            self.body.append(data)
        except MigError as error:
            self.channel.refuse_and_close(error)

    def _release_body(self, _: object, body: RequestBody) -> None:
        body.release()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Handle the complete request; its first line was taken at the end of its headers."""
        self.content.seek(0)
        if self.body is not None:
            self.body.is_complete = True
        self.args = {}  # Twisted declares it; handlers use parse_query and parse_form
        self._is_complete = True
        self._handle_when_ready()

    def apply_decision(self, error: BaseException | None = None) -> None:
        """Have the request handled, or answered with ``error``, as soon as it is complete."""
        self._error = error
        self._is_decided = True
        self._handle_when_ready()

    def process(self) -> None:
        """Have the request handled; all of its statements have its name."""
        with name_statements(self.operation, self.trace):
            super().process()

    def _handle_when_ready(self) -> None:
        if not (self._is_complete and self._is_decided):
            return
        if self._error is None:
            self.site.scheduler.start(self.process, (self.client_group,))
        else:
            self.setHeader(b"server", b"mig-api")
            self.write(self.site.render_error(self, self._error))
            self.finish()

    def send_error(self, error: BaseException) -> None:
        """Answer with ``error``, the last answer on this connection."""
        self.setHeader(b"connection", b"close")
        self.write(self.site.render_error(self, error))
        self.finish()

    # What handlers use

    def parse_query(self) -> NameValuePairs:
        """Parse the query string strictly, into names and values in order.

        :raises InvalidInputError: as :func:`mig.web.urlencoded.parse_pairs` does.
        """
        query = self.uri.partition(b"?")[2]
        return parse_pairs(query, "parameter", self.site.limits.parameters)

    def build_url(self) -> str:
        """Return the public URL of this request."""
        return self.site.public_root + _escape_uri(self.uri.decode("latin-1"))

    @property
    def accept(self) -> str:
        """The values of the header Accept."""
        return self._join_values(b"accept")

    def choose_media_type(self, offered: tuple[str, ...]) -> str:
        """Return the media type of ``offered`` that the client prefers.

        It becomes the Content-Type of the answer, whose other headers are forgotten.
        """
        self._media_type = choose_media_type(self.accept, offered)
        self._headers = {}
        return self._media_type

    def choose_encoding(self) -> str | None:
        """Return the content encoding of an answer that is not small; ``None`` for none."""
        # Its length could tell others on the network what is in it (docs/decisions/0081).
        if self.is_from_other_site:
            return None
        return choose_encoding(self._join_values(b"accept-encoding"), ENCODINGS)

    def _join_values(self, name: bytes) -> str:
        values = self.requestHeaders.getRawHeaders(name, [])
        return ",".join(value.decode("latin-1") for value in values)

    def describe_answer(self, charset: str, headers: Mapping[bytes, bytes]) -> None:
        """Set more headers of the answer whose media type was chosen, if it is not an error.

        :param charset: what the media type must name; empty for nothing.
        """
        if charset:
            self._media_type += f"; charset={charset}"
        self._headers = headers

    def describe_page(self) -> None:
        """Make the answer a page for a browser, unless it is an error."""
        self._media_type = f"{HTML}; charset=utf-8"
        self._headers = PAGE_HEADERS

    def set_headers(self) -> None:
        """Set the headers that every answer has.

        An answer whose media type was not chosen gets one of the site's media types.
        """
        media_type = self._media_type or self.choose_media_type(self.site.media_types)
        self.setHeader(b"server", b"mig-api")
        self.setHeader(b"content-type", media_type.encode())
        self.setHeader(b"vary", b"Accept, Accept-Encoding")
        self.setHeader(b"cache-control", b"no-store")
        self.setHeader(b"x-content-type-options", b"nosniff")
        if self.site.is_stopping:
            self.setHeader(b"connection", b"close")
        for name, value in self._headers.items():
            self.setHeader(name, value)

    def prepare_response(self, document: bytes, status: int = 200) -> bytes:
        """Set the status and headers of a complete document, and return it to be written.

        A document that would take long to compress is sent as it is.
        """
        self.setResponseCode(status, _OTHER_PHRASES.get(status))
        self.set_headers()
        if MIN_ENCODED_BYTES <= len(document) <= SLICE_BYTES and (
            encoding := self.choose_encoding()
        ):
            self.setHeader(b"content-encoding", encoding.encode())
            document = encode_whole(document, encoding)
        self.setHeader(b"content-length", b"%d" % len(document))
        return document

    def prepare_text(self, text: bytes, status: int = 200) -> bytes:
        """Set the status and headers of an answer in plain text, and return it to be written."""
        self._media_type = "text/plain; charset=utf-8"
        return self.prepare_response(text, status)

    def prepare_json(self, document: bytes, status: int = 200) -> bytes:
        """Set the status and headers of an answer in plain JSON, and return it to be written."""
        self._media_type = "application/json"
        return self.prepare_response(document, status)

    def prepare_style(self, sheet: bytes) -> bytes:
        """Set the headers of an answer that is a style sheet, and return it to be written."""
        self._media_type = "text/css; charset=utf-8"
        self._headers = {b"cache-control": b"public, max-age=3600"}  # the same for everybody
        return self.prepare_response(sheet)

    # The end

    def abort(self, outcome: str) -> None:
        """Cut the connection, so that the client sees that its answer is incomplete."""
        self.outcome = outcome
        self.is_aborted = True
        if self.channel is not None:
            self.channel.transport.abortConnection()

    def finish(self) -> None:
        """End the answer, unless its connection has been cut."""
        if not self.is_aborted:
            super().finish()
            self._report_end()

    def _record_disconnect(self, _: Failure) -> None:
        self.site.scheduler.cancel(self.process)
        self.is_disconnected = True
        if not self.is_aborted:
            self.outcome = "client left"
        self._report_end()

    def _report_end(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        self.site.notify_observers(
            RequestEnded(
                operation=self.operation,
                client=self.client_address,
                method=self.method,
                uri=self.uri,
                route=None if self.route is None else self.route.path,
                caller=None if self.caller is None else self.caller.label,
                status=self.code,
                seconds=self.site.clock.seconds() - self._started,
                rows=self.rows,
                items=self.items,
                sent_bytes=self.sentLength,
                received_bytes=0 if self.body is None else self.body.received,
                outcome=self.outcome,
                sender=self.caller,
                refusal=self.refusal,
                credential_fault=self.credential_fault,
                trace=self.trace,
            )
        )


@lru_cache(maxsize=1)
def _format_date(seconds: int) -> bytes:
    """Return the header Date, which is formatted once a second."""
    return bytes(datetimeToString(seconds))


def _escape_uri(text: str) -> str:
    """Percent-encode only the characters that a URI must not contain (RFC 3986, 2)."""
    return re.sub(
        r"[^A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]",
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("latin-1")),
        text,
    )
