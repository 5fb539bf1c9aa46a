"""A database is set up, adopted beside its scheduler, or refused with one line."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import psycopg2
import pytest
import pytest_twisted
from psycopg2 import extensions
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from mig.database.database import Database
from mig.database.schema.declaration import API_ROLE, SCHEMA_VERSION, load_schema
from mig.database.schema.migrate import MigrationPolicy, ensure_schema
from mig.database.schema.plan import RetryPolicy
from mig.demo.postgres import EmbeddedPostgres
from mig.errors import OtherRoleNeededError
from tests.support import catalog, fleet
from tests.support.generations import GENERATIONS, Generation, set_up_2014
from tests.support.migration import (
    MigrationKilledError,
    as_role,
    call_with_database,
    catch_schema_error,
    change_owner,
    plan_migration,
    run_migration,
)
from tests.support.postgres import NewDatabase, TestDatabase, hold_transaction
from tests.support.reactor import reactor

SHARED = ("agents", "actions", "commands", "investigators", "signatures")
"""The tables that the API and a scheduler both write or read by column."""

_numbers = itertools.count()
MAX_WAIT_SECONDS = 3.0
"""The seconds that a writer may have to wait: one for a lock, the rest for a busy machine."""


@pytest.fixture
def empty(new_database: NewDatabase) -> TestDatabase:
    return new_database("template0")


@pytest.fixture(params=GENERATIONS)
def generation(request: pytest.FixtureRequest) -> Generation:
    return GENERATIONS[request.param]


@pytest.fixture
def old(empty: TestDatabase, generation: Generation) -> TestDatabase:
    """Return a database of either generation, with some rows."""
    empty.execute(generation.sql)
    generation.insert_rows(empty.dsn)
    return empty


@pytest.mark.parametrize("upgrade", [False, True])
@pytest_twisted.ensureDeferred
async def test_an_empty_database_is_set_up(empty: TestDatabase, upgrade: bool) -> None:
    await call_with_database(empty.dsn, lambda d: ensure_schema(d, upgrade=upgrade))
    assert empty.execute("select version, appliedat <= now() from mig_schema") == [
        (SCHEMA_VERSION, True)
    ]
    assert await plan_migration(empty) == []
    found = catalog.list_columns(empty)
    assert set(found) == {(t.name, column) for t in load_schema().tables for column in t.columns}
    names = {name for [name] in empty.execute("select indexname from pg_indexes")}
    assert {index.name for index in load_schema().indexes} <= names


def start(database: Database) -> Deferred[None]:
    return Deferred.fromCoroutine(ensure_schema(database, upgrade=False))


@pytest_twisted.ensureDeferred
async def test_many_daemons_start_at_once_on_an_empty_database(empty: TestDatabase) -> None:
    databases = [Database(reactor, empty.dsn) for _ in range(8)]
    starts = [
        deferLater(reactor, number / 100, lambda d=database: start(d))
        for number, database in enumerate(databases)
    ]
    await gatherResults(starts)
    for database in databases:
        database.stop()
    assert empty.execute("select count(*) from mig_schema") == [(1,)]


@pytest_twisted.ensureDeferred
async def test_without_the_limited_role_nothing_is_granted(empty: TestDatabase) -> None:
    """The administrator creates the roles; the next run grants them what is missing."""
    without = replace(
        load_schema(),
        grants=[replace(grant, role="no_such_role") for grant in load_schema().grants],
    )
    await call_with_database(empty.dsn, lambda d: ensure_schema(d, upgrade=False, schema=without))
    assert all(step.startswith("grant ") for step in await run_migration(empty))
    assert await plan_migration(empty) == []


@pytest_twisted.ensureDeferred
async def test_only_one_migration_runs_at_a_time(empty: TestDatabase) -> None:
    with hold_transaction(empty, "select pg_advisory_lock(1664)"):
        line = await catch_schema_error(
            run_migration(empty, policy=MigrationPolicy(other_run_timeout_seconds=0.3))
        )
    assert line == "another mig-api is changing the schema of this database"


@pytest_twisted.ensureDeferred
async def test_an_adopted_database_is_like_a_new_one(
    old: TestDatabase, database: TestDatabase
) -> None:
    """It has the same columns and indexes; existing columns keep their types, and no table is
    rewritten.
    """
    before = catalog.list_columns(old)
    rows = {table: old.execute(f"select * from {table} order by 1") for table in SHARED}
    files = {table: old.execute("select pg_relation_filenode(%s)", (table,)) for table in SHARED}
    await run_migration(old)
    for table, file in files.items():
        assert old.execute("select pg_relation_filenode(%s)", (table,)) == file
    after, fresh = catalog.list_columns(old), catalog.list_columns(database)
    key = ("investigators", "id")
    before[key] = fresh[key]  # in a database of 2014 it has no default
    assert {column: after[column] for column in before} == before
    shared = {column for column in fresh if column[0] in SHARED}
    assert {column for column in after if column[0] in SHARED} == shared
    assert all(after[column] == fresh[column] for column in shared if column not in before)
    assert {table for table, _ in after} == {table for table, _ in fresh}
    tables = [*SHARED, "mig_schema"]
    assert catalog.list_indexes(old, tables) == catalog.list_indexes(database, tables)
    for table, were in rows.items():
        are = old.execute(f"select * from {table} order by 1")
        assert [row[: len(was)] for row, was in zip(are, were, strict=True)] == were
    assert await plan_migration(old) == []
    assert await run_migration(old) == []
    await call_with_database(old.dsn, lambda d: ensure_schema(d, upgrade=False))


@pytest_twisted.ensureDeferred
async def test_adopted_investigators_get_the_default_permissions_once(empty: TestDatabase) -> None:
    """Only active investigators get them, and a later run changes nothing."""
    set_up_2014(empty)
    await run_migration(empty)
    select = "select id, permissions from investigators order by id"
    assert empty.execute(select) == [(1, 63), (2, 63), (3, 0)]
    empty.execute("update investigators set permissions = 1 where id = 2")
    empty.execute("drop index commands_newest")
    assert await run_migration(empty) == ["create index commands_newest"]
    assert empty.execute(select) == [(1, 63), (2, 1), (3, 0)]


@pytest_twisted.ensureDeferred
async def test_permissions_of_a_2017_database_are_kept(empty: TestDatabase) -> None:
    empty.execute(GENERATIONS["2017"].sql)
    GENERATIONS["2017"].insert_rows(empty.dsn)
    empty.execute("update investigators set permissions = 7 where id = 1")
    await run_migration(empty)
    found = empty.execute("select id, permissions from investigators order by id")
    assert found == [(1, 7), (2, 0), (3, 0)]


class Scheduler(threading.Thread):
    """A scheduler that writes as its generation does, without pause, until it is stopped."""

    def __init__(self, database: TestDatabase, generation: Generation) -> None:
        super().__init__()
        self._database = database
        self._generation = generation
        self.stopped = threading.Event()
        self.written = 0
        self.longest = 0.0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with closing(psycopg2.connect(self._database.dsn)) as connection:
                connection.autocommit = True
                self._write(connection.cursor())
        except Exception as error:
            self.error = error

    def _write(self, cursor: extensions.cursor) -> None:
        agent = self._generation.make_agent(1)
        places = ", ".join(["%s"] * len(agent))
        insert_agent = f"insert into agents ({', '.join(agent)}) values ({places})"
        while not self.stopped.is_set():
            number = 1000 + self.written
            values = [
                str(v).replace("'", '"') if isinstance(v, dict) else v for v in agent.values()
            ]
            self._execute_timed(cursor, insert_agent, [number, *values[1:]])
            self._execute_timed(
                cursor,
                "insert into commands (id, actionid, agentid, status, results, starttime,"
                " finishtime) values (%s, 1, %s, 'sent', '[]', now(), now())",
                [number, number],
            )
            self._execute_timed(
                cursor, "update agents set heartbeattime = now() where id = %s", [number]
            )
            self._execute_timed(
                cursor,
                "update investigators set lastmodified = now() where id = 1 returning name",
                [],
            )
            self.written += 1

    def _execute_timed(
        self, cursor: extensions.cursor, sql: str, parameters: Sequence[object]
    ) -> None:
        began = time.monotonic()
        cursor.execute(sql, parameters)
        self.longest = max(self.longest, time.monotonic() - began)


@pytest_twisted.ensureDeferred
async def test_a_scheduler_can_keep_writing_during_a_migration(
    old: TestDatabase, generation: Generation
) -> None:
    """It sees no error, loses no row, and never waits for more than the second of a lock.

    A reader of the agents keeps a transaction open for longer than that.
    """
    old.execute(
        "insert into commands (id, actionid, agentid, status, starttime)"
        " select n, 1, 1, 'sent', now() from generate_series(1000000, 1050000) as n"
    )
    scheduler = Scheduler(old, generation)
    scheduler.start()
    try:
        with hold_transaction(old, "select count(*) from agents") as reader:
            reactor.callLater(2.5, reader.rollback)
            await run_migration(old)
        during = scheduler.written
        while scheduler.written < during + 20 and scheduler.is_alive():
            await deferToThread(time.sleep, 0.05)
    finally:
        scheduler.stopped.set()
        await deferToThread(scheduler.join)
    assert scheduler.error is None
    assert during > 0
    assert scheduler.longest < MAX_WAIT_SECONDS
    count = "select count(*) from commands where id between 1000 and 999999"
    assert old.execute(count) == [(scheduler.written,)]
    assert await plan_migration(old) == []


@pytest_twisted.ensureDeferred
async def test_a_migration_that_gets_no_lock_ends_with_one_line(empty: TestDatabase) -> None:
    """The next run completes what this one has not done."""
    policy = MigrationPolicy(
        transactional=RetryPolicy(lock_timeout_seconds=1, max_attempts=2, run_timeout_seconds=60)
    )
    set_up_2014(empty)
    with hold_transaction(empty, "select count(*) from agents"):
        line = await catch_schema_error(run_migration(empty, policy=policy))
    assert line.startswith("add to agents: mode, refreshtime, loadername: other transactions held")
    await run_migration(empty)
    assert await plan_migration(empty) == []


def leave_unfinished_index(database: TestDatabase, name: str) -> None:
    """Leave what a failed CREATE INDEX CONCURRENTLY leaves behind."""
    create = f"create index concurrently {name} on commands (starttime, id)"
    with (
        hold_transaction(database, "update commands set status = 'sent'"),
        closing(psycopg2.connect(database.dsn)) as connection,
    ):
        connection.autocommit = True
        connection.cursor().execute("set lock_timeout = '100ms'")
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            connection.cursor().execute(create)
    assert catalog.list_invalid_indexes(database) == [name]


@pytest_twisted.ensureDeferred
async def test_an_unfinished_index_is_built_again(database: TestDatabase) -> None:
    fleet.insert_rows(database.dsn, "commands", [fleet.make_command(1, None, None)])
    database.execute("drop index commands_newest")
    leave_unfinished_index(database, "commands_newest")
    line = await catch_schema_error(
        call_with_database(database.dsn, lambda d: ensure_schema(d, upgrade=False))
    )
    assert "drop the unfinished index commands_newest and 1 more" in line
    assert await run_migration(database) == [
        "drop the unfinished index commands_newest",
        "create index commands_newest",
    ]
    assert catalog.list_invalid_indexes(database) == []
    assert await plan_migration(database) == []


@pytest_twisted.ensureDeferred
async def test_an_equal_index_of_another_name_is_used(empty: TestDatabase) -> None:
    """It is on the same columns; one on a part of the rows or in another order is not equal."""
    set_up_2014(empty)
    empty.execute("create index mine on commands (starttime desc, id desc)")
    empty.execute("create index part on actions (validfrom, id) where status = 'init'")
    empty.execute("create index mixed on agents (starttime, id desc)")
    done = await run_migration(empty)
    assert "create index commands_newest" not in done
    assert {"create index actions_newest", "create index agents_newest"} <= set(done)


@pytest_twisted.ensureDeferred
async def test_a_different_index_of_the_same_name_is_left_alone(empty: TestDatabase) -> None:
    set_up_2014(empty)
    empty.execute("create index commands_newest on commands (status)")
    line = await catch_schema_error(run_migration(empty))
    assert line == 'create index commands_newest: relation "commands_newest" already exists'


@pytest_twisted.ensureDeferred
async def test_a_missing_sequence_is_created(empty: TestDatabase) -> None:
    """In a database of 2014 there is none; it goes on after the ids that are there."""
    set_up_2014(empty)
    empty.execute("update investigators set id = 'NaN' where id = 1")
    empty.execute("update investigators set id = 2e19 where id = 2")
    await run_migration(empty)
    [(new_id,)] = empty.execute(
        "insert into investigators (name, status, createdat, lastmodified)"
        " values ('x', 'active', now(), now()) returning id"
    )
    assert new_id == 4


@pytest_twisted.ensureDeferred
async def test_a_migration_killed_between_any_two_steps_can_be_repeated(
    new_database: NewDatabase,
) -> None:
    """The result is the same wherever it was killed."""
    whole = set_up_2014(new_database("template0"))
    steps = await run_migration(whole)
    assert len(steps) > 15
    killed = set_up_2014(new_database("template0"))
    done = 0
    while await plan_migration(killed):
        with pytest.raises(MigrationKilledError):
            await run_migration(killed, stop_after=1)
        done += 1
    assert done == len(steps)
    assert catalog.describe_all(killed) == catalog.describe_all(whole)
    select = "select id, permissions from investigators order by id"
    assert killed.execute(select) == whole.execute(select)


def kill_while_building(database: TestDatabase) -> None:
    """Start ``mig-api migrate``, and kill it while an index waits for an open transaction."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "mig.cli", "migrate", "--database", database.dsn],
        stdout=subprocess.DEVNULL,
    )
    while "commands_newest" not in catalog.list_invalid_indexes(database):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()


