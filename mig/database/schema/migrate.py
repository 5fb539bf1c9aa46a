"""The schema: an empty database is set up, an existing one brought up to date beside its writers.

What is missing is found by comparing the catalog with :mod:`mig.database.schema.declared`, again
before every step: so a run that was killed anywhere is simply repeated, and whatever else happened
to the database in between is seen. Nothing is dropped or rewritten but the invalid leftover of an
index of ours, and a function or trigger of ours that differs.

A run that needs another role does nothing but say so. Each step is run as the role that it is for:
what a superuser adds belongs to the owner of the rest.

A step that keeps others from a table waits for it a second at most, then steps back and tries
again. An index is built concurrently: that keeps nobody waiting, but must itself wait for every
transaction that is older, a report's too, and so is more patient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import psycopg2
from psycopg2.errors import InsufficientPrivilege
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from mig.database.connection import Connection, Rows
from mig.database.database import GRACE_SECONDS, Database
from mig.database.schema.catalog import look
from mig.database.schema.declared import Wanted, wanted
from mig.database.schema.plan import BRIEF, CONCURRENT, Patience, Step, format_script, make_plan
from mig.errors import LockTimeoutError, OtherRoleNeededError, SchemaError, describe_error
from mig.model.row import read_as
from mig.model.statement import Parameters, Statement

__all__ = [
    "SchemaError",
    "Step",
    "Waits",
    "migrate",
    "plan",
    "prepare",
]

LOCK_KEY: Final = 1664
LOCK_POLL_SECONDS: Final = 0.1
PAUSE_SECONDS: Final = 1.0

Record = TypeVar("Record")


class _LockRow(NamedTuple):
    is_held: bool


_TRY_LOCK = Statement("select pg_try_advisory_lock(%s)", read_as(_LockRow))
_DIE_WITH_CLIENT = (
    "select set_config(name, '2s', false) from pg_settings"
    " where name = 'client_connection_check_interval'"
)


@dataclass(frozen=True, kw_only=True)
class Waits:
    """How long a run waits for another one, and how patient its steps are."""

    other_run_seconds: float = 60.0
    brief: Patience = BRIEF
    concurrent: Patience = CONCURRENT


async def prepare(database: Database, *, upgrade: bool, schema: Wanted | None = None) -> None:
    """Make sure that the schema is what this program needs, or is *schema*.

    An empty database is set up. Any other is brought up to date with *upgrade*, else only checked.
    Any number of processes may do this at once.

    :raises SchemaError: when the schema is older and *upgrade* is not set, is newer, or cannot be
        changed.
    :raises UnavailableError: when the database cannot be reached.
    """
    schema = schema or wanted()
    found = await look(database.query, schema)
    if found.empty or (upgrade and make_plan(schema, found)):
        await _change(database, schema, _log, Waits(), set_up_only=not upgrade)
        found = await look(database.query, schema)
    if missing := make_plan(schema, found):
        raise SchemaError(_refusal(schema, found.version, missing))


async def plan(database: Database, schema: Wanted | None = None) -> list[Step]:
    """What :func:`migrate` would do; this changes nothing and needs no rights.

    :raises SchemaError: for a database that is newer, or none of MIG's.
    :raises UnavailableError: when the database cannot be reached.
    """
    schema = schema or wanted()
    return make_plan(schema, await look(database.query, schema))


async def migrate(
    database: Database,
    done: Callable[[Step], None],
    *,
    schema: Wanted | None = None,
    waits: Waits | None = None,
) -> None:
    """Bring a database up to date; *done* hears of each step.

    :raises OtherRoleNeededError: when the current user cannot run all steps. Nothing was done.
    :raises SchemaError: when the database is newer or none of MIG's, is being changed by another
        process, or a step fails.
    :raises UnavailableError: when the database cannot be reached.
    """
    await _change(database, schema or wanted(), done, waits or Waits(), set_up_only=False)


def _check_runners(user: str, steps: Sequence[Step]) -> None:
    """Check that *user*, the current one, can run all *steps*.

    :raises OtherRoleNeededError: when it cannot.
    """
    if others := [step for step in steps if not step.runner.usable]:
        more = f", and {len(others) - 1} more steps" if len(others) > 1 else ""
        runners = "; ".join(dict.fromkeys(step.runner.title for step in others))
        raise OtherRoleNeededError(
            f"{user} may not {others[0].what}{more}: this must be run by {runners};"
            " `mig-api migrate --plan` prints it as SQL",
            format_script(others),
        )


_logger = Logger()


def _log(step: Step) -> None:
    _logger.info("database: {what}", what=step.what)


def _refusal(schema: Wanted, version: int | None, missing: Sequence[Step]) -> str:
    has = "no schema version" if version is None else f"schema version {version}"
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return (
        f"the database has {has}, version {schema.version} is needed, and to be done is:"
        f" {missing[0].what}{more}; `mig-api migrate`, run as its owner, brings it up"
    )


async def _change(
    database: Database,
    schema: Wanted,
    done: Callable[[Step], None],
    waits: Waits,
    *,
    set_up_only: bool,
) -> None:
    async with database.session() as connection:
        await _Change(database, connection, schema, done, waits).run(set_up_only)


class _Change:
    """One run of the steps, in a session that holds the lock against others of its kind."""

    def __init__(
        self,
        database: Database,
        connection: Connection,
        schema: Wanted,
        done: Callable[[Step], None],
        waits: Waits,
    ) -> None:
        self._reactor = database.reactor
        self._connection = connection
        self._schema = schema
        self._done = done
        self._waits = waits

    async def run(self, set_up_only: bool) -> None:
        await self._begin()
        last: Step | None = None
        failures: Counter[Step] = Counter()
        while True:
            await self._execute("reset role")
            found = await look(self._query, self._schema)
            steps = make_plan(self._schema, found)
            if not steps or (set_up_only and not found.empty):
                return
            _check_runners(found.user.title, steps)
            step = steps[0]
            if step == last:
                raise SchemaError(f"{step.what}: PostgreSQL did this without effect")
            last = step if await self._try(step, failures) else None

    async def _try(self, step: Step, failures: Counter[Step]) -> bool:
        """Whether the step was done; ``False`` when others hold what it needs."""
        patience = self._waits.concurrent if step.concurrent else self._waits.brief
        try:
            await self._apply(step, patience)
        except LockTimeoutError as reason:
            failures[step] += 1
            if failures[step] == patience.attempts:
                raise SchemaError(
                    f"{step.what}: other transactions hold what this needs for too long"
                    f" ({describe_error(reason)}); run it again"
                ) from None
            await self._pause(PAUSE_SECONDS)
            return False
        except psycopg2.Error as reason:
            raise SchemaError(f"{step.what}: {' '.join(str(reason).split())}") from None
        self._done(step)
        return True

    async def _apply(self, step: Step, patience: Patience) -> None:
        """Run a step. Several statements sent as one text are one transaction."""
        await self._execute(
            f"set lock_timeout = '{patience.lock_seconds}s';"
            f" set statement_timeout = '{patience.run_seconds}s'"
        )
        if step.runner.role:
            with suppress(InsufficientPrivilege):  # one who may do as the role does, but not be it
                await self._execute(f"set role {step.runner.role}")
        await self._execute(step.sql, seconds=patience.run_seconds + GRACE_SECONDS)

    async def _begin(self) -> None:
        """Become the only run.

        The lock is tried again and again, not waited for: a session that waits has a transaction
        open, and an index built concurrently waits for all of those.
        """
        with suppress(psycopg2.Error):  # a server on a system that cannot do this
            await self._execute(_DIE_WITH_CLIENT)
        await self._execute("set application_name = 'mig-api migrate'")
        for _ in range(int(self._waits.other_run_seconds / LOCK_POLL_SECONDS)):
            [lock] = await self._query(_TRY_LOCK, (LOCK_KEY,))
            if lock.is_held:
                break
            await self._pause(LOCK_POLL_SECONDS)
        else:
            raise SchemaError("another mig-api is changing the schema of this database")

    def _query(
        self, statement: Statement[Record], parameters: Parameters = ()
    ) -> Deferred[list[Record]]:
        return self._connection.execute(statement, parameters, seconds=BRIEF.run_seconds)

    def _execute(self, sql: str, *, seconds: float = BRIEF.run_seconds) -> Deferred[Rows]:
        return self._connection.execute(sql, seconds=seconds)

    def _pause(self, seconds: float) -> Deferred[None]:
        return deferLater(self._reactor, seconds)
