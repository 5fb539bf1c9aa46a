"""Accepting from a socket that several daemons may share, each its part of the connections."""

from __future__ import annotations

import socket
from random import random
from typing import Any, Final

from twisted.internet import tcp, unix
from twisted.internet.protocol import Factory

PAUSE_SECONDS: Final = 0.001
"""How long a daemon leaves a new connection to others, for each connection that it has."""

MOST_PAUSES: Final = 2
PART: Final = 2
MOST_AT_ONCE: Final = 16
"""As many connections as this part of those that a daemon has, it takes at once."""

PLACE_SECONDS: Final = 0.1
"""How long the place of a connection that has closed is kept for the next one."""


class _Counted:
    """A connection that its port counts while it is open."""

    server: Any
    _open = False

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self._open = True
        self.server.open += 1

    def connectionLost(self, reason: Any) -> None:
        if self._open:
            self._open = False
            self.server.closed()
        super().connectionLost(reason)  # type: ignore[misc]


class _Server(_Counted, tcp.Server):
    pass


class _UnixServer(_Counted, unix.Server):
    pass


class _Sharing:
    """Takes few connections at once, and of a shared socket the later the more it has.

    Twisted takes up to a hundred at once, and whoever wakes up first: one daemon would get a whole
    burst of reports, or all connections of a client that keeps them, and the others none. Who takes
    the place of a connection that has just closed need not wait: else clients that use a connection
    once would be served slowly.
    """

    shared = False
    open = 0
    """How many connections are open."""

    reactor: Any
    _places = 0
    _closed = 0.0
    _pause: Any = None

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
        self._closed = self.reactor.seconds()
        if self._pause is not None:
            self._pause.reset(0)

    def _free_places(self) -> int:
        recent = self.reactor.seconds() - self._closed < PLACE_SECONDS
        return self._places if recent else 0

    def doRead(self) -> None:
        if not self.shared or not self.open or self._free_places():
            self._take()
            return
        self.stopReading()  # type: ignore[attr-defined]
        pauses = self.open if self.open < MOST_PAUSES else MOST_PAUSES + random()  # noqa: S311
        self._pause = self.reactor.callLater(pauses * PAUSE_SECONDS, self._go_on)

    def _take(self) -> None:
        before = self.open
        super().doRead()  # type: ignore[misc]
        self._places = max(0, self._places - (self.open - before))

    def _go_on(self) -> None:
        self._pause = None
        self._take()
        self.startReading()  # type: ignore[attr-defined]

    def loseConnection(self, *args: Any) -> Any:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        return super().loseConnection(*args)  # type: ignore[misc]

    stopListening = loseConnection


class TcpPort(_Sharing, tcp.Port):
    """Accepts from a bound TCP socket."""

    transport = _Server


class UnixPort(_Sharing, unix.Port):
    """Accepts from a bound Unix socket as it is.

    Twisted's own adoption would let everybody write to the socket, shorten its queue, and delete
    at the end even a file that systemd made.
    """

    transport = _UnixServer
    _shouldShutdown = False  # systemd may hold the same socket

    def __init__(self, reactor: Any, bound: socket.socket, factory: Factory) -> None:
        super().__init__(bound.getsockname() or b"\0", factory, reactor=reactor)
        self._bound = bound
        self._site = factory

    def startListening(self) -> None:
        tcp._reservedFD.reserve()
        self._site.doStart()
        self.connected = True
        self.socket = self._bound
        self.fileno = self.socket.fileno  # type: ignore[method-assign]
        self.startReading()

    def connectionLost(self, reason: Any) -> None:
        tcp.Port.connectionLost(self, reason)