@pytest_twisted.ensureDeferred
async def test_a_migration_killed_while_building_an_index_can_be_repeated(
    empty: TestDatabase,
) -> None:
    """Its backend ends too, and the next run completes the rest."""
    set_up_2014(empty)
    backends = (
        "select pid from pg_stat_activity"
        " where application_name = 'mig-api migrate' and datname = current_database()"
    )
    with hold_transaction(empty, "update commands set status = 'sent'"):
        await deferToThread(kill_while_building, empty)
        killed = empty.execute(backends)
        again = Deferred.fromCoroutine(run_migration(empty))
        while killed[0] in empty.execute(backends):
            await deferToThread(time.sleep, 0.1)
    assert "drop the unfinished index commands_newest" in await again
    assert await plan_migration(empty) == []


@pytest_twisted.ensureDeferred
async def test_a_daemon_refuses_an_old_database(old: TestDatabase) -> None:
    """It changes nothing, and says which command migrates the database."""
    before = catalog.describe_all(old)
    line = await catch_schema_error(
        call_with_database(old.dsn, lambda d: ensure_schema(d, upgrade=False))
    )
    assert line.startswith(
        f"the database has no schema version; version {SCHEMA_VERSION} is needed; to do: "
    )
    assert "; run `mig-api migrate` as the owner of the tables" in line
    assert catalog.describe_all(old) == before


