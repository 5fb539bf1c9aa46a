"""The schema: an empty database is set up, an existing one brought up to date beside its writers.

What is missing is found by comparing the catalog with :mod:`mig.database.schema.declared`, again
before every step: so a run that was killed anywhere is simply repeated, and whatever else happened
to the database in between is seen. Nothing is dropped or rewritten but the invalid leftover of an
index of ours.

A step that keeps others from a table waits for it a second at most, then steps back and tries
again. An index is built concurrently: that keeps nobody waiting, but must itself wait for every
transaction that is older, a report's too, and so is more patient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import psycopg2
from psycopg2.errors import InsufficientPrivilege
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from mig.database.pool import GRACE_SECONDS, Connection, Database, Rows
from mig.database.schema.declared import API_ROLE, SHARED, VERSION, Grant, Index, Table, wanted
from mig.errors import Locked, SchemaFault, explained

OLDEST_SERVER: Final = 110000
"""From PostgreSQL 11 on, a new column with a constant default does not rewrite its table."""

DEFAULT_PERMISSIONS: Final = 0b111111
"""search, action, action_create, command, agent, dashboard."""

LOCK_KEY: Final = 1664
LOCK_WAIT_SECONDS: Final = 60.0
LOCK_POLL_SECONDS: Final = 0.1
PAUSE_SECONDS: Final = 1.0

_SERVER = (
    "select current_setting('server_version_num')::integer,"
    " current_setting('server_encoding'), current_user::text,"
    " coalesce(quote_ident(current_schema()), 'public'),"
    " coalesce(has_schema_privilege(current_schema(), 'create'), false),"
    " exists (select from pg_roles where rolname = %s),"
    " coalesce(has_table_privilege(to_regclass('mig_schema')::oid, 'select'), false)"
)
_VERSION = "select max(version) from mig_schema"
_COLUMNS = (
    "select t.name, a.attname::text, a.atthasdef from unnest(%s::text[]) as t (name)"
    " join pg_attribute a on a.attrelid = to_regclass(t.name)"
    " and a.attnum > 0 and not a.attisdropped"
)
_SEQUENCES = "select name from unnest(%s::text[]) as s (name) where to_regclass(name) is not null"
_INDEXES = """
select t.name, i.relname::text, x.indisvalid and x.indisready and x.indislive,
    m.amname = 'btree' and x.indpred is null and x.indexprs is null
    and array(select distinct o from unnest(x.indoption::int2[]) as o)
        in (array[0::int2], array[3::int2]),
    array(
        select a.attname::text
        from unnest(x.indkey::int2[]) with ordinality as k (attnum, place)
        join pg_attribute a on a.attrelid = x.indrelid and a.attnum = k.attnum
        where k.place <= x.indnkeyatts order by k.place
    )
from unnest(%s::text[]) as t (name)
join pg_index x on x.indrelid = to_regclass(t.name)
join pg_class i on i.oid = x.indexrelid
join pg_am m on m.oid = i.relam
"""
_NOT_GRANTED = """
select distinct g.place
from (select %s::name as name) as role,
    unnest(%s::int[], %s::text[], %s::text[], %s::text[], %s::text[])
        as g (place, kind, relation, col, privilege)
left join pg_attribute a on a.attrelid = to_regclass(g.relation) and a.attname = g.col
where not coalesce(case
    when g.kind = 'sequence'
        then has_sequence_privilege(role.name, to_regclass(g.relation)::oid, g.privilege)
    when g.col = ''
        then has_table_privilege(role.name, to_regclass(g.relation)::oid, g.privilege)
    else has_column_privilege(role.name, to_regclass(g.relation)::oid, a.attnum, g.privilege)
end, false)
"""
_SCHEMA_USABLE = "select has_schema_privilege(%s::name, current_schema(), 'usage')"
_BECOME_OWNER = """
select set_config('role', min(pg_get_userbyid(c.relowner)::text), false)
from unnest(%s::text[]) as t (name) join pg_class c on c.oid = to_regclass(t.name)
having count(distinct c.relowner) = 1
    and bool_and(pg_has_role(c.relowner, 'usage')
        and has_schema_privilege(c.relowner, c.relnamespace, 'create'))
