"""Retention: old commands and actions are deleted, old months of the audit are detached.

It is run by the owner of the tables: the role of the daemon can delete nothing. Batches are small,
with a pause after each, so that schedulers and readers are not disturbed. A run that is interrupted
can be repeated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from typing import Final, NamedTuple

from twisted.internet.task import deferLater

from mig.access.audit import Actor, record_change
from mig.database.database import Database
from mig.errors import LockTimeoutError, SchemaError
from mig.model.row import id_sql, make_row_reader
from mig.model.statement import Statement, id_array, select_ids

PAUSE_SECONDS: Final = 0.08
LOCK_ATTEMPTS: Final = 30
AUDITED_MONTHS: Final = 24
COUNT_TIMEOUT_SECONDS: Final = 3_600.0


@dataclass(frozen=True, kw_only=True)
class RetentionPolicy:
    """How old rows may get; ``None`` keeps them for ever.

    The age of a command is counted from ``starttime``, that of an action from ``expireafter``, and
    that of a month of the audit from its end. ``commands_per_batch`` and ``actions_per_batch`` are
    how many rows one transaction deletes.
    """

    commands: timedelta | None = None
    actions: timedelta | None = None
    audit: timedelta | None = None
    commands_per_batch: int = 5_000
    actions_per_batch: int = 500


@dataclass(frozen=True, kw_only=True)
class Cutoffs:
    """The times before which rows are too old, as PostgreSQL writes them; ``None`` for never."""

    commands: str | None
    actions: str | None
    audit: str | None


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """How many commands and actions are deleted, and which months are detached."""

    commands: int = 0
    actions: int = 0
    months: tuple[str, ...] = ()


class _CutoffRow(NamedTuple):
    commands: str | None
    actions: str | None
    audit: str | None


class _CommandRow(NamedTuple):
    id: str
    starttime: str


class _CountRow(NamedTuple):
    commands: int
    actions: int


class _OwnerRow(NamedTuple):
    user: str
    owner: str


class _MonthRow(NamedTuple):
    name: str


_CUTOFFS = Statement(
    """
    select (now() - %s::interval)::text, (now() - %s::interval)::text, (now() - %s::interval)::text
    """,
    make_row_reader(_CutoffRow),
)
_FOREIGN_OWNERS = Statement(
    """
    select current_user::text, pg_get_userbyid(c.relowner)::text
    from unnest(array['commands', 'actions', 'signatures', 'submissions', 'audit']) as t (name)
    join pg_class c on c.oid = to_regclass(t.name)
    where not pg_has_role(c.relowner, 'usage')
    """,
    make_row_reader(_OwnerRow),
)
# Each batch begins after the last one: the index still has the entries of deleted rows, and a batch
# that begins at the first one takes longer and longer.
_OLD_COMMANDS = Statement(
    f"""
    select {id_sql("id")}, starttime::text
    from commands
    where (starttime, id) > (%s::timestamptz, %s::numeric) and starttime < %s::timestamptz
    order by starttime, id
    limit %s
    """,
    make_row_reader(_CommandRow),
)
_DELETE_COMMANDS = "delete from commands where id = any(%s::numeric[])"
# An action that has not expired may still run; its row in submissions guards against a second run.
# with "null", a comparison is not true: nothing is too old
_COUNT = Statement(
    """
    select (select count(*) from commands where starttime < %s::timestamptz), (
        select count(*)
        from actions a
        where a.expireafter < now() and a.expireafter < %s::timestamptz and not exists (
            select from commands c
            where c.actionid = a.id and c.starttime >= coalesce(%s::timestamptz, '-infinity')
        )
    )
    """,
    make_row_reader(_CountRow),
)
# While the rows are locked, no command can be added that refers to them.
_LOCK_ACTIONS = select_ids(
    f"""
    select {id_sql("a.id")}
    from actions a
    where a.expireafter < now() and a.expireafter < %s::timestamptz
        and not exists (select from commands c where c.actionid = a.id)
    order by a.expireafter, a.id
    limit %s
    for update of a skip locked
    """
)
_WITHOUT_COMMANDS = select_ids(
    f"""
    select {id_sql("a.id")}
    from actions a
    where a.id = any(%s::numeric[])
        and not exists (select from commands c where c.actionid = a.id)
    """
)
_DELETE_OF_ACTIONS: Final = (
    "delete from signatures where actionid = any(%s::numeric[])",
    "delete from submissions where actionid = any(%s::numeric[])",
    "delete from actions where id = any(%s::numeric[])",
)
_OLD_MONTHS = Statement(
    """
    select c.relname::text
    from pg_inherits h
    join pg_class c on c.oid = h.inhrelid
    where h.inhparent = to_regclass('audit')
        and c.relname ~ '^audit_[0-9]{4}_[0-9]{2}$'
        and (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month') at time zone 'UTC'
            <= %s::timestamptz
    order by c.relname
    """,
    make_row_reader(_MonthRow),
)
_CREATE_MONTHS = f"select create_months('audit', {AUDITED_MONTHS})"


async def prune(
    database: Database,
    policy: RetentionPolicy,
    actor: Actor,
    *,
    dry_run: bool = False,
    on_progress: Callable[[Pruned], None] = lambda _: None,
) -> Pruned:
    """Delete what is older than ``policy`` allows, and return what that was.

    The audit gets its row before anything is deleted.

    :param dry_run: only count.
    :param on_progress: called after each batch with what is done so far.
    :raises SchemaError: when the current user is not the owner of the tables.
    :raises UnavailableError: when the database cannot be reached, or a lock cannot be had.
    """
    for table in await database.query(_FOREIGN_OWNERS):
        raise SchemaError(f"{table.user} may not delete: run this as {table.owner}")
    intervals = (policy.commands, policy.actions, policy.audit)
    [row] = await database.query(_CUTOFFS, intervals)
    cutoffs = Cutoffs(**row._asdict())
    if dry_run:
        return await _count(database, cutoffs)
    async with database.transaction() as transaction:
        await record_change(transaction, actor, "retention", None, after=asdict(cutoffs))
    return await _Run(database, policy, cutoffs, on_progress).run()


async def _count(database: Database, cutoffs: Cutoffs) -> Pruned:
    """Return what a run would do; in a large database, counting takes minutes."""
    async with database.session() as connection:
        [row] = await connection.execute(
            _COUNT,
            (cutoffs.commands, cutoffs.actions, cutoffs.commands),
            seconds=COUNT_TIMEOUT_SECONDS,
        )
    months = await _find_months(database, cutoffs)
    return Pruned(commands=row.commands, actions=row.actions, months=months)


async def _find_months(database: Database, cutoffs: Cutoffs) -> tuple[str, ...]:
    if cutoffs.audit is None:
        return ()
    return tuple(row.name for row in await database.query(_OLD_MONTHS, (cutoffs.audit,)))


class _Run:
    """A run that deletes, batch by batch."""

    def __init__(
        self,
        database: Database,
        policy: RetentionPolicy,
        cutoffs: Cutoffs,
        on_progress: Callable[[Pruned], None],
    ) -> None:
        self._database = database
        self._policy = policy
        self._cutoffs = cutoffs
        self._on_progress = on_progress
        self._last = _CommandRow(id="0", starttime="-infinity")
        self._commands = 0
        self._actions = 0
        self._months: list[str] = []

    async def run(self) -> Pruned:
        if self._cutoffs.commands:
            while deleted := await self._retry(self._delete_commands):
                self._commands += deleted
                await self._pause()
        if self._cutoffs.actions:
            while deleted := await self._retry(self._delete_actions):
                self._actions += deleted
                await self._pause()
        for month in await _find_months(self._database, self._cutoffs):
            await self._retry(partial(self._detach, month))
            self._months.append(month)
            await self._pause()
        await self._retry(self._create_months)
        return self._count_done()

    def _count_done(self) -> Pruned:
        return Pruned(commands=self._commands, actions=self._actions, months=tuple(self._months))

    async def _retry(self, step: Callable[[], Awaitable[int]]) -> int:
        """Run a step again while another transaction holds a lock that it needs."""
        for _ in range(LOCK_ATTEMPTS - 1):
            try:
                return await step()
            except LockTimeoutError:
                await self._pause()
        return await step()

    async def _pause(self) -> None:
        self._on_progress(self._count_done())
        await deferLater(self._database.reactor, PAUSE_SECONDS)

    async def _delete_commands(self) -> int:
        limits = (self._cutoffs.commands, self._policy.commands_per_batch)
        position = (self._last.starttime, self._last.id)
        rows = await self._database.query(_OLD_COMMANDS, (*position, *limits))
        if rows:
            async with self._database.transaction() as transaction:
                ids = id_array(row.id for row in rows)
                await transaction.query(_DELETE_COMMANDS, (ids,))
            self._last = rows[-1]
        return len(rows)

    async def _delete_actions(self) -> int:
        limits = (self._cutoffs.actions, self._policy.actions_per_batch)
        async with self._database.transaction() as transaction:
            locked = await transaction.query(_LOCK_ACTIONS, limits)
            ids = id_array(row.id for row in locked)
            # one may have got a command until it was locked
            deletable = await transaction.query(_WITHOUT_COMMANDS, (ids,))
            for statement in _DELETE_OF_ACTIONS:
                await transaction.query(statement, (id_array(row.id for row in deletable),))
        return len(locked)

    async def _detach(self, month: str) -> int:
        async with self._database.transaction() as transaction:
            await transaction.query(f"alter table audit detach partition {month}")
        return 1

    async def _create_months(self) -> int:
        async with self._database.transaction() as transaction:
            await transaction.query(_CREATE_MONTHS)
        return 1