@pytest_twisted.ensureDeferred
async def test_an_embedded_database_is_migrated_at_start(old: TestDatabase) -> None:
    await call_with_database(old.dsn, lambda d: ensure_schema(d, upgrade=True))
    assert await plan_migration(old) == []


@pytest_twisted.ensureDeferred
async def test_a_newer_database_is_refused(database: TestDatabase) -> None:
    database.execute(f"insert into mig_schema values ({SCHEMA_VERSION + 1})")
    for call in (
        call_with_database(database.dsn, lambda d: ensure_schema(d, upgrade=False)),
        call_with_database(database.dsn, lambda d: ensure_schema(d, upgrade=True)),
        plan_migration(database),
        run_migration(database),
    ):
        line = await catch_schema_error(call)
        assert line == (
            f"the database has schema version {SCHEMA_VERSION + 1}, made by a newer mig-api;"
            f" this one supports version {SCHEMA_VERSION}"
        )


@pytest_twisted.ensureDeferred
async def test_a_foreign_database_is_refused(empty: TestDatabase) -> None:
    empty.execute("create table actions (number integer)")
    line = await catch_schema_error(run_migration(empty))
    assert line == "the table actions has no column id: this is not a MIG database"


def as_api(postgres: EmbeddedPostgres, database: TestDatabase) -> TestDatabase:
    name = database.execute("select current_database()")[0][0]
    return TestDatabase(dsn=postgres.format_dsn(API_ROLE, name))


