"""Daemons that share a socket balance its connections."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from mig.service.shared_port import MAX_PAUSES, PAUSE_SECONDS
from tests.support.reactor import listen_on, reactor, stop_listening


class Connections(Factory):
    """The connections of one daemon, and its port."""

    noisy = False
    port: IListeningPort

    def __init__(self) -> None:
        self.open_count = 0
        self.accepted_count = 0

    def buildProtocol(self, addr: object) -> Protocol:
        return Connection(self)


class Connection(Protocol):
    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def connectionMade(self) -> None:
        self._connections.open_count += 1
        self._connections.accepted_count += 1

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._connections.open_count -= 1


class Daemons:
    """Two daemons that accept from one inherited socket, and clients."""

    def __init__(self, listening: socket.socket, pause_seconds: float = PAUSE_SECONDS) -> None:
        listening.listen(64)
        self._address = listening.getsockname()
        self._family = listening.family
        self.two = [Connections(), Connections()]
        for one in self.two:
            one.port = listen_on(f"fd:{listening.fileno()}").start_accepting(
                reactor, one, pause_seconds=pause_seconds
            )
        listening.close()
        self.clients: list[socket.socket] = []

    @property
    def open_count(self) -> list[int]:
        return [one.open_count for one in self.two]

    @property
    def accepted_count(self) -> int:
        return sum(one.accepted_count for one in self.two)

    def connect(self) -> socket.socket:
        client = socket.socket(self._family)
        client.connect(self._address)
        self.clients.append(client)
        return client

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await run_reactor_once()

    async def wait_until_open(self, count: int) -> None:
        await self.wait_until(lambda: sum(self.open_count) == count)

    async def wait_until_accepted(self, count: int) -> None:
        await self.wait_until(lambda: self.accepted_count == count)

    async def stop(self) -> None:
        for client in self.clients:
            client.close()
        await self.wait_until(lambda: self.open_count == [0, 0])
        for one in self.two:
            await stop_listening(one.port)


async def run_reactor_once() -> None:
    waiting: Deferred[None] = Deferred()
    reactor.callLater(0, waiting.callback, None)
    await waiting


@pytest.fixture(params=["tcp", "unix"])
def listening(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> socket.socket:
    """Return a bound socket of either kind; a Unix socket has a short relative path."""
    if request.param == "tcp":
        made = socket.socket()
        made.bind(("127.0.0.1", 0))
        return made
    monkeypatch.chdir(tmp_path)
    made = socket.socket(socket.AF_UNIX)
    made.bind("socket")
    return made


@pytest_twisted.async_yield_fixture
async def daemons(listening: socket.socket) -> AsyncIterator[Daemons]:
    running = Daemons(listening)
    yield running
    await running.stop()


@pytest_twisted.async_yield_fixture
async def slow_daemons(listening: socket.socket) -> AsyncIterator[Daemons]:
    """Start daemons that leave a connection to each other for an hour."""
    running = Daemons(listening, pause_seconds=3600.0)
    yield running
    await running.stop()


@pytest_twisted.ensureDeferred
async def test_a_connection_goes_to_the_daemon_that_has_fewer(daemons: Daemons) -> None:
    for count in range(1, 2 * MAX_PAUSES + 1):
        daemons.connect()
        await daemons.wait_until_open(count)
        assert abs(daemons.open_count[0] - daemons.open_count[1]) <= 1


@pytest_twisted.ensureDeferred
async def test_a_burst_of_connections_is_shared(daemons: Daemons) -> None:
    for _ in range(48):
        daemons.connect()
    await daemons.wait_until(lambda: sum(daemons.open_count) == 48)
    assert min(daemons.open_count) >= 12


@pytest_twisted.ensureDeferred
async def test_a_closed_connection_makes_room_for_the_next_at_once(
    slow_daemons: Daemons,
) -> None:
    daemons = slow_daemons
    first, second, waiting = (daemons.connect() for _ in range(3))
    await daemons.wait_until(lambda: daemons.open_count == [1, 1])
    for count, leaving in enumerate((first, second, waiting), 3):
        for _ in range(20):
            await run_reactor_once()
        assert daemons.accepted_count == count - 1
        daemons.connect()
        leaving.close()
        await daemons.wait_until_accepted(count)
        await daemons.wait_until(lambda: daemons.open_count == [1, 1])
