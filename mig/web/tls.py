"""TLS connections that end like those of TCP."""

from __future__ import annotations

from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IReactorTime,
    ITCPTransport,
)
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure


class TlsConnection(BufferingTLSTransport):
    """A TLS connection with the three ways of TCP to end it.

    Twisted's own waits for the client's close_notify before it closes, and so would keep the
    descriptor of a client that does not answer. When the client has sent its close_notify,
    Twisted drops what is written without a word (docs/decisions/0070).
    """

    transport: ITCPTransport
    _goes_on_reading = False

    def loseWriteConnection(self) -> None:
        """Say that nothing more is sent, and go on reading until the client does the same."""
        self._goes_on_reading = True
        self.loseConnection()

    def abortConnection(self) -> None:
        """Close at once, without close_notify: the client sees that what it got was cut."""
        if self.connected:  # Twisted's fails on a connection that is lost
            super().abortConnection()

    # Private in Twisted, as the names below: docs/twisted-internals.md

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        """Tell the channel that the client has ended TLS, by its close_notify or by a fault."""
        super()._tlsShutdownFinished(reason)
        if self._handshakeDone and self.wrappedProtocol is not None:
            IHalfCloseableProtocol(self.wrappedProtocol).readConnectionLost()

    def _shutdownTLS(self) -> None:
        """Close when everything that was written has been encrypted."""
        super()._shutdownTLS()
        if not self._goes_on_reading:
            self.transport.loseConnection()


class TlsFactory(TLSMemoryBIOFactory):
    """The connections of a TLS listener.

    :param reactor: groups small writes.
    :param certificate: makes the TLS state of each connection.
    :param site: the factory of the channels.
    """

    protocol = TlsConnection
    wrappedFactory: IProtocolFactory

    def __init__(
        self,
        reactor: IReactorTime,
        certificate: IOpenSSLServerConnectionCreator,
        site: IProtocolFactory,
    ) -> None:
        super().__init__(certificate, isClient=False, wrappedFactory=site, clock=reactor)

    def buildProtocol(self, addr: IAddress | None) -> TlsConnection | None:  # type: ignore[override]  # Twisted's never turns one away
        """Return the protocol of a new connection, or ``None`` when the site turns it away."""
        assert addr is not None
        channel = self.wrappedFactory.buildProtocol(addr)
        return None if channel is None else TlsConnection(self, channel)
