"""Functions that migrate a test's database as any role."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from psycopg2.extensions import make_dsn

from mig.database.database import Database
from mig.database.schema import migrate
from mig.database.schema.declaration import Schema
from mig.database.schema.migrate import MigrationPolicy, Step
from mig.errors import SchemaError
from tests.support.postgres import TestDatabase
from tests.support.reactor import reactor

Result = TypeVar("Result")


class MigrationKilledError(Exception):
    """The run is killed here."""


async def call_with_database(dsn: str, call: Callable[[Database], Awaitable[Result]]) -> Result:
    """Return what *call* returns for the database of *dsn*."""
    database = Database(reactor, dsn)
    try:
        return await call(database)
    finally:
        database.stop()


async def run_migration(
    database: TestDatabase,
    stop_after: int = sys.maxsize,
    *,
    schema: Schema | None = None,
    policy: MigrationPolicy | None = None,
    left_out: list[Step] | None = None,
) -> list[str]:
    """Run a migration and return its steps; it is killed after *stop_after* of them.

    Optional steps that it leaves out are added to *left_out*.
    """
    done: list[str] = []

    def record_step(step: Step) -> None:
        done.append(step.description)
        if len(done) == stop_after:
            raise MigrationKilledError

    skipped = await call_with_database(
        database.dsn, lambda d: migrate.migrate(d, record_step, schema=schema, policy=policy)
    )
    if left_out is not None:
        left_out += skipped
    return done


async def plan_migration(database: TestDatabase, schema: Schema | None = None) -> list[Step]:
    """Return the steps that a migration would run."""
    return await call_with_database(database.dsn, lambda d: migrate.plan_migration(d, schema))


async def catch_schema_error(call: Awaitable[object]) -> str:
    """Return the one line with which *call* is refused."""
    with pytest.raises(SchemaError) as refused:
        await call
    assert "\n" not in str(refused.value)
    return str(refused.value)


def as_role(database: TestDatabase, role: str) -> TestDatabase:
    """Return *database* as *role* sees it, with that role's privileges only.

    The server lets in few roles; PostgreSQL checks the one that the session begins as.
    """
    return TestDatabase(dsn=make_dsn(database.dsn, options=f"-c role={role}"))


def change_owner(database: TestDatabase, owner: str, *relations: str) -> None:
    """Give tables and sequences to *owner*."""
    for relation in relations:
        database.execute(f"alter table {relation} owner to {owner}")
