"""A statement is planned once a connection, and outlives whatever happens to the tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred

from mig.database.pool import Database
from mig.database.prepared import Prepared
from mig.errors import Unavailable
from tests.support.postgres import TestDatabase

THINGS = Prepared(
    "things",
    "select name from things where id = %(id)s or name like %(name)s || '%%' order by id",
    {"id": "numeric", "name": "text"},
)
PLANS = "select name, generic_plans + custom_plans from pg_prepared_statements"


@pytest.fixture
def things(database: TestDatabase) -> TestDatabase:
    database.execute("create table things (id numeric, name varchar(20))")
    database.execute("insert into things values (1, 'one'), (2, 'two'), (3, 'three')")
    return database


@pytest.fixture
def single(things: TestDatabase) -> Iterator[Database]:
    """The pool has one connection."""
    pool = Database(reactor, things.dsn, connections=1)
    yield pool
    pool.stop()


async def names(pool: Database, id: int, name: str) -> list[Any]:
    return [row[0] for row in await pool.query(THINGS, {"name": name, "id": id})]


@pytest_twisted.ensureDeferred
async def test_it_is_planned_once(single: Database) -> None:
    assert await names(single, 1, "t") == ["one", "two", "three"]
    assert await names(single, 2, "%") == ["one", "two", "three"]
    assert await names(single, 3, "x") == ["three"]
    assert await single.query(PLANS) == [("things", 3)]


@pytest_twisted.ensureDeferred
async def test_a_change_of_the_tables_costs_one_request_a_connection(
    things: TestDatabase, single: Database
) -> None:
    assert await names(single, 1, "x") == ["one"]
    things.execute("alter table things alter name type text")
    with pytest.raises(Unavailable, match="the database has changed"):
        await names(single, 1, "x")
    assert await names(single, 1, "x") == ["one"]
    await single.query("deallocate all")
    with pytest.raises(Unavailable, match="the database has changed"):
        await names(single, 1, "x")
    assert await names(single, 1, "x") == ["one"]


@pytest_twisted.ensureDeferred
async def test_what_could_not_be_prepared_is_prepared_later(
    things: TestDatabase, single: Database
) -> None:
    things.execute("alter table things rename to gone")
    for _ in range(2):
        with pytest.raises(psycopg2.Error, match='"things" does not exist'):
            await names(single, 1, "x")
    things.execute("alter table gone rename to things")
    assert await names(single, 1, "x") == ["one"]


@pytest_twisted.ensureDeferred
async def test_who_leaves_while_it_is_prepared_leaves_nothing_behind(
    things: TestDatabase, single: Database
) -> None:
    assert await single.query("select 1") == [(1,)]
    with closing(psycopg2.connect(things.dsn)) as other:
        other.cursor().execute("lock table things")
        leaving = Deferred.fromCoroutine(names(single, 1, "x"))
        leaving.cancel()
        with pytest.raises(CancelledError):
            await leaving
    assert await names(single, 1, "x") == ["one"]


@pytest_twisted.ensureDeferred
async def test_parameters_arrive_as_they_are(single: Database) -> None:
    echo = Prepared("echo", "select %(values)s, '%%'", {"values": "text[]"})
    values = ["", "'", '"', "\\", "%", "%s", "%(values)s", "$1", "{a,b}", "null", "é\u2028\n", "😀"]
    for given in (values, [], ["'; drop table things; --"], values[::-1]):
        assert await single.query(echo, {"values": given}) == [(given, "%")]
