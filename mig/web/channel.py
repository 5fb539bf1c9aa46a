"""One connection: its deadlines, and an end that a client which is still sending can read."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel

from mig.errors import InvalidInput, Refusal, TooSlow

HEADER_SECONDS: Final = 15
"""From the first byte of a request to the end of its headers."""

BODY_SECONDS: Final = 60
"""From the end of a request's headers to the end of its body."""

LINGER_SECONDS: Final = 5
LINGER_BYTES: Final = 67_108_864
"""How long, and how much, a refused client may go on sending before it is cut."""


class Channel(HTTPChannel):
    """Reads requests one after the other and hands them to Twisted when they are admitted.

    A request that is refused before it is whole ends its connection: the answer is sent, and what
    still comes is dropped unread for :data:`LINGER_SECONDS`. Closing at once would reset the
    connection, and with it the answer.
    """

    transport: Any
    callLater: Any
    _networkProducer: Any
    _ending = False
    _dropped = 0
    _deadline: Any = None
    _host: Any = None

    def getHost(self) -> Any:
        """Our address, which stays the same: the operating system is asked once."""
        if self._host is None:
            self._host = super().getHost()
        return self._host

    def dataReceived(self, data: bytes) -> None:
        if self._ending:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self.transport.abortConnection()
            return
        super().dataReceived(data)
        if self._deadline is None:
            self._set_deadline()

    def _set_deadline(self) -> None:
        """Give the request that is being read an end; one that is whole has none."""
        if self._ending or self._handlingRequest:
            return
        if not self.line_mode:
            self._deadline = self.callLater(BODY_SECONDS, self._late, "body", BODY_SECONDS)
        elif self.persistent and (self._buffer or self.requests):
            self._deadline = self.callLater(HEADER_SECONDS, self._late, "headers", HEADER_SECONDS)

    def _no_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self, part: str, seconds: int) -> None:
        self._deadline = None
        if not self.requests:
            self.requests.append(self.requestFactory(self))
        self.refuse(TooSlow(f"the request's {part} must come within {seconds} seconds"))

    def timeoutConnection(self) -> None:
        if self._deadline is None:
            super().timeoutConnection()
        # Otherwise a request is being read; its deadline is due and answers.

    def lineReceived(self, line: bytes) -> None:
        if line[:1] in (b" ", b"\t") and self.requests:
            self.refuse(InvalidInput("a header is folded over several lines", "headers"))
        else:
            super().lineReceived(line)

    def allHeadersReceived(self) -> None:
        self._no_deadline()
        try:
            self.requests[-1].admit(self._command, self._path, self._version, self.length)
        except Refusal as refusal:
            self.refuse(refusal)
        else:
            super().allHeadersReceived()

    def allContentReceived(self) -> None:
        if not self._ending:
            self._no_deadline()
            super().allContentReceived()

    def refuse(self, refusal: Refusal) -> None:
        """Answer *refusal* to the request that is being read, and end the connection."""
        self._end()
        request = self.requests[-1]
        if not request.begun:
            request.begin(
                getattr(self, "_command", b"-"),
                getattr(self, "_path", b"/"),
                getattr(self, "_version", b"HTTP/1.1"),
            )
        request.refuse(refusal)

    def _end(self) -> None:
        """From here on nothing that the client sends is taken for a request."""
        self._ending = True
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
        self._abortingCall = self.callLater(LINGER_SECONDS, self.forceAbortClient)
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
