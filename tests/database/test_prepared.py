"""A statement is planned once for each connection, and survives changes of the tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import psycopg2
import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred

from mig.database.database import Database
from mig.errors import UnavailableError
from mig.limits import Limits
from mig.model.row import make_row_reader
from mig.model.statement import IdRow, Statement, select_ids
from tests.support.postgres import TestDatabase
from tests.support.reactor import reactor


class Thing(NamedTuple):
    name: str


class Plan(NamedTuple):
    name: str
    uses: int


class Echo(NamedTuple):
    values: list[str]
    percent: str


THINGS = Statement(
    "select name from things where id = %(id)s or name like %(name)s || '%%' order by id",
    make_row_reader(Thing),
    name="things",
    types={"id": "numeric", "name": "text"},
)
PLANS = Statement(
    "select name, generic_plans + custom_plans from pg_prepared_statements", make_row_reader(Plan)
)
ECHO = Statement(
    "select %(values)s, '%%'", make_row_reader(Echo), name="echo", types={"values": "text[]"}
)


@pytest.fixture
def things(database: TestDatabase) -> TestDatabase:
    database.execute("create table things (id numeric, name varchar(20))")
    database.execute("insert into things values (1, 'one'), (2, 'two'), (3, 'three')")
    return database


@pytest.fixture
def single(things: TestDatabase) -> Iterator[Database]:
    """Return a pool of one connection."""
    pool = Database(reactor, things.dsn, limits=Limits(query_connections=1))
    yield pool
    pool.stop()


async def query_names(pool: Database, thing_id: int, name: str) -> list[str]:
    return [thing.name for thing in await pool.query(THINGS, {"name": name, "id": thing_id})]


@pytest_twisted.ensureDeferred
async def test_a_statement_is_planned_once_for_each_connection(single: Database) -> None:
    assert await query_names(single, 1, "t") == ["one", "two", "three"]
    assert await query_names(single, 2, "%") == ["one", "two", "three"]
    assert await query_names(single, 3, "x") == ["three"]
    assert await single.query(PLANS) == [Plan("things", 3)]


@pytest_twisted.ensureDeferred
async def test_a_changed_table_costs_one_request_on_each_connection(
    things: TestDatabase, single: Database
) -> None:
    assert await query_names(single, 1, "x") == ["one"]
    things.execute("alter table things alter name type text")
    with pytest.raises(UnavailableError, match="the database has changed"):
        await query_names(single, 1, "x")
    assert await query_names(single, 1, "x") == ["one"]
    await single.query("deallocate all")
    with pytest.raises(UnavailableError, match="the database has changed"):
        await query_names(single, 1, "x")
    assert await query_names(single, 1, "x") == ["one"]


@pytest_twisted.ensureDeferred
async def test_a_statement_that_could_not_be_prepared_is_prepared_later(
    things: TestDatabase, single: Database
) -> None:
    things.execute("alter table things rename to gone")
    for _ in range(2):
        with pytest.raises(psycopg2.Error, match='"things" does not exist'):
            await query_names(single, 1, "x")
    things.execute("alter table gone rename to things")
    assert await query_names(single, 1, "x") == ["one"]


@pytest_twisted.ensureDeferred
async def test_a_query_cancelled_while_it_is_prepared_leaves_nothing_behind(
    things: TestDatabase, single: Database
) -> None:
    assert await single.query(select_ids("select '1'")) == [IdRow("1")]
    with closing(psycopg2.connect(things.dsn)) as other:
        other.cursor().execute("lock table things")
        leaving = Deferred.fromCoroutine(query_names(single, 1, "x"))
        leaving.cancel()
        with pytest.raises(CancelledError):
            await leaving
    assert await query_names(single, 1, "x") == ["one"]


@pytest_twisted.ensureDeferred
async def test_parameters_arrive_unchanged(single: Database) -> None:
    values = ["", "'", '"', "\\", "%", "%s", "%(values)s", "$1", "{a,b}", "null", "é\u2028\n", "😀"]
    for sent in (values, [], ["'; drop table things; --"], values[::-1]):
        assert await single.query(ECHO, {"values": sent}) == [Echo(sent, "%")]