"""
_NOT_OURS = (
    "select t.name, pg_get_userbyid(c.relowner)::text from unnest(%s::text[]) as t (name)"
    " join pg_class c on c.oid = to_regclass(t.name) where not pg_has_role(c.relowner, 'usage')"
    " order by t.name"
)
_DIE_WITH_CLIENT = (
    "select set_config(name, '2s', false) from pg_settings"
    " where name = 'client_connection_check_interval'"
)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a step waits for others' locks, how often it tries, and how long it may run."""

    lock_seconds: int
    attempts: int
    run_seconds: int


BRIEF: Final = Patience(lock_seconds=1, attempts=60, run_seconds=60)
CONCURRENT: Final = Patience(lock_seconds=300, attempts=3, run_seconds=7 * 24 * 3600)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One change, all or nothing: *what* for people, and its SQL."""

    what: str
    sql: str
    concurrent: bool = False

    @property
    def patience(self) -> Patience:
        return CONCURRENT if self.concurrent else BRIEF

    @property
    def script(self) -> str:
        """The step for psql, as it is run here."""
        body = f"{self.sql};" if self.concurrent else f"begin;\n{self.sql};\ncommit;"
        return f"-- {self.what}\nset lock_timeout = '{self.patience.lock_seconds}s';\n{body}\n"


class RunQuery(Protocol):
    """Runs a statement: its rows."""

    def __call__(self, sql: str, parameters: Sequence[Any] = ...) -> Awaitable[Rows]: ...


@dataclass(frozen=True, kw_only=True)
class _FoundIndex:
    table: str
    name: str
    valid: bool
    plain: bool
    columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What a database has of the schema. *columns* is by table: name → whether with a default."""

    version: int | None
    user: str
    schema: str
    may_create: bool
    api_role: bool
    schema_usable: bool
    columns: dict[str, dict[str, bool]]
    sequences: frozenset[str]
    indexes: tuple[_FoundIndex, ...]
    not_granted: tuple[Grant, ...]

    @property
    def empty(self) -> bool:
        return not self.columns


async def prepare(database: Database, *, upgrade: bool) -> None:
    """Make sure that the schema is what this program needs.

    An empty database is set up. Any other is brought up to date with *upgrade*, else only checked.
    Any number of processes may do this at once.

    :raises SchemaFault: when the schema is older and *upgrade* is not set, is newer, or cannot be
        changed.
    :raises Unavailable: when the database cannot be reached.
    """
    found = await _look(database.query)
    if found.empty or (upgrade and _missing(found)):
        await _change(database, _log, set_up_only=not upgrade)
        found = await _look(database.query)
    if missing := _missing(found):
        raise SchemaFault(_refusal(found.version, missing))


async def plan(database: Database) -> list[Step]:
    """What :func:`migrate` would do; this changes nothing and needs no rights.

    :raises SchemaFault: for a database that is newer, or none of MIG's.
    :raises Unavailable: when the database cannot be reached.
    """
    return _missing(await _look(database.query))


async def migrate(database: Database, done: Callable[[Step], None]) -> None:
    """Bring a database up to date, as the owner of its tables; *done* hears of each step.

    :raises SchemaFault: when the database is newer or none of MIG's, belongs to somebody else, is
        being changed by another process, or a step fails.
    :raises Unavailable: when the database cannot be reached.
    """
    await _change(database, done, set_up_only=False)


_logger = Logger()


def _log(step: Step) -> None:
    _logger.info("database: {what}", what=step.what)


def _refusal(version: int | None, missing: Sequence[Step]) -> str:
    has = "no schema version" if version is None else f"schema version {version}"
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return (
        f"the database has {has}, version {VERSION} is needed, and to be done is:"
        f" {missing[0].what}{more}; `mig-api migrate`, run as its owner, brings it up"
    )


