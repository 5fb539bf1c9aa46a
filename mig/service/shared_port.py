"""Accepting from a socket that several daemons may share, each its part of the connections."""

from __future__ import annotations

import socket
from functools import cached_property
from random import random
from typing import Final

from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorFDSet,
    IReactorTime,
)
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

PAUSE_SECONDS: Final = 0.001
"""How long a daemon leaves a new connection to others, for each connection that it has."""

MOST_PAUSES: Final = 2
PART: Final = 2
MOST_AT_ONCE: Final = 16
"""As many connections as this part of those that a daemon has, it takes at once."""

PLACE_SECONDS: Final = 0.1
"""How long the place of a connection that has closed is kept for the next one."""


class _Counted(tcp.Server):
    """A connection that its port counts while it is open."""

    server: _Sharing
    _open = False

    def __init__(
        self,
        sock: socket.socket,
        protocol: IProtocol,
        client: tuple[object, ...],
        server: tcp.Port,
        sessionno: int,
        reactor: IReactorFDSet,
    ) -> None:
        super().__init__(sock, protocol, client, server, sessionno, reactor)
        self._open = True
        self.server.open += 1

    def connectionLost(self, reason: Failure) -> None:
        if self._open:
            self._open = False
            self.server.closed()
        super().connectionLost(reason)


class _UnixServer(_Counted, unix.Server):
    pass


class _Sharing(tcp.Port):
    """Takes few connections at once, and of a shared socket the later the more it has.

    Twisted takes up to a hundred at once, and whoever wakes up first: one daemon would get a whole
    burst of reports, or all connections of a client that keeps them, and the others none. Who takes
    the place of a connection that has just closed need not wait: else clients that use a connection
    once would be served slowly.
    """

    transport = _Counted
    shared = False
    pause_seconds = PAUSE_SECONDS
    open = 0
    """How many connections are open."""

    _places = 0
    _closed = 0.0
    _pause: IDelayedCall | None = None

    @cached_property
    def _clock(self) -> IReactorTime:
        return IReactorTime(self.reactor)

    @property
    def numberAccepts(self) -> int:
        return min(max(1, self.open // PART), MOST_AT_ONCE)

    @numberAccepts.setter
    def numberAccepts(self, number: int) -> None:
        """What Twisted has learned about the last burst is of no use here."""

    def closed(self) -> None:
        """One of the connections has closed."""
        self.open -= 1
        self._places = self._free_places() + 1
        self._closed = self._clock.seconds()
        if self._pause is not None:
            self._pause.reset(0)

    def _free_places(self) -> int:
        recent = self._clock.seconds() - self._closed < PLACE_SECONDS
        return self._places if recent else 0

    def doRead(self) -> None:
        if not self.shared or not self.open or self._free_places():
            self._take()
            return
        self.stopReading()
        pauses = self.open if self.open < MOST_PAUSES else MOST_PAUSES + random()  # noqa: S311
        self._pause = self._clock.callLater(pauses * self.pause_seconds, self._go_on)

    def _take(self) -> None:
        before = self.open
        super().doRead()
        self._places = max(0, self._places - (self.open - before))

    def _go_on(self) -> None:
        self._pause = None
        self._take()
        self.startReading()

    def loseConnection(
        self,
        connDone: Failure = connectionDone,  # noqa: N803  # Twisted's name
    ) -> Deferred[None] | None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        closing: Deferred[None] | None = super().loseConnection(connDone)
        return closing

    stopListening = loseConnection


class TcpPort(_Sharing):
    """Accepts from a bound TCP socket."""


class UnixPort(_Sharing, unix.Port):
    """Accepts from a bound Unix socket as it is.

    Twisted's own adoption would let everybody write to the socket, shorten its queue, and delete
    at the end even a file that systemd made.
    """

    transport = _UnixServer
    _shouldShutdown = False  # systemd may hold the same socket

    def __init__(
        self, reactor: IReactorFDSet, bound: socket.socket, factory: IProtocolFactory
    ) -> None:
        unix.Port.__init__(self, bound.getsockname() or b"\0", factory, reactor=reactor)
        self._bound = bound
        self._site = factory

    def startListening(self) -> None:
        tcp._reservedFD.reserve()
        self._site.doStart()
        self.connected = True
        self.socket = self._bound
        self.fileno = self.socket.fileno  # type: ignore[method-assign]  # as tcp.Port does it
        self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        tcp.Port.connectionLost(self, reason)
