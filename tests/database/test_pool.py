"""Connections are shared fairly between the clients that wait for one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from mig.database.connection import Connection
from mig.database.pool import Pool
from mig.errors import UnavailableError
from mig.limits import Limits
from tests.support.postgres import TestDatabase
from tests.support.reactor import reactor

NEVER = 10.0**6


class SmallPool:
    """A pool of two connections, of which each client's share is one."""

    def __init__(self, dsn: str, *, wait_seconds: float = NEVER, queue: int = 3) -> None:
        limits = Limits(client_share=0.5, waiting_queries=queue)
        self.pool = Pool(
            reactor, dsn, size=2, setup="select 1", wait_seconds=wait_seconds, limits=limits
        )
        self.served: list[str] = []

    def acquire(self, client: str, *, is_patient: bool = False) -> Deferred[Connection]:
        """Acquire a connection, and note in ``served`` who got one."""

        def note(connection: Connection) -> Connection:
            self.served.append(client)
            return connection

        waiting = Deferred.fromCoroutine(self.pool.acquire(client, is_patient=is_patient))
        return waiting.addCallback(note)


@pytest_twisted.async_yield_fixture
async def small(database: TestDatabase) -> AsyncIterator[SmallPool]:
    small = SmallPool(database.dsn)
    yield small
    small.pool.stop()


@pytest_twisted.ensureDeferred
async def test_a_client_may_use_every_connection_that_nobody_else_needs(small: SmallPool) -> None:
    await small.acquire("a")
    await small.acquire("a")
    assert not small.pool.is_available()
    assert not small.pool.is_overdrawn("a")


@pytest_twisted.ensureDeferred
async def test_a_client_with_its_share_comes_after_the_others(small: SmallPool) -> None:
    held = [await small.acquire("a") for _ in range(2)]
    waiting = [small.acquire(client) for client in ("a", "a", "b")]
    assert small.pool.is_overdrawn("a") and small.pool.is_wanted()
    small.pool.release(held[0])
    await waiting[2]
    assert not small.pool.is_overdrawn("a") and small.pool.is_wanted()
    small.pool.release(held[1])
    small.pool.discard(await waiting[0])
    await waiting[1]
    assert small.served == ["a", "a", "b", "a", "a"]


@pytest_twisted.ensureDeferred
async def test_new_and_resumed_streams_take_turns(small: SmallPool) -> None:
    connections = [await small.acquire(""), await small.acquire("")]
    new = [small.acquire(f"new {n}") for n in range(2)]
    resumed = [small.acquire(f"resumed {n}", is_patient=True) for n in range(2)]
    for _ in range(2):
        for connection in connections:
            small.pool.release(connection)
        served = [each for each in (*new, *resumed) if each.called]
        connections = [await each for each in served[-2:]]
    kinds = [client.split()[0] for client in small.served[2:]]
    assert sorted(kinds[:2]) == sorted(kinds[2:]) == ["new", "resumed"]


@pytest_twisted.ensureDeferred
async def test_a_resumed_stream_waits_as_long_as_it_takes(database: TestDatabase) -> None:
    small = SmallPool(database.dsn, wait_seconds=0.01)
    held = [await small.acquire("a") for _ in range(2)]
    resumed = small.acquire("b", is_patient=True)
    with pytest.raises(UnavailableError, match="all connections to the database are in use"):
        await small.acquire("b")
    assert not resumed.called
    small.pool.release(held[0])
    await resumed
    small.pool.stop()


@pytest_twisted.ensureDeferred
async def test_a_full_queue_drops_the_newest_of_the_client_that_has_most(small: SmallPool) -> None:
    held = [await small.acquire("a") for _ in range(2)]
    waiting = [small.acquire("a") for _ in range(3)]
    other = small.acquire("b")
    with pytest.raises(UnavailableError, match="too many requests are waiting"):
        await waiting[2]
    small.pool.release(held[0])
    await other
    for each in waiting[:2]:
        each.addErrback(lambda _: None).cancel()
    assert not small.pool.is_wanted()


@pytest_twisted.ensureDeferred
async def test_who_gives_up_waiting_leaves_the_queue(small: SmallPool) -> None:
    held = [await small.acquire("a") for _ in range(2)]
    for is_patient in (False, True):
        small.acquire("b", is_patient=is_patient).addErrback(lambda _: None).cancel()
    assert not small.pool.is_wanted()
    small.pool.release(held[0])
    assert small.pool.is_available()
