"""The statements of a request with a trace have its name, and no connection keeps it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import psycopg2.errors
import pytest
import pytest_twisted
from psycopg2.extensions import make_dsn
from twisted.internet.defer import Deferred

from mig.access.shared import BatchLoader, SharedJobs
from mig.database.connection import Connection
from mig.database.database import Database
from mig.database.schema.declaration import API_ROLE
from mig.errors import GuardFailedError
from mig.limits import Limits
from mig.model.row import make_row_reader
from mig.model.statement import Condition, Guard, Statement
from mig.tracing import build_application_name, get_application_name, name_statements
from tests.support.postgres import TestDatabase
from tests.support.reactor import reactor

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
NAME = build_application_name("17", TRACE)
SHOW = "select current_setting('application_name')"


class NameRow(NamedTuple):
    name: str


read = make_row_reader(NameRow)
PLAIN = Statement(SHOW, read)
PREPARED = Statement(f"{SHOW} where %(one)s = 1", read, name="show_name", types={"one": "int"})
ONE = {"one": 1}
WRITING = Statement(SHOW, read, writes=True)
IMPOSSIBLE = Statement("select 1 / 0", read)


def find_row(number: int) -> Guard:
    """Return a guard that holds for the number 1 alone."""
    sql = "from (select 1 as n) as t where t.n = %(n)s"
    return Guard(Condition(name="found", sql=sql, types={"n": "int"}), {"n": number})


@pytest_twisted.async_yield_fixture
async def one_connection(database: TestDatabase) -> AsyncIterator[Database]:
    """A database with one connection for small queries, and one for streams."""
    limits = Limits(query_connections=1, stream_connections=1)
    running = Database(reactor, make_dsn(database.dsn, user=API_ROLE), limits=limits)
    yield running
    running.stop()


async def run_named(call: Callable[[], Awaitable[object]]) -> object:
    """Run a coroutine as that of a request with a trace."""

    async def run() -> object:
        return await call()

    with name_statements("17", TRACE):
        running = Deferred.fromCoroutine(run())
    return await running


@pytest_twisted.ensureDeferred
async def test_each_kind_of_statement_has_the_name(one_connection: Database) -> None:
    async def run_transaction() -> list[str]:
        async with one_connection.transaction() as transaction:
            return [row.name for _ in range(2) for row in await transaction.query(PLAIN)]

    async def run_snapshot() -> list[str]:
        async with one_connection.snapshot(NAME) as snapshot:
            return [row.name for row in await snapshot.query(PLAIN)]

    for call, expected in (
        (lambda: one_connection.query(PLAIN), [NameRow(NAME)]),
        (lambda: one_connection.query(PREPARED, ONE), [NameRow(NAME)]),
        (lambda: one_connection.query(PREPARED, ONE), [NameRow(NAME)]),
        (lambda: one_connection.query(WRITING), [NameRow(NAME)]),
        (lambda: one_connection.query_guarded(find_row(1), PREPARED, ONE), [NameRow(NAME)]),
        (lambda: one_connection.query_restricted(PLAIN, client="c"), [NameRow(NAME)]),
        (run_transaction, [NAME, NAME]),
        (run_snapshot, [NAME]),
    ):
        assert await run_named(call) == expected
        assert await one_connection.query(PLAIN) == [NameRow("mig-api")]
        assert await one_connection.query(PREPARED, ONE) == [NameRow("mig-api")]
    async with one_connection.snapshot("mig-api 18") as snapshot:
        assert await snapshot.query(PLAIN) == [NameRow("mig-api 18")]


@pytest_twisted.ensureDeferred
async def test_the_name_costs_no_round_trip(
    one_connection: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing at all without a trace."""
    await one_connection.query(PREPARED, ONE)  # prepares it
    sent: list[str] = []
    execute = Connection._execute

    def record(self: Connection, sql: str, *arguments: Any) -> Any:
        sent.append(sql)
        return execute(self, sql, *arguments)

    monkeypatch.setattr(Connection, "_execute", record)
    await run_named(lambda: one_connection.query(PREPARED, ONE))
    await one_connection.query(PREPARED, ONE)
    plain = PREPARED.execute_sql
    assert sent == [f"set local application_name = '{NAME}'; {plain}", plain]


@pytest_twisted.ensureDeferred
async def test_a_statement_that_fails_leaves_no_name(one_connection: Database) -> None:
    with pytest.raises(psycopg2.errors.DivisionByZero):
        await run_named(lambda: one_connection.query(IMPOSSIBLE))
    with pytest.raises(GuardFailedError):
        await run_named(lambda: one_connection.query_guarded(find_row(2), PREPARED, ONE))
    assert await one_connection.query(PREPARED, ONE) == [NameRow("mig-api")]


@pytest_twisted.ensureDeferred
async def test_what_is_done_for_several_requests_has_no_name_of_one() -> None:
    names: list[str | None] = []

    async def load(keys: object) -> dict[str, str]:
        names.append(get_application_name())
        return {}

    async def work() -> None:
        names.append(get_application_name())

    await run_named(lambda: BatchLoader(load).find("key"))
    await run_named(lambda: SharedJobs[str, None]().run("key", work))
    assert names == [None, None]