@pytest_twisted.ensureDeferred
async def test_only_the_owner_can_migrate_a_database(
    old: TestDatabase, postgres: EmbeddedPostgres
) -> None:
    """The API's role may see the plan, and is told which role must run it."""
    limited = as_api(postgres, old)
    steps = [step for step in await plan_migration(limited) if not step.purpose]
    assert len(steps) > 5
    line = await catch_schema_error(run_migration(limited))
    assert line == (
        f"migapi may not {steps[0].description}, and {len(steps) - 1} more steps: this must be"
        " run by migadmin; `mig-api migrate --plan` prints it as SQL"
    )
    await run_migration(old)
    await call_with_database(limited.dsn, lambda d: ensure_schema(d, upgrade=False))


@pytest_twisted.ensureDeferred
async def test_an_empty_database_is_set_up_only_by_its_owner(
    empty: TestDatabase, postgres: EmbeddedPostgres
) -> None:
    empty.execute("revoke create on schema public from public")
    limited = as_api(postgres, empty)
    line = await catch_schema_error(
        call_with_database(limited.dsn, lambda d: ensure_schema(d, upgrade=False))
    )
    assert line.startswith("migapi may not set up an empty database: this must be run by migadmin")


@pytest.fixture
def owner(empty: TestDatabase) -> Iterator[str]:
    """Return a role that is not a superuser and may not create anything in the schema."""
    name = f"owner_{next(_numbers)}"
    empty.execute("revoke create on schema public from public")
    empty.execute(f"create role {name}")
    yield name
    empty.execute(f"reassign owned by {name} to migadmin")
    empty.execute(f"drop owned by {name}; drop role {name}")


