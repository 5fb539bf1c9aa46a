"""One connection: its deadlines, and an end that a client which is still sending can read."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from mig.errors import InvalidInputError, RequestTimeoutError, UnavailableError
from mig.web.request import BaseChannel, Request


class INetworkProducer(IPushProducer):
    """The transport as Twisted's channel uses it."""

    def unregisterProducer() -> None:
        """Stop telling the channel when the client takes no more."""


class Channel(BaseChannel):
    """Reads requests one after the other and hands them to Twisted when they are let in.

    A request that is refused before it is whole ends its connection: the answer is sent, and what
    still comes is dropped unread for ``linger_seconds``. Closing at once would reset the
    connection, and with it the answer.

    The gate may take its time. Twisted would begin to read the body, and have asked for it with
    ``100 Continue``, so a request with a body is not shown to it before; what comes until then is
    held here unread. A request without a body is whole: it is shown to Twisted, which then reads
    ahead as while any request is handled, and waits to be decided about.
    """

    log = Logger()
    requests: list[Request]
    _is_ending = False
    _discarded_bytes = 0
    _deadline: IDelayedCall | None = None
    _decision: Deferred[None] | None = None
    _host: IAddress | None = None
    # Private in Twisted, and all it has to stop reading while the response may go on.
    _networkProducer: INetworkProducer

    def getHost(self) -> IAddress:
        """Our address, which stays the same: the operating system is asked once."""
        if self._host is None:
            self._host = super().getHost()
        return self._host

    def dataReceived(self, data: bytes) -> None:
        if self._is_ending:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > self.site.limits.linger_bytes:
                self.transport.abortConnection()
            return
        super().dataReceived(data)
        self._limit_read_ahead()
        if self._deadline is None:
            self._set_deadline()

    # Deadlines

    def _set_deadline(self) -> None:
        """Give the request that is being read an end; one that is whole has none."""
        if self._is_ending or self._handlingRequest or self._decision is not None:
            return
        if not self.line_mode:
            self._start_deadline(self.site.limits.body_seconds, "body")
        elif self.persistent and (self._buffer or self.requests):
            self._start_deadline(self.site.limits.header_seconds, "headers")

    def _start_deadline(self, seconds: float, part: str) -> None:
        self._deadline = self.site.clock.callLater(
            seconds, self._refuse_late_request, part, seconds
        )

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse_late_request(self, part: str, seconds: float) -> None:
        self._deadline = None
        if not self.requests:
            self.requests.append(Request(self))
        self.refuse_and_close(
            RequestTimeoutError(f"the request's {part} must come within {seconds:g} seconds")
        )

    def timeoutConnection(self) -> None:
        if self._deadline is None and self._decision is None:
            super().timeoutConnection()
        # Otherwise a request is being read; its deadline is due and answers.

    # The gate

    def lineReceived(self, line: bytes) -> None:
        if line[:1] in (b" ", b"\t") and self.requests:
            self.refuse_and_close(
                InvalidInputError("a header is folded over several lines", "headers")
            )
        else:
            super().lineReceived(line)

    def allHeadersReceived(self) -> None:
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
        """Give the gate an end, and keep from Twisted what it must not do before."""
        self._decision = decision
        decision.addTimeout(self.site.limits.gate_seconds, self.site.clock, _raise_gate_timeout)
        if length != 0:
            self.paused = True  # LineReceiver then keeps what comes in its buffer
        else:
            super().allHeadersReceived()
        decision.addCallbacks(
            self._resume_request,
            self._handle_gate_failure,
            callbackArgs=(request, length),
            errbackArgs=(request, length),
        ).addErrback(self._abort_connection)

    def _resume_request(self, _: None, request: Request, length: int | None) -> None:
        """Go on with a request that has waited."""
        self._decision = None
        request.apply_decision()
        if length != 0:
            super().allHeadersReceived()
            self._resume_reading()

    def _handle_gate_failure(self, failure: Failure, request: Request, length: int | None) -> None:
        """Refuse a request that has waited, if its client still does."""
        self._decision = None
        if failure.value is not None and not request.is_disconnected:
            self._refuse_request(request, length, failure.value)

    def _refuse_request(self, request: Request, length: int | None, error: BaseException) -> None:
        """Refuse a request; the connection goes on if nothing more of the request comes."""
        if length == 0 and request.is_addressed and request.method != b"POST":
            request.apply_decision(error)
        else:
            self.refuse_and_close(error)

    def _abort_connection(self, failure: Failure) -> None:
        self.log.failure("a connection failed", failure)
        self.transport.abortConnection()

    def _resume_reading(self) -> None:
        """Take what was held, and then what comes."""
        self.paused = False
        if not self._waitingForTransport:  # private; the client takes what it is sent
            self._networkProducer.resumeProducing()
        self.dataReceived(b"")

    def _limit_read_ahead(self) -> None:
        """Stop when so much is held unread as Twisted reads ahead while it handles a request.

        Until then reading goes on: a connection that is not read does not show that its client
        has left. So at most this and one read of the transport are held, 80 KiB.
        """
        if self.paused and len(self._buffer) > self._optimisticEagerReadSize:
            self._networkProducer.pauseProducing()

    def resumeProducing(self) -> None:
        super().resumeProducing()
        self._limit_read_ahead()

    def _send100Continue(self) -> None:
        # Private in Twisted, which sends it with the headers' end whatever the gate says. Without
        # a body there is nothing to go on with: a request that waits or is refused gets none.
        if self._decision is None and not self.requests[-1].is_refused:
            super()._send100Continue()

    def allContentReceived(self) -> None:
        if not self._is_ending:
            self._cancel_deadline()
            super().allContentReceived()

    # The end

    def refuse_and_close(self, error: BaseException) -> None:
        """Answer *error* to the request that is being read, and end the connection."""
        self._stop_receiving()
        request = self.requests[-1]
        if not request.has_request_line:
            request.set_request_line(
                getattr(self, "_command", b"-"),
                getattr(self, "_path", b"/"),
                getattr(self, "_version", b"HTTP/1.1"),
            )
        request.send_error(error)

    def _stop_receiving(self) -> None:
        """From here on nothing that the client sends is taken for a request."""
        self._is_ending = True
        self.paused = False
        self.persistent = False
        self._cancel_deadline()
        self.setTimeout(None)
        self.clearLineBuffer()

    def _respondToBadRequestAndDisconnect(self) -> None:
        if not self._is_ending:
            self._stop_receiving()
            super()._respondToBadRequestAndDisconnect()

    def loseConnection(self) -> None:
        if not self._is_ending:
            super().loseConnection()
            return
        self._networkProducer.unregisterProducer()
        limit = self.site.limits.linger_seconds
        self._abortingCall = self.site.clock.callLater(limit, self.forceAbortClient)
        if ITCPTransport.providedBy(self.transport) and not self.isSecure():
            self.transport.loseWriteConnection()
        else:
            self.transport.loseConnection()

    def forceAbortClient(self) -> None:
        self._abortingCall = None
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._cancel_deadline()
        super().connectionLost(reason)
        if self._decision is not None:
            self._decision.cancel()


def _raise_gate_timeout(result: object, seconds: float) -> None:
    raise UnavailableError(
        "the service could not decide in time whether to let the request in",
        f"the gate took more than {seconds:g} seconds",
    )