async def _look(query: RunQuery) -> _Found:
    """What the database has.

    The tables are looked for first: whoever sets them up makes all the rest with them.

    :raises SchemaFault: when it, or the server, is one that this program does not know.
    """
    names = [table.name for table in wanted().tables]
    columns: dict[str, dict[str, bool]] = {}
    for table, column, has_default in await query(_COLUMNS, (names,)):
        columns.setdefault(table, {})[column] = has_default
    [[server, encoding, user, schema, may_create, api_role, versioned]] = await query(
        _SERVER, (API_ROLE,)
    )
    if encoding != "UTF8":
        raise SchemaFault(f"the database's encoding is {encoding}; it must be UTF8")
    if server < OLDEST_SERVER:
        raise SchemaFault("PostgreSQL 11 or newer is needed")
    version = (await query(_VERSION))[0][0] if versioned else None
    if version is not None and version > VERSION:
        raise SchemaFault(
            f"the database has schema version {version}, made by a newer mig-api;"
            f" this one knows version {VERSION}"
        )
    return _Found(
        version=version,
        user=user,
        schema=schema,
        may_create=may_create,
        api_role=api_role,
        schema_usable=not api_role or (await query(_SCHEMA_USABLE, (API_ROLE,)))[0][0],
        columns=columns,
        sequences=frozenset(row[0] for row in await query(_SEQUENCES, (list(wanted().sequences),))),
        indexes=tuple(
            _FoundIndex(table=table, name=name, valid=valid, plain=plain, columns=tuple(on))
            for table, name, valid, plain, on in await query(_INDEXES, (names,))
        ),
        not_granted=await _not_granted(query) if api_role else (),
    )


async def _not_granted(query: RunQuery) -> tuple[Grant, ...]:
    grants = list(wanted().grants)
    each = [
        (place, grant.kind, grant.relation, column, grant.privilege)
        for place, grant in enumerate(grants)
        for column in grant.columns or ("",)
    ]
    parameters = (API_ROLE, *map(list, zip(*each, strict=True)))
    return tuple(grants[place] for [place] in sorted(await query(_NOT_GRANTED, parameters)))


def _missing(found: _Found) -> list[Step]:
    """The steps from what is found to what is wanted, in their order."""
    if found.empty:
        return [_set_up(found)]
    steps = [*_sequences(found), *_tables(found), *_indexes(found), *_grants(found)]
    if found.version != VERSION:
        steps.append(Step(what=f"note schema version {VERSION}", sql=_NOTE_VERSION))
    return steps


_NOTE_VERSION = f"insert into mig_schema (version) values ({VERSION})"  # noqa: S608


def _set_up(found: _Found) -> Step:
    parts = [wanted().sql, *(step.sql for step in _grants(found))]
    return Step(what="set up an empty database", sql=";\n".join([*parts, _NOTE_VERSION]))


def _sequences(found: _Found) -> Iterator[Step]:
    for name in wanted().sequences:
        if name in found.sequences:
            continue
        sql = [f"create sequence {name}"]
        for table in wanted().tables:
            for column, definition in table.columns.items():
                default = f"nextval('{name}')"
                if default in definition and found.columns.get(table.name, {}).get(column) is False:
                    sql.append(
                        f"alter table {table.name} alter column {column} set default {default}"
                    )
        yield Step(what=f"create sequence {name}", sql=";\n".join(sql))


def _tables(found: _Found) -> Iterator[Step]:
    for table in wanted().tables:
        if table.name not in found.columns:
            yield Step(what=f"create table {table.name}", sql=table.sql)
        elif table.name in SHARED:
            missing = [name for name in table.columns if name not in found.columns[table.name]]
            if missing:
                yield _add_columns(table, missing)


def _add_columns(table: Table, names: Sequence[str]) -> Step:
    """All new columns of a table at once: its writers step aside only once."""
    for name in names:
        definition = table.columns[name]
        if "primary key" in definition or (
            "not null" in definition and "default" not in definition
        ):
            raise SchemaFault(
                f"the table {table.name} has no column {name}: this is no database of MIG"
            )
    added = ",\n    ".join(f"add column {name} {table.columns[name]}" for name in names)
    sql = f"alter table {table.name}\n    {added}"
    if table.name == "investigators" and "permissions" in names:
        sql += (
            f";\nupdate investigators set permissions = {DEFAULT_PERMISSIONS}"
            " where status = 'active'"
        )
    return Step(what=f"add to {table.name}: {', '.join(names)}", sql=sql)


def _indexes(found: _Found) -> Iterator[Step]:
    for index in wanted().indexes:
        if any(each.name == index.name and not each.valid for each in found.indexes):
            yield Step(
                what=f"drop the unfinished index {index.name}",
                sql=f"drop index concurrently {index.name}",
                concurrent=True,
            )
        if not any(_serves(each, index) for each in found.indexes):
            yield Step(
                what=f"create index {index.name}",
                sql=f"create index concurrently {index.name} on {index.table}"
                f" ({', '.join(index.columns)})",
                concurrent=True,
            )


