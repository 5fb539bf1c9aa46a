"""Migration: set up an empty database, or bring an existing one up to date while others use it.

The catalog is compared with :mod:`mig.database.schema.declaration` before every step. So a run that
was killed can be repeated, and it sees whatever else has changed in the database
(docs/decisions/0002). Nothing is dropped or replaced except the invalid rest of one of our indexes,
and our functions and triggers that differ.

A run that needs another role changes nothing and says so (docs/decisions/0003); optional steps that
need one are left out (docs/decisions/0057). Each step runs as the role that it is for, so what a
superuser adds belongs to the owner of the other tables.

A step that locks a table waits for the lock for a second at most, gives up, and tries again: others
queue behind a waiting lock. An index is built concurrently, which blocks nobody. It must wait for
every older transaction, even a report's, so it may wait longer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeVar

import psycopg2
from psycopg2.errors import InsufficientPrivilege
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from mig.database.connection import Connection, Rows
from mig.database.database import SERVER_GRACE_SECONDS, Database
from mig.database.schema.catalog import ExistingSchema, inspect_schema
from mig.database.schema.declaration import API_ROLE, Schema, load_schema
from mig.database.schema.plan import (
    CONCURRENT_RETRY_POLICY,
    TRANSACTIONAL_RETRY_POLICY,
    RetryPolicy,
    Step,
    format_script,
    plan_steps,
)
from mig.errors import LockTimeoutError, OtherRoleNeededError, SchemaError, describe_error
from mig.model.row import make_row_reader
from mig.model.statement import Parameters, Statement

__all__ = [
    "MigrationPolicy",
    "SchemaError",
    "Step",
    "check_schema",
    "ensure_schema",
    "migrate",
    "plan_migration",
]

MIGRATION_LOCK_KEY: Final = 1664
"""The key of the advisory lock: any number that all versions of this program agree on."""

CHECKED_MONTHS: Final = 2
"""How many months after this one :func:`check_schema` expects to have their partitions."""

LOCK_POLL_INTERVAL_SECONDS: Final = 0.1
RETRY_PAUSE_SECONDS: Final = 1.0

Record = TypeVar("Record")


class _LockRow(NamedTuple):
    is_held: bool


_TRY_LOCK = Statement("select pg_try_advisory_lock(%s)", make_row_reader(_LockRow))
# Since PostgreSQL 14 a server can notice while it works that the client has gone. The lock of a run
# that was killed is then free within seconds. The select does nothing on older servers.
_END_WITH_CLIENT = """
select set_config(name, '2s', false) from pg_settings
where name = 'client_connection_check_interval'
"""


@dataclass(frozen=True, kw_only=True)
class MigrationPolicy:
    """The limits of a run: how long it waits for another one, and how its steps retry."""

    other_run_timeout_seconds: float = 60.0
    transactional: RetryPolicy = TRANSACTIONAL_RETRY_POLICY
    concurrent: RetryPolicy = CONCURRENT_RETRY_POLICY


async def ensure_schema(database: Database, *, upgrade: bool, schema: Schema | None = None) -> None:
    """Check that the database has the schema that this program needs, or ``schema``.

    What roles may do is checked by ``ensure_privileges`` instead. An empty database is set up.
    Another one is brought up to date when ``upgrade`` is set. Any number of processes may do this
    at the same time.

    :raises SchemaError: when the schema is older and ``upgrade`` is not set, is newer, or cannot be
        changed.
    :raises UnavailableError: when the database cannot be reached.
    """
    schema = schema or load_schema()
    existing = await inspect_schema(database.query, schema)
    if existing.is_empty or (upgrade and plan_steps(schema, existing)):
        await _run_migration(
            database, schema, _log_step, MigrationPolicy(), set_up_only=not upgrade
        )
        existing = await inspect_schema(database.query, schema)
    _refuse_missing(schema, existing)


async def check_schema(database: Database) -> list[Step]:
    """Check that the database has the schema that this program needs, and change nothing.

    :returns: the steps that a migration would run, without what only later months need. What
        ``ensure_privileges`` checks is not among them.
    :raises SchemaError: when the service could not work with the schema.
    :raises UnavailableError: when the database cannot be reached.
    """
    schema = load_schema()
    schema = replace(
        schema,
        months=[replace(months, count=CHECKED_MONTHS) for months in schema.months],
        grants=[grant for grant in schema.grants if grant.role != API_ROLE],
    )
    existing = await inspect_schema(database.query, schema)
    _refuse_missing(schema, existing)
    return plan_steps(schema, existing)


def _refuse_missing(schema: Schema, existing: ExistingSchema) -> None:
    """Refuse a database that lacks a part of the schema which the service needs.

    :raises SchemaError: naming the first missing part.
    """
    if not existing.can_read_version:
        raise SchemaError(
            f"{existing.user.title} may not read the table mig_schema;"
            f" connect as {API_ROLE} or as the owner of the tables"
        )
    if missing := plan_steps(schema.without_upkeep(), existing):
        raise SchemaError(_describe_missing(schema, existing.version, missing))


async def plan_migration(database: Database, schema: Schema | None = None) -> list[Step]:
    """Return the steps that :func:`migrate` would run; change nothing, and need no privileges.

    :raises SchemaError: when the database is newer or is not a MIG database.
    :raises UnavailableError: when the database cannot be reached.
    """
    schema = schema or load_schema()
    return plan_steps(schema, await inspect_schema(database.query, schema))


async def migrate(
    database: Database,
    on_step: Callable[[Step], None],
    *,
    schema: Schema | None = None,
    policy: MigrationPolicy | None = None,
) -> Sequence[Step]:
    """Bring a database up to date; call ``on_step`` after each step.

    :returns: the optional steps that the current user cannot run.
    :raises OtherRoleNeededError: when the current user cannot run all others; nothing is changed.
    :raises SchemaError: when the database is newer or is not a MIG database, when another process
        is changing it, and when a step fails.
    :raises UnavailableError: when the database cannot be reached.
    """
    return await _run_migration(
        database, schema or load_schema(), on_step, policy or MigrationPolicy(), set_up_only=False
    )


def _check_runners(user: str, steps: Sequence[Step]) -> None:
    """Check that the current user, ``user``, can run all ``steps`` that are not optional.

    :raises OtherRoleNeededError: when it cannot.
    """
    if others := [step for step in steps if step.is_refused]:
        plural = "s" if len(others) > 2 else ""
        more = f", and {len(others) - 1} more step{plural}" if len(others) > 1 else ""
        runners = "; ".join(dict.fromkeys(step.runner.title for step in others))
        raise OtherRoleNeededError(
            f"{user} may not {others[0].description}{more}: this must be run by {runners};"
            " `mig-api migrate --plan` prints it as SQL",
            format_script([step for step in steps if not step.runner.is_usable]),
        )


_logger = Logger()


def _log_step(step: Step) -> None:
    _logger.info("database: {step}", step=step.description)


def _describe_missing(schema: Schema, version: int | None, missing: Sequence[Step]) -> str:
    if version is None:
        state = f"the database has no schema version; version {schema.version} is needed"
    elif version == schema.version:
        state = f"the database has schema version {version}, but parts of it are missing or differ"
    else:
        state = f"the database has schema version {version}; version {schema.version} is needed"
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return (
        f"{state}; to do: {missing[0].description}{more};"
        " run `mig-api migrate` as the owner of the tables"
    )


async def _run_migration(
    database: Database,
    schema: Schema,
    on_step: Callable[[Step], None],
    policy: MigrationPolicy,
    *,
    set_up_only: bool,
) -> Sequence[Step]:
    async with database.session() as connection:
        return await _Migration(database, connection, schema, on_step, policy).run(set_up_only)


class _Migration:
    """A run of the steps, in a session that holds the lock against other runs."""

    def __init__(
        self,
        database: Database,
        connection: Connection,
        schema: Schema,
        on_step: Callable[[Step], None],
        policy: MigrationPolicy,
    ) -> None:
        self._reactor = database.reactor
        self._connection = connection
        self._schema = schema
        self._on_step = on_step
        self._policy = policy

    async def run(self, set_up_only: bool) -> Sequence[Step]:
        """Run the steps one by one until none is needed; return those that are left out.

        :param set_up_only: change a database only if it is empty.
        :raises OtherRoleNeededError: before the first step, when the current user cannot run all.
        :raises SchemaError: as :func:`migrate` raises it.
        """
        await self._acquire_lock()
        last: Step | None = None
        failures: Counter[Step] = Counter()
        while True:
            await self._execute("reset role")  # the last step may have changed the role
            existing = await inspect_schema(self._query, self._schema)
            steps = plan_steps(self._schema, existing)
            usable = [step for step in steps if step.runner.is_usable]
            if set_up_only and not existing.is_empty:
                return steps
            _check_runners(existing.user.title, steps)
            if not usable:
                return steps
            step = usable[0]
            if step == last:  # else it would be repeated for ever
                raise SchemaError(f"{step.description}: PostgreSQL ran this, but nothing changed")
            last = step if await self._try_step(step, failures) else None

    async def _try_step(self, step: Step, failures: Counter[Step]) -> bool:
        """Run a step; return whether it succeeded, or must be tried again because of a lock."""
        retry_policy = self._policy.concurrent if step.is_concurrent else self._policy.transactional
        try:
            await self._apply_step(step, retry_policy)
        except LockTimeoutError as reason:
            failures[step] += 1
            if failures[step] == retry_policy.max_attempts:
                raise SchemaError(
                    f"{step.description}: other transactions held the locks that this needs for"
                    f" too long ({describe_error(reason)}); run it again"
                ) from None
            await self._pause(RETRY_PAUSE_SECONDS)
            return False
        except psycopg2.Error as reason:
            raise SchemaError(f"{step.description}: {' '.join(str(reason).split())}") from None
        self._on_step(step)
        return True

    async def _apply_step(self, step: Step, retry_policy: RetryPolicy) -> None:
        """Run a step; its statements are sent as one text, which makes them one transaction."""
        await self._execute(
            f"set lock_timeout = '{retry_policy.lock_timeout_seconds}s';"
            f" set statement_timeout = '{retry_policy.run_timeout_seconds}s'"
        )
        if step.runner.role:
            # a member WITH SET FALSE has the role's privileges, but may not assume the role
            with suppress(InsufficientPrivilege):
                await self._execute(f"set role {step.runner.role}")
        await self._execute(
            step.sql, seconds=retry_policy.run_timeout_seconds + SERVER_GRACE_SECONDS
        )

    async def _acquire_lock(self) -> None:
        """Acquire the lock that makes this the only run.

        The lock is polled: a session that waits for it has an open transaction, and the other run
        may be building an index concurrently, which waits for every transaction.

        :raises SchemaError: when another run does not end in time.
        """
        with suppress(psycopg2.Error):  # the server's operating system may not support this
            await self._execute(_END_WITH_CLIENT)
        await self._execute("set application_name = 'mig-api migrate'")
        for _ in range(int(self._policy.other_run_timeout_seconds / LOCK_POLL_INTERVAL_SECONDS)):
            [lock] = await self._query(_TRY_LOCK, (MIGRATION_LOCK_KEY,))
            if lock.is_held:
                break
            await self._pause(LOCK_POLL_INTERVAL_SECONDS)
        else:
            raise SchemaError("another mig-api is changing the schema of this database")

    def _query(
        self, statement: Statement[Record], parameters: Parameters = ()
    ) -> Deferred[list[Record]]:
        return self._connection.execute(
            statement, parameters, seconds=TRANSACTIONAL_RETRY_POLICY.run_timeout_seconds
        )

    def _execute(
        self, sql: str, *, seconds: float = TRANSACTIONAL_RETRY_POLICY.run_timeout_seconds
    ) -> Deferred[Rows]:
        return self._connection.execute(sql, seconds=seconds)

    def _pause(self, seconds: float) -> Deferred[None]:
        return deferLater(self._reactor, seconds)