def change_owner_of_all(database: TestDatabase, owner: str, *excepted: str) -> None:
    """Make *owner* the owner of everything except some tables."""
    tables = database.execute("select tablename from pg_tables where schemaname = 'public'")
    change_owner(database, owner, *(name for [name] in tables if name not in excepted))
    sequences = database.execute("select sequencename from pg_sequences")
    change_owner(database, owner, *(name for [name] in sequences))


@pytest_twisted.ensureDeferred
async def test_objects_that_a_superuser_adds_belong_to_the_owner(
    empty: TestDatabase, owner: str
) -> None:
    """The owner gets the right to create in the schema, which it needs for that."""
    set_up_2014(empty)
    change_owner_of_all(empty, owner)
    done = await run_migration(empty)
    assert done[0] == f"grant create on schema public to {owner}"
    owners = "select distinct tableowner from pg_tables where schemaname = 'public'"
    assert empty.execute(owners) == [(owner,)]
    assert await plan_migration(as_role(empty, owner)) == []


@pytest_twisted.ensureDeferred
async def test_the_owner_of_an_empty_database_can_set_it_up(
    empty: TestDatabase, owner: str
) -> None:
    """The role also owns the schema public, where no other role needs a right before."""
    [[name]] = empty.execute("select current_database()")
    empty.execute(f"alter database {name} owner to {owner}")
    empty.execute("revoke usage on schema public from public")
    await call_with_database(as_role(empty, owner).dsn, lambda d: ensure_schema(d, upgrade=False))
    owners = "select distinct tableowner from pg_tables where schemaname = 'public'"
    assert empty.execute(owners) == [(owner,)]
    await call_with_database(
        as_role(empty, API_ROLE).dsn, lambda d: ensure_schema(d, upgrade=False)
    )


@pytest_twisted.ensureDeferred
async def test_a_role_needs_to_own_only_the_tables_that_it_changes(
    old: TestDatabase, owner: str
) -> None:
    """A table that needs no change may belong to another role."""
    old.execute(f"grant create on schema public to {owner}")
    change_owner_of_all(old, owner, "modules")
    assert len(await run_migration(as_role(old, owner))) > 10
    assert await plan_migration(as_role(old, owner)) == []
    select = "select tableowner from pg_tables where tablename = 'modules'"
    assert old.execute(select) == [("migadmin",)]


