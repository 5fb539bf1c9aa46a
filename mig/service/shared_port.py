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

MAX_PAUSES: Final = 2
OPEN_PER_ACCEPT: Final = 2
MAX_ACCEPTS: Final = 16
"""As many connections as this part of those that a daemon has, it takes at once."""

PLACE_SECONDS: Final = 0.1
"""How long the place of a connection that has closed is kept for the next one."""


class _CountedConnection(tcp.Server):
    """A connection that its port counts while it is open."""

    server: _SharingPort
    _is_open = False

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
        self._is_open = True
        self.server.open_count += 1

    def connectionLost(self, reason: Failure) -> None:
        if self._is_open:
            self._is_open = False
            self.server.forget_connection()
        super().connectionLost(reason)


class _CountedUnixConnection(_CountedConnection, unix.Server):
    pass


class _SharingPort(tcp.Port):
    """Takes few connections at once, and of a shared socket the later the more it has.

    Twisted takes up to a hundred at once, and whoever wakes up first: one daemon would get a whole
    burst of reports, or all connections of a client that keeps them, and the others none. Who takes
    the place of a connection that has just closed need not wait: else clients that use a connection
    once would be served slowly.
    """

    transport = _CountedConnection
    is_shared = False
    pause_seconds = PAUSE_SECONDS
    open_count = 0
    """How many connections are open."""

    _places = 0
    _last_close = 0.0
    _pause: IDelayedCall | None = None

    @cached_property
    def _clock(self) -> IReactorTime:
        return IReactorTime(self.reactor)

    @property
    def numberAccepts(self) -> int:
        return min(max(1, self.open_count // OPEN_PER_ACCEPT), MAX_ACCEPTS)

    @numberAccepts.setter
    def numberAccepts(self, number: int) -> None:
        """What Twisted has learned about the last burst is of no use here."""

    def forget_connection(self) -> None:
        """One of the connections has closed."""
        self.open_count -= 1
        self._places = self._count_free_places() + 1
        self._last_close = self._clock.seconds()
        if self._pause is not None:
            self._pause.reset(0)

    def _count_free_places(self) -> int:
        recent = self._clock.seconds() - self._last_close < PLACE_SECONDS
        return self._places if recent else 0

    def doRead(self) -> None:
        if not self.is_shared or not self.open_count or self._count_free_places():
            self._accept_connections()
            return
        self.stopReading()
        pauses = self.open_count if self.open_count < MAX_PAUSES else MAX_PAUSES + random()  # noqa: S311
        self._pause = self._clock.callLater(pauses * self.pause_seconds, self._resume_accepting)

    def _accept_connections(self) -> None:
        before = self.open_count
        super().doRead()
        self._places = max(0, self._places - (self.open_count - before))

    def _resume_accepting(self) -> None:
        self._pause = None
        self._accept_connections()
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


class TcpPort(_SharingPort):
    """Accepts from a bound TCP socket."""


class UnixPort(_SharingPort, unix.Port):
    """Accepts from a bound Unix socket as it is.

    Twisted's own adoption would let everybody write to the socket, shorten its queue, and delete
    at the end even a file that systemd made.
    """

    transport = _CountedUnixConnection
    _shouldShutdown = False  # systemd may hold the same socket

    def __init__(
        self, reactor: IReactorFDSet, bound: socket.socket, factory: IProtocolFactory
    ) -> None:
        unix.Port.__init__(self, bound.getsockname() or b"\0", factory, reactor=reactor)
        self._bound_socket = bound
        self._site = factory

    def startListening(self) -> None:
        tcp._reservedFD.reserve()
        self._site.doStart()
        self.connected = True
        self.socket = self._bound_socket
        self.fileno = self.socket.fileno  # type: ignore[method-assign]  # as tcp.Port does it
        self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        tcp.Port.connectionLost(self, reason)
