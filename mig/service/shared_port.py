"""Ports that accept from a socket that several daemons may share evenly.

docs/decisions/0035 says why they are not Twisted's, and 0036 how the connections are shared.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
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
from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.python.failure import Failure
from zope.interface import implementer

PAUSE_SECONDS: Final = 0.001
"""How long a daemon leaves a new connection to others, for each connection that it has."""

MAX_PAUSES: Final = 2
"""The most pauses before a connection is accepted, apart from a random part of one more."""

OPEN_PER_ACCEPT: Final = 2
"""For each such number of open connections a daemon accepts one at once."""

MAX_ACCEPTS: Final = 16
"""How many connections a daemon accepts at once at most."""

MAX_QUEUE: Final = 1_024
"""How often a daemon that stops looks whether another connection waits."""

PLACE_SECONDS: Final = 0.1
"""How long the place of a closed connection is kept for a new one."""


class _CountedConnection(tcp.Server):
    """A TCP connection that its port counts while it is open."""

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
    """A Unix connection that its port counts while it is open."""


@implementer(ILogObserver)
class _ExhaustionObserver:
    """Calls a function for each connection that was not accepted, where Twisted writes a line.

    A flood would make Twisted write three lines for every one of them.
    """

    def __init__(self, on_exhaustion: Callable[[], None]) -> None:
        self._on_exhaustion = on_exhaustion

    def __call__(self, event: LogEvent) -> None:
        # Twisted closes an accepted connection, or cannot accept one: docs/twisted-internals.md
        if "address" in event or "acceptError" in event:
            self._on_exhaustion()


class _SharingPort(tcp.Port):
    """A port that accepts few connections at once, and later the more it has open.

    Twisted accepts up to a hundred at once, in the daemon that wakes up first: one daemon would get
    a whole burst of reports, or all connections of a client that keeps them open. A connection that
    takes the place of one that has just closed does not wait: otherwise clients that use each
    connection once would be slow.
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

    def count_exhaustion(self, on_exhaustion: Callable[[], None]) -> None:
        """Call a function, and log nothing, for each connection that finds no free descriptor."""
        self._logger = Logger(observer=_ExhaustionObserver(on_exhaustion))

    @property
    def numberAccepts(self) -> int:
        """How many connections are accepted at once."""
        return min(max(1, self.open_count // OPEN_PER_ACCEPT), MAX_ACCEPTS)

    @numberAccepts.setter
    def numberAccepts(self, number: int) -> None:
        """Ignore the number that Twisted derives from the last burst."""

    def forget_connection(self) -> None:
        """Count a connection that has closed, and let a new one take its place."""
        self.open_count -= 1
        self._places = self._count_free_places() + 1
        self._last_close = self._clock.seconds()
        if self._pause is not None:
            self._pause.reset(0)

    def _count_free_places(self) -> int:
        recent = self._clock.seconds() - self._last_close < PLACE_SECONDS
        return self._places if recent else 0

    def doRead(self) -> None:
        """Accept at once, or after a pause in which other daemons may."""
        if not self.is_shared or not self.open_count or self._count_free_places():
            self._accept_connections()
            return
        self.stopReading()
        # The random part keeps busy daemons from waking up all together.
        pauses = self.open_count if self.open_count < MAX_PAUSES else MAX_PAUSES + random()  # noqa: S311
        self._pause = self._clock.callLater(pauses * self.pause_seconds, self._resume_accepting)

    def _accept_connections(self) -> None:
        before = self.open_count
        super().doRead()
        self._places = max(0, self._places - (self.open_count - before))

    def _accept_queue(self) -> None:
        """Accept what waits: to close a socket that nobody shares resets these connections."""
        for _ in range(MAX_QUEUE):
            before = self.open_count
            super().doRead()
            if self.open_count == before:
                return

    def _resume_accepting(self) -> None:
        self._pause = None
        self._accept_connections()
        self.startReading()

    def loseConnection(
        self,
        connDone: Failure = connectionDone,  # noqa: N803  # Twisted's name
    ) -> Deferred[None] | None:
        """Stop accepting."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self.connected and not self.is_shared:
            self._accept_queue()
        closing: Deferred[None] | None = super().loseConnection(connDone)
        return closing

    stopListening = loseConnection  # as in tcp.Port, whose alias would skip the method above


class TcpPort(_SharingPort):
    """A port that accepts from a bound TCP socket."""


class UnixPort(_SharingPort, unix.Port):
    """A port that accepts from a bound Unix socket and changes nothing about it.

    Twisted's own adoption would make the socket writable for everyone, shorten its queue, and
    delete its file at the end, even one that systemd made.
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
        """Accept from the bound socket, where Twisted would bind one."""
        tcp._reservedFD.reserve()  # private: docs/twisted-internals.md
        self._site.doStart()
        self.connected = True
        self.socket = self._bound_socket
        self.fileno = self.socket.fileno  # type: ignore[method-assign]  # as tcp.Port does it
        self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        """Close the socket; unlike Twisted's Unix port, keep its file."""
        tcp.Port.connectionLost(self, reason)
