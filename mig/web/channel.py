"""One connection: its deadlines, and an end that a client can read while it is still sending."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from zope.interface import implementer

from mig.errors import (
    HeadersTooLargeError,
    InvalidInputError,
    RequestTimeoutError,
    UnavailableError,
    UriTooLongError,
)
from mig.web.connections import Activity
from mig.web.request import BaseChannel, Request
from mig.web.send_queue import count_unread_bytes


class INetworkProducer(IPushProducer):
    """The transport as Twisted's channel uses it."""

    def unregisterProducer() -> None:
        """Stop telling the channel when the client cannot take more."""


@implementer(IHalfCloseableProtocol)
class Channel(BaseChannel):
    """A connection that hands its requests to Twisted, one after the other, when the gate allows.

    A request that is refused before it is complete ends its connection: the answer is sent, and
    what still arrives is dropped for ``linger_seconds``. Closing at once would reset the
    connection, and the client could not read the answer (docs/decisions/0019).

    The gate may need time. Twisted would already send ``100 Continue`` and read the body, so a
    request with a body is handed to Twisted only after the decision; until then, what arrives is
    held here unread. A request without a body is complete: Twisted gets it at once and reads
    ahead as it does while it handles any request (docs/decisions/0020).
    """

    log = Logger()
    requests: list[Request]
    peer_group = ""
    """What the connections of one address share; set before the connection is made."""
    _is_ending = False
    _is_half_closed = False
    _discarded_bytes = 0
    _deadline: IDelayedCall | None = None
    _decision: Deferred[None] | None = None
    _host: IAddress | None = None
    # Private in Twisted, which has no public way to stop reading while the response may go on:
    # docs/twisted-internals.md, as for every other private name of Twisted below.
    _networkProducer: INetworkProducer

    def getHost(self) -> IAddress:
        """Return our address; the operating system is asked for it only once."""
        if self._host is None:
            self._host = super().getHost()
        return self._host

    def connectionMade(self) -> None:
        """Count this connection as open."""
        super().connectionMade()
        self.site.connections.add(self, self.peer_group)

    def dataReceived(self, data: bytes) -> None:
        """Parse what arrives, or drop it once the connection is ending."""
        if self._is_ending:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > self.site.limits.linger_bytes:
                self.transport.abortConnection()
            return
        super().dataReceived(data)
        self._limit_read_ahead()
        if self._deadline is None:
            self._set_deadline()
        self._report_activity()

    # How many connections are open

    def _report_activity(self) -> None:
        """Tell what happens on this connection, which decides when it is closed for another."""
        if self._is_ending:
            activity = Activity.ENDING
        # A client that has not taken a whole answer yet needs the connection, too.
        elif self._handlingRequest or self._waitingForTransport:
            activity = Activity.HANDLING
        elif self._buffer or self.requests:
            activity = Activity.RECEIVING
        else:
            activity = Activity.IDLE
        self.site.connections.set_activity(self, activity)

    def evict(self, activity: Activity) -> None:
        """Close the connection, on which there is ``activity``, to make room for another one."""
        if activity is Activity.IDLE:
            self.loseConnection()
        elif activity is Activity.HANDLING and self.requests:
            self.requests[0].abort("closed to make room")
        else:
            self.transport.abortConnection()

    def cut(self, outcome: str) -> None:
        """Reset the connection; its requests end with ``outcome``."""
        for request in self.requests:
            request.abort(outcome)
        self.transport.abortConnection()

    # Deadlines

    def _set_deadline(self) -> None:
        """Start the deadline of the request that is being read; a complete one has none."""
        if self._is_ending or self._handlingRequest or self._decision is not None:
            return
        limits = self.site.limits
        if not self.line_mode:
            self._deadline = self.site.clock.callLater(
                limits.body_seconds, self._check_body, limits.body_seconds
            )
        # Without a byte of a request, Twisted's own timeout for idle connections applies.
        elif self.persistent and (self._buffer or self.requests):
            self._deadline = self.site.clock.callLater(
                limits.header_seconds,
                self._refuse_late_request,
                f"the request's headers must arrive within {limits.header_seconds:g} seconds",
            )

    def _check_body(self, allowed: float) -> None:
        """Refuse a body that is late; a long one that arrives fast enough has more time."""
        limits, body = self.site.limits, self.requests[-1].body
        received = 0 if body is None else body.received
        more = limits.body_seconds + received // limits.body_bytes_per_second - allowed
        if more > 0:
            self._deadline = self.site.clock.callLater(more, self._check_body, allowed + more)
        else:
            self._refuse_late_request(f"the request's body must arrive within {allowed:g} seconds")

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse_late_request(self, reason: str) -> None:
        self._deadline = None
        self._refuse_head(RequestTimeoutError(reason))

    def _refuse_head(self, error: BaseException) -> None:
        """Refuse a request that has not arrived as far as the end of its headers."""
        if not self.requests:  # Twisted creates the request when its first line is complete
            self.requests.append(Request(self))
        self.refuse_and_close(error)

    def timeoutConnection(self) -> None:
        """Close a connection that is idle; a request that is being read has its own deadline."""
        if self._deadline is None and self._decision is None:  # Twisted's would write to the log
            self._start_abort(self.site.limits.linger_seconds)
            self.loseConnection()

    # The gate

    def lineReceived(self, line: bytes) -> None:
        """Take one line of the headers; refuse a folded header (RFC 9112, 5.2)."""
        if self._receivedHeaderSize + len(line) > self.totalHeadersSize:
            self.lineLengthExceeded(line)
        elif line[:1] in (b" ", b"\t") and self.requests:
            self.refuse_and_close(
                InvalidInputError("a header must not be folded over several lines", "headers")
            )
        else:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a request whose first line or headers are too long."""
        if self.requests:
            self._refuse_head(
                HeadersTooLargeError(
                    "the first line and the headers of a request must have at most"
                    f" {self.totalHeadersSize} bytes together"
                )
            )
        else:
            self._refuse_head(
                UriTooLongError(
                    f"the first line of a request must have at most {self.totalHeadersSize} bytes"
                )
            )

    def allHeadersReceived(self) -> None:
        """Ask the gate about the request whose headers are complete."""
        self._cancel_deadline()
        request, length = self.requests[-1], self.length
        request.set_request_line(self._command, self._path, self._version)
        try:
            decision = self.site.check_request(request, length)
        except Exception as error:
            self._refuse_request(request, length, error)
            if not self._is_ending:
                super().allHeadersReceived()
            return
        if decision is not None:
            self._await_decision(decision, request, length)
        else:
            request.apply_decision()
            super().allHeadersReceived()

    def _await_decision(
        self, decision: Deferred[None], request: Request, length: int | None
    ) -> None:
        """Wait for the gate, with a timeout; Twisted gets a body only after the decision."""
        self._decision = decision
        decision.addTimeout(self.site.limits.gate_seconds, self.site.clock, _raise_gate_timeout)
        if length != 0:
            # LineReceiver then keeps what arrives in its buffer. Its pauseProducing would pause
            # the transport too, and a client that leaves would go unnoticed.
            self.paused = True
        else:
            super().allHeadersReceived()
        decision.addCallbacks(
            self._resume_request,
            self._handle_gate_failure,
            callbackArgs=(request, length),
            errbackArgs=(request, length),
        ).addErrback(self._abort_connection)

    def _resume_request(self, _: None, request: Request, length: int | None) -> None:
        """Continue with a request that has waited for the gate."""
        self._decision = None
        request.apply_decision()
        if length != 0:
            super().allHeadersReceived()
            self._resume_reading()
            self._end_half_closed()

    def _handle_gate_failure(self, failure: Failure, request: Request, length: int | None) -> None:
        """Refuse a request that has waited for the gate, if its client is still connected."""
        self._decision = None
        if failure.value is not None and not request.is_disconnected:
            self._refuse_request(request, length, failure.value)

    def _refuse_request(self, request: Request, length: int | None, error: BaseException) -> None:
        """Refuse a request; keep the connection if nothing more of the request can arrive."""
        # After a POST, or a target or Host that is not sound, what follows on the connection may be
        # a body and not a request: docs/decisions/0019.
        if length == 0 and request.is_addressed and request.method != b"POST":
            request.apply_decision(error)
        else:
            self.refuse_and_close(error)

    def _abort_connection(self, failure: Failure) -> None:
        self.log.failure("a connection failed", failure)
        self.transport.abortConnection()

    def _resume_reading(self) -> None:
        """Take what was held, and then read on."""
        self.paused = False
        if not self._waitingForTransport:  # only if the client takes what it is sent
            self._networkProducer.resumeProducing()
        self.dataReceived(b"")  # makes LineReceiver parse its buffer, and starts the deadline

    def _limit_read_ahead(self) -> None:
        """Stop reading when more is held than Twisted reads ahead while it handles a request.

        Until then reading goes on, since a connection that is not read does not reveal that its
        client has left. At most 80 KiB are held: this limit of 16 KiB and one read of 64 KiB.
        """
        if self.paused and len(self._buffer) > self._optimisticEagerReadSize:
            self._networkProducer.pauseProducing()

    def resumeProducing(self) -> None:
        """Resume as Twisted does, which may read on: the limit applies again."""
        super().resumeProducing()
        self._limit_read_ahead()
        self._report_activity()

    def _send100Continue(self) -> None:
        # Twisted calls this at the end of the headers, whatever the gate decides. A request that
        # is refused gets no 100, nor does one that waits here: it has no body to send.
        if self._decision is None and not self.requests[-1].is_refused:
            super()._send100Continue()

    def allContentReceived(self) -> None:
        """Hand the complete request on, unless it has been refused."""
        if not self._is_ending:
            self._cancel_deadline()
            super().allContentReceived()

    # The end

    def refuse_and_close(self, error: BaseException) -> None:
        """Answer the request that is being read with ``error``, and end the connection."""
        self._stop_receiving()
        request = self.requests[-1]
        if not request.has_request_line:
            request.set_request_line(  # Twisted sets these when it has parsed the first line
                getattr(self, "_command", b"-"),
                getattr(self, "_path", b"/"),
                getattr(self, "_version", b"HTTP/1.1"),
            )
        request.send_error(error)

    def _stop_receiving(self) -> None:
        """Take nothing more that the client sends for a request."""
        self._is_ending = True
        self.paused = False
        self.persistent = False
        self._cancel_deadline()
        self.setTimeout(None)
        self.clearLineBuffer()
        self._report_activity()

    def _respondToBadRequestAndDisconnect(self) -> None:
        if not self._is_ending:
            self._stop_receiving()
            super()._respondToBadRequestAndDisconnect()

    def loseConnection(self) -> None:
        """Close the connection; after a refusal, close it only for writing at first."""
        if not self._is_ending or self._is_half_closed:
            if self._abortingCall is None:  # the client may never read what was written
                self._start_abort(self.site.limits.idle_seconds)
            super().loseConnection()
            return
        self._networkProducer.unregisterProducer()
        self._start_abort(self.site.limits.linger_seconds)
        if ITCPTransport.providedBy(self.transport):
            self.transport.loseWriteConnection()
        else:
            self.transport.loseConnection()

    def _start_abort(self, seconds: float) -> None:
        # Twisted cancels _abortingCall when the connection is lost.
        self._abortingCall = self.site.clock.callLater(seconds, self.forceAbortClient)

    # A client that closes its sending side

    def readConnectionLost(self) -> None:
        """Take note that the client sends nothing more, though it may still read.

        What it has sent completely is answered. A long answer is cancelled: most clients that
        close leave, and nothing else tells that they have left (docs/decisions/0043).
        """
        self._is_half_closed = True
        self._end_half_closed()

    def writeConnectionLost(self) -> None:
        """Do nothing: we have closed our own sending side after a refusal."""

    def requestDone(self, request: http.Request) -> None:
        """Go on with the next request, or end a connection on which none can follow."""
        if self.site.is_stopping and not self._is_ending:
            # The client may be sending the next one: to close at once would reset the connection.
            self._stop_receiving()
        super().requestDone(request)
        self._report_activity()
        self._end_half_closed()

    def _end_half_closed(self) -> None:
        """Close the connection when its client sends nothing more and waits for no answer."""
        if not self._is_half_closed:
            return
        route = self.requests[0].route if self.requests else None
        if route is not None and route.is_streamed:
            self.transport.abortConnection()
        elif not self._handlingRequest and self._decision is None:
            self.loseConnection()

    def forceAbortClient(self) -> None:
        """Cut a client that still sends after it was refused, or does not read the end."""
        self._abortingCall = None
        if self.site.is_stopping and count_unread_bytes(self.transport):
            # the last answer may be a long one, and the stop has a deadline of its own
            self._start_abort(self.site.limits.linger_seconds)
        else:
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Cancel the deadline, and the gate's decision, which nobody waits for any more."""
        self.site.connections.remove(self)
        self._cancel_deadline()
        super().connectionLost(reason)
        if self._decision is not None:
            self._decision.cancel()


def _raise_gate_timeout(result: object, seconds: float) -> None:
    raise UnavailableError(
        "the service could not check the request in time",
        f"the gate took longer than {seconds:g} seconds",
    )
