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

from mig.errors import InvalidInput, TooSlow, Unavailable
from mig.web.request import Connection, Request


class INetworkProducer(IPushProducer):
    """The transport as Twisted's channel uses it."""

    def unregisterProducer() -> None:
        """Stop telling the channel when the client takes no more."""


class Channel(Connection):
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
    _ending = False
    _dropped = 0
    _deadline: IDelayedCall | None = None
    _admission: Deferred[None] | None = None
    _host: IAddress | None = None
    # Private in Twisted, and all it has to stop reading while the response may go on.
    _networkProducer: INetworkProducer

    def getHost(self) -> IAddress:
        """Our address, which stays the same: the operating system is asked once."""
        if self._host is None:
            self._host = super().getHost()
        return self._host

    def dataReceived(self, data: bytes) -> None:
        if self._ending:
            self._dropped += len(data)
            if self._dropped > self.site.limits.linger_bytes:
                self.transport.abortConnection()
            return
        super().dataReceived(data)
        self._stop_reading_ahead()
        if self._deadline is None:
            self._set_deadline()

    # Deadlines

    def _set_deadline(self) -> None:
        """Give the request that is being read an end; one that is whole has none."""
        if self._ending or self._handlingRequest or self._admission is not None:
            return
        if not self.line_mode:
            self._give_until(self.site.limits.body_seconds, "body")
        elif self.persistent and (self._buffer or self.requests):
            self._give_until(self.site.limits.header_seconds, "headers")

    def _give_until(self, seconds: float, part: str) -> None:
        self._deadline = self.site.clock.callLater(seconds, self._late, part, seconds)

    def _no_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self, part: str, seconds: float) -> None:
        self._deadline = None
        if not self.requests:
            self.requests.append(Request(self))
        self.refuse(TooSlow(f"the request's {part} must come within {seconds:g} seconds"))

    def timeoutConnection(self) -> None:
        if self._deadline is None and self._admission is None:
            super().timeoutConnection()
        # Otherwise a request is being read; its deadline is due and answers.

    # The gate

    def lineReceived(self, line: bytes) -> None:
        if line[:1] in (b" ", b"\t") and self.requests:
            self.refuse(InvalidInput("a header is folded over several lines", "headers"))
        else:
            super().lineReceived(line)

    def allHeadersReceived(self) -> None:
        self._no_deadline()
        request, length = self.requests[-1], self.length
        request.begin(self._command, self._path, self._version)
        try:
            admission = self.site.admit(request, length)
        except Exception as error:
            self._keep_out(request, length, error)
            if not self._ending:
                super().allHeadersReceived()
            return
        if admission is not None:
            self._wait(admission, request, length)
        else:
            request.decide()
            super().allHeadersReceived()

    def _wait(self, admission: Deferred[None], request: Request, length: int | None) -> None:
        """Give the gate an end, and keep from Twisted what it must not do before."""
        self._admission = admission
        admission.addTimeout(self.site.limits.gate_seconds, self.site.clock, _took_too_long)
        if length != 0:
            self.paused = True  # LineReceiver then keeps what comes in its buffer
        else:
            super().allHeadersReceived()
        admission.addCallbacks(
            self._let_in,
            self._turn_away,
            callbackArgs=(request, length),
            errbackArgs=(request, length),
        ).addErrback(self._fail)

    def _let_in(self, _: None, request: Request, length: int | None) -> None:
        """Go on with a request that has waited."""
        self._admission = None
        request.decide()
        if length != 0:
            super().allHeadersReceived()
            self._go_on_reading()

    def _turn_away(self, failure: Failure, request: Request, length: int | None) -> None:
        """Refuse a request that has waited, if its client still does."""
        self._admission = None
        if failure.value is not None and not request.is_lost:
            self._keep_out(request, length, failure.value)

    def _keep_out(self, request: Request, length: int | None, error: BaseException) -> None:
        """Refuse a request; the connection goes on if nothing more of the request comes."""
        if length == 0 and request.is_addressed and request.method != b"POST":
            request.decide(error)
        else:
            self.refuse(error)

    def _fail(self, failure: Failure) -> None:
        self.log.failure("a connection failed", failure)
        self.transport.abortConnection()

    def _go_on_reading(self) -> None:
        """Take what was held, and then what comes."""
        self.paused = False
        if not self._waitingForTransport:  # private; the client takes what it is sent
            self._networkProducer.resumeProducing()
        self.dataReceived(b"")

    def _stop_reading_ahead(self) -> None:
        """Stop when so much is held unread as Twisted reads ahead while it handles a request.

        Until then reading goes on: a connection that is not read does not show that its client
        has left. So at most this and one read of the transport are held, 80 KiB.
        """
        if self.paused and len(self._buffer) > self._optimisticEagerReadSize:
            self._networkProducer.pauseProducing()

    def resumeProducing(self) -> None:
        super().resumeProducing()
        self._stop_reading_ahead()

    def _send100Continue(self) -> None:
        # Private in Twisted, which sends it with the headers' end whatever the gate says. Without
        # a body there is nothing to go on with: a request that waits or is refused gets none.
        if self._admission is None and not self.requests[-1].is_refused:
            super()._send100Continue()

    def allContentReceived(self) -> None:
        if not self._ending:
            self._no_deadline()
            super().allContentReceived()

    # The end

    def refuse(self, error: BaseException) -> None:
        """Answer *error* to the request that is being read, and end the connection."""
        self._end()
        request = self.requests[-1]
        if not request.begun:
            request.begin(
                getattr(self, "_command", b"-"),
                getattr(self, "_path", b"/"),
                getattr(self, "_version", b"HTTP/1.1"),
            )
        request.refuse(error)

    def _end(self) -> None:
        """From here on nothing that the client sends is taken for a request."""
        self._ending = True
        self.paused = False
        self.persistent = False
        self._no_deadline()
        self.setTimeout(None)
        self.clearLineBuffer()

    def _respondToBadRequestAndDisconnect(self) -> None:
        if not self._ending:
            self._end()
            super()._respondToBadRequestAndDisconnect()

    def loseConnection(self) -> None:
        if not self._ending:
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
        self._no_deadline()
        super().connectionLost(reason)
        if self._admission is not None:
            self._admission.cancel()


def _took_too_long(result: object, seconds: float) -> None:
    raise Unavailable(
        "the service could not decide in time whether to let the request in",
        f"the gate took more than {seconds:g} seconds",
    )
