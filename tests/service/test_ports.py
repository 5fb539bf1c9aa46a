"""Daemons on one socket share its connections by how many each has."""

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

from mig.service.listeners import bind
from mig.service.shared_port import MOST_PAUSES
from tests.support.reactor import reactor, stop_listening


class Connections(Factory):
    """Those that one daemon has, and its port."""

    noisy = False
    port: IListeningPort

    def __init__(self) -> None:
        self.open = 0
        self.taken = 0

    def buildProtocol(self, addr: object) -> Protocol:
        return Connection(self)


class Connection(Protocol):
    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def connectionMade(self) -> None:
        self._connections.open += 1
        self._connections.taken += 1

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._connections.open -= 1


class Daemons:
    """Two that accept from one inherited socket, and clients."""

    def __init__(self, listening: socket.socket, **options: float) -> None:
        listening.listen(64)
        self._address = listening.getsockname()
        self._family = listening.family
        self.two = [Connections(), Connections()]
        for one in self.two:
            one.port = bind(f"fd:{listening.fileno()}").accept(reactor, one, **options)
        listening.close()
        self.clients: list[socket.socket] = []

    @property
    def open(self) -> list[int]:
        return [one.open for one in self.two]

    @property
    def taken(self) -> int:
        return sum(one.taken for one in self.two)

    def connect(self) -> socket.socket:
        client = socket.socket(self._family)
        client.connect(self._address)
        self.clients.append(client)
        return client

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await turn()

    async def until_open(self, count: int) -> None:
        await self.until(lambda: sum(self.open) == count)

    async def until_taken(self, count: int) -> None:
        await self.until(lambda: self.taken == count)

    async def stop(self) -> None:
        for client in self.clients:
            client.close()
        await self.until(lambda: self.open == [0, 0])
        for one in self.two:
            await stop_listening(one.port)


async def turn() -> None:
    waiting: Deferred[None] = Deferred()
    reactor.callLater(0, waiting.callback, None)
    await waiting


@pytest.fixture(params=["tcp", "unix"])
def listening(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> socket.socket:
    """A bound socket of either kind; the path of a Unix one is short in its own folder."""
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
async def patient(listening: socket.socket) -> AsyncIterator[Daemons]:
    """Daemons that leave a connection to each other for an hour."""
    running = Daemons(listening, pause_seconds=3600.0)
    yield running
    await running.stop()


@pytest_twisted.ensureDeferred
async def test_connections_that_stay_go_to_who_has_fewer(daemons: Daemons) -> None:
    for count in range(1, 2 * MOST_PAUSES + 1):
        daemons.connect()
        await daemons.until_open(count)
        assert abs(daemons.open[0] - daemons.open[1]) <= 1


@pytest_twisted.ensureDeferred
async def test_a_burst_is_shared(daemons: Daemons) -> None:
    for _ in range(48):
        daemons.connect()
    await daemons.until(lambda: sum(daemons.open) == 48)
    assert min(daemons.open) >= 12


@pytest_twisted.ensureDeferred
async def test_the_place_of_a_connection_that_has_closed_is_taken_at_once(
    patient: Daemons,
) -> None:
    daemons = patient
    first, second, waiting = (daemons.connect() for _ in range(3))
    await daemons.until(lambda: daemons.open == [1, 1])
    for count, leaving in enumerate((first, second, waiting), 3):
        for _ in range(20):
            await turn()
        assert daemons.taken == count - 1
        daemons.connect()
        leaving.close()
        await daemons.until_taken(count)
        await daemons.until(lambda: daemons.open == [1, 1])