def _serves(found: _FoundIndex, index: Index) -> bool:
    same = (found.table, found.columns) == (index.table, index.columns)
    return same and found.valid and found.plain


def _grants(found: _Found) -> Iterator[Step]:
    if not found.schema_usable:
        sql = f"grant usage on schema {found.schema} to {API_ROLE}"
        yield Step(what=sql, sql=sql)
    for grant in found.not_granted:
        yield Step(what=f"grant {grant.privilege} on {grant.relation} to {API_ROLE}", sql=grant.sql)


async def _change(database: Database, done: Callable[[Step], None], *, set_up_only: bool) -> None:
    async with database.session() as connection:
        await _Change(database, connection, done).run(set_up_only)


class _Change:
    """One run of the steps, in a session that holds the lock against others of its kind."""

    def __init__(
        self, database: Database, connection: Connection, done: Callable[[Step], None]
    ) -> None:
        self._reactor = database.reactor
        self._connection = connection
        self._done = done

    async def run(self, set_up_only: bool) -> None:
        await self._begin()
        last: Step | None = None
        failures: Counter[Step] = Counter()
        while steps := _missing(found := await _look(self._query)):
            if set_up_only and not found.empty:
                return
            await self._check_owner(found)
            step = steps[0]
            if step == last:
                raise SchemaFault(f"{step.what}: PostgreSQL did this without effect")
            last = step if await self._try(step, failures) else None

    async def _try(self, step: Step, failures: Counter[Step]) -> bool:
        """Whether the step was done; ``False`` when others hold what it needs."""
        try:
            await self._apply(step)
        except Locked as reason:
            failures[step] += 1
            if failures[step] == step.patience.attempts:
                raise SchemaFault(
                    f"{step.what}: other transactions hold what this needs for too long"
                    f" ({explained(reason)}); run it again"
                ) from None
            await self._pause(PAUSE_SECONDS)
            return False
        except psycopg2.Error as reason:
            raise SchemaFault(f"{step.what}: {' '.join(str(reason).split())}") from None
        self._done(step)
        return True

    async def _apply(self, step: Step) -> None:
        """Run a step. Several statements sent as one text are one transaction."""
        patience = step.patience
        await self._query(
            f"set lock_timeout = '{patience.lock_seconds}s';"
            f" set statement_timeout = '{patience.run_seconds}s'"
        )
        await self._query(step.sql, seconds=patience.run_seconds + GRACE_SECONDS)

    async def _begin(self) -> None:
        """Become the only one, and whose tables these are.

        The lock is tried again and again, not waited for: a session that waits has a transaction
        open, and an index built concurrently waits for all of those.
        """
        with suppress(psycopg2.Error):  # a server on a system that cannot do this
            await self._query(_DIE_WITH_CLIENT)
        await self._query("set application_name = 'mig-api migrate'")
        for _ in range(int(LOCK_WAIT_SECONDS / LOCK_POLL_SECONDS)):
            if (await self._query("select pg_try_advisory_lock(%s)", (LOCK_KEY,)))[0][0]:
                break
            await self._pause(LOCK_POLL_SECONDS)
        else:
            raise SchemaFault("another mig-api is changing the schema of this database")
        with suppress(InsufficientPrivilege):  # one who may do as the owner does, but not be it
            await self._query(_BECOME_OWNER, (_names(),))

    async def _check_owner(self, found: _Found) -> None:
        for table, owner in await self._query(_NOT_OURS, (_names(),)):
            raise SchemaFault(
                f"{found.user} does not own the table {table};"
                f" `mig-api migrate` must run as its owner, {owner}"
            )
        if not found.may_create:
            raise SchemaFault(
                f"{found.user} may not create tables in this database;"
                " `mig-api migrate` must run as its owner"
            )

    def _query(
        self, sql: str, parameters: Sequence[Any] = (), *, seconds: float = BRIEF.run_seconds
    ) -> Deferred[Rows]:
        return self._connection.execute(sql, parameters, seconds=seconds)

    def _pause(self, seconds: float) -> Deferred[None]:
        return deferLater(self._reactor, seconds)


def _names() -> list[str]:
    return [table.name for table in wanted().tables]