@pytest_twisted.ensureDeferred
async def test_steps_for_another_role_are_reported_before_any_change(
    empty: TestDatabase, owner: str
) -> None:
    """Once that role has run the SQL that is printed for it, the owner can run the other steps."""
    empty.execute(GENERATIONS["2017"].sql)
    GENERATIONS["2017"].insert_rows(empty.dsn)
    empty.execute("create index on signatures (investigatorid)")
    change_owner_of_all(empty, owner, "signatures")
    change_owner(empty, "migadmin", "investigators_id_seq")
    before = catalog.describe_all(empty)
    with pytest.raises(OtherRoleNeededError) as refused:
        await run_migration(as_role(empty, owner))
    assert catalog.describe_all(empty) == before
    sql = refused.value.sql
    assert [line for line in sql.splitlines() if line.startswith("-- ")] == [
        "-- as migadmin:",
        f"-- grant create on schema public to {owner}",
        "-- grant usage on investigators_id_seq to migapi",
        "-- grant select on signatures to migapi",
        "-- grant insert on signatures to migapi",
        "-- as migadmin, only for searches with target=:",
        "-- grant select on signatures to migreadonly",
    ]
    assert str(refused.value) == (
        f"{owner} may not grant create on schema public to {owner}, and 3 more steps: this must"
        " be run by migadmin; `mig-api migrate --plan` prints it as SQL"
    )
    empty.execute(sql)
    await run_migration(as_role(empty, owner))
    assert await plan_migration(as_role(empty, owner)) == []
    await call_with_database(
        as_role(empty, API_ROLE).dsn, lambda d: ensure_schema(d, upgrade=False)
    )


@pytest_twisted.ensureDeferred
async def test_a_member_of_the_owning_role_migrates_as_the_owner(
    empty: TestDatabase, owner: str
) -> None:
    set_up_2014(empty)
    change_owner_of_all(empty, owner)
    empty.execute(f"grant create on schema public to {owner}")
    member = f"{owner}_member"
    empty.execute(f"create role {member} in role {owner}")
    try:
        await run_migration(as_role(empty, member))
        owners = "select distinct tableowner from pg_tables where schemaname = 'public'"
        assert empty.execute(owners) == [(owner,)]
    finally:
        empty.execute(f"drop role {member}")


@pytest.mark.parametrize(
    ("table", "column"),
    [("submissions", "document"), ("submissions", "handedover"), ("mig_schema", "appliedat")],
)
@pytest_twisted.ensureDeferred
async def test_missing_columns_are_added_to_every_table(
    database: TestDatabase, table: str, column: str
) -> None:
    """This includes the tables that only the API has."""
    fresh = catalog.list_columns(database)
    database.execute(f"alter table {table} drop column {column} cascade")
    assert f"add to {table}: {column}" in await run_migration(database)
    assert catalog.list_columns(database) == fresh


@pytest_twisted.ensureDeferred
async def test_a_table_that_the_api_does_not_read_is_left_alone(old: TestDatabase) -> None:
    old.execute("alter table modules drop column name")
    await run_migration(old)
    columns = "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0"
    assert old.execute(f"{columns} and not attisdropped", ("modules",)) == [("id",)]


@pytest_twisted.ensureDeferred
async def test_the_owner_may_be_a_role_with_an_unusual_name(empty: TestDatabase) -> None:
    set_up_2014(empty)
    name = f'"Mig\'s; admin {next(_numbers)}"'
    empty.execute(f"create role {name}; grant create on schema public to {name}")
    try:
        change_owner_of_all(empty, name)
        assert {step.runner.title for step in await plan_migration(as_role(empty, "migapi"))} >= {
            name
        }
        await run_migration(empty)
        owners = (
            "select distinct quote_ident(tableowner) from pg_tables where tableowner like 'Mig%'"
        )
        assert empty.execute(owners) == [(name,)]
        assert await plan_migration(empty) == []
    finally:
        empty.execute(f"reassign owned by {name} to migadmin")
        empty.execute(f"drop owned by {name}; drop role {name}")
