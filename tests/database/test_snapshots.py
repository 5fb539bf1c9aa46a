"""What becomes of the statement that is running when a snapshot ends."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_twisted

from mig.database.database import Database, Snapshot
from mig.limits import Limits
from mig.model.statement import select_ids
from tests.support.postgres import TestDatabase
from tests.support.reactor import reactor

PID = select_ids("select pg_backend_pid()::text")
SLEEPING = select_ids("select pid::text from pg_stat_activity where wait_event = 'PgSleep'")


@pytest_twisted.async_yield_fixture
async def searched(database: TestDatabase) -> AsyncIterator[Database]:
    """A database with one connection for streams."""
    searched = Database(reactor, database.dsn, limits=Limits(stream_connections=1))
    yield searched
    searched.stop()


async def leave_page_ahead(snapshot: Snapshot, sql: str) -> str:
    """Start to fetch a page that nobody waits for, and return the process of the connection."""
    [backend] = await snapshot.query(PID)
    await snapshot.declare_cursor(sql)
    snapshot.fetch(10).addErrback(lambda _: None)
    assert snapshot.is_busy
    return backend.id


@pytest_twisted.ensureDeferred
async def test_a_page_that_was_fetched_ahead_costs_no_connection(
    searched: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mig.database.database.LAST_STATEMENT_SECONDS", 60)
    used = set()
    for _ in range(3):
        async with searched.snapshot("test") as snapshot:
            used.add(await leave_page_ahead(snapshot, "select generate_series(1, 100000)"))
    assert len(used) == 1


@pytest_twisted.ensureDeferred
async def test_a_statement_that_takes_longer_is_cancelled(
    searched: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mig.database.database.LAST_STATEMENT_SECONDS", 0.01)
    async with searched.snapshot("test") as snapshot:
        left = await leave_page_ahead(snapshot, "select pg_sleep(600)")
    async with searched.snapshot("test") as snapshot:
        [backend] = await snapshot.query(PID)
    assert backend.id != left
    for _ in range(10_000):
        if all(row.id != left for row in await searched.query(SLEEPING)):
            return
    pytest.fail("it is still running")
