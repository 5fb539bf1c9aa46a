"""A migration creates the functions, triggers, roles, grants and data of a declared schema."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg2
import pytest
import pytest_twisted

from mig.database.schema.declaration import Schema, parse_schema
from mig.database.schema.plan import ROLE_CREATOR, Step, format_script
from mig.errors import OtherRoleNeededError
from tests.support.migration import (
    MigrationKilledError,
    as_role,
    catch_schema_error,
    change_owner,
    plan_migration,
    run_migration,
)
from tests.support.postgres import NewDatabase, TestDatabase

_numbers = itertools.count()

SCHEMA = """
create table mig_schema (
    version integer primary key
);
create sequence notes_id_seq;
create table notes (
    id bigint primary key default nextval('notes_id_seq'),
    text text,
    changed timestamptz,
    state text not null default 'new'
);
-- when notes.state is added:
update notes set state = 'old; kept';
create table log (
    line text
);
-- when log is created:
insert into log values ('begun');
create index notes_by_state on notes (state, id);
create function touch() returns trigger language plpgsql
    security definer set search_path = pg_catalog, pg_temp as $$
begin
    new.changed := now(); -- not the client's; the server's
    return new;
end
$$;
create trigger notes_touch before insert or update of text, state on notes
    for each row execute function touch();
create function count_notes(since timestamptz, minimum integer) returns bigint
    language sql stable strict parallel safe as $$
    select count(*) from notes where changed > since having count(*) >= minimum
$$;
create role READER nologin;
grant select on notes, log to READER, WRITER;
grant insert (text), update (text) on notes to WRITER;
grant usage on sequence notes_id_seq to WRITER;
grant execute on function count_notes(timestamptz, integer) to READER;
grant READER to WRITER;
"""


@pytest.fixture
def empty(new_database: NewDatabase) -> TestDatabase:
    return new_database("template0")


class Names:
    """The names of this test's roles: roles belong to the whole server."""

    def __init__(self) -> None:
        number = next(_numbers)
        self.owner, self.other, self.reader, self.writer = (
            f"{name}_{number}" for name in ("owner", "other", "reader", "writer")
        )

    def __iter__(self) -> Iterator[str]:
        return iter((self.owner, self.other, self.reader, self.writer))


@pytest.fixture
def names(empty: TestDatabase) -> Iterator[Names]:
    made = Names()
    yield made
    for name in made:
        if empty.execute("select from pg_roles where rolname = %s", (name,)):
            empty.execute(f"drop owned by {name} cascade; drop role {name}")


@pytest.fixture
def schema(names: Names) -> Schema:
    return parse_schema(
        SCHEMA.replace("READER", names.reader).replace("WRITER", names.writer), version=1
    )


def read_privileges(database: TestDatabase, role: str) -> list[tuple[Any, ...]]:
    return database.execute(
        "select has_table_privilege(%(role)s, 'notes', 'select'),"
        " has_table_privilege(%(role)s, 'notes', 'insert'),"
        " has_column_privilege(%(role)s, 'notes', 'text', 'insert'),"
        " has_sequence_privilege(%(role)s, 'notes_id_seq', 'usage')",
        {"role": role},
    )


@pytest_twisted.ensureDeferred
async def test_grants_on_new_objects_are_made_only_when_they_are_created(
    empty: TestDatabase, names: Names
) -> None:
    """In the step that creates the object, so that a run that is killed loses none."""
    empty.execute(f"create role {names.writer}; create table log (line text)")
    schema = parse_schema(
        SCHEMA.partition("create role")[0]
        + f"""
        create function double(n integer) returns integer language sql as $$ select 2 * n $$;
        -- when each is created:
        grant insert on notes, log to {names.writer};
        -- when each is created:
        grant usage on sequence notes_id_seq to {names.writer};
        -- when each is created:
        grant execute on function double(integer) to {names.writer};
        """
    )
    granting = [step for step in await plan_migration(empty, schema) if "grant " in step.sql]
    assert [step.description for step in granting] == [
        "create sequence notes_id_seq",
        "create table notes",
        "create function double(integer)",
    ]
    await run_migration(empty, schema=schema)
    has = "select has_table_privilege(%s, %s, 'insert')"
    assert empty.execute(has, (names.writer, "notes")) == [(True,)]
    assert empty.execute(has, (names.writer, "log")) == [(False,)]
    empty.execute(f"revoke all on notes from {names.writer}")
    assert await plan_migration(empty, schema) == []


@pytest_twisted.ensureDeferred
async def test_an_empty_database_gets_all_declared_objects(
    empty: TestDatabase, schema: Schema, names: Names
) -> None:
    assert await run_migration(empty, schema=schema) == [
        f"create role {names.reader}",
        "set up an empty database",
    ]
    assert await plan_migration(empty, schema) == []
    empty.execute("insert into notes (text) values ('a')")
    assert empty.execute("select id, state, changed <= now() from notes") == [(1, "new", True)]
    assert empty.execute("select count_notes('2000-01-01', 1)") == [(1,)]
    assert empty.execute("select line from log") == [("begun",)]
    assert read_privileges(empty, names.reader) == [(True, False, False, False)]


@pytest_twisted.ensureDeferred
async def test_a_role_that_is_not_declared_is_not_created(
    empty: TestDatabase, schema: Schema, names: Names
) -> None:
    """Once the administrator has created it, it gets what is granted to it."""
    await run_migration(empty, schema=schema)
    assert empty.execute("select from pg_roles where rolname = %s", (names.writer,)) == []
    empty.execute(f"create role {names.writer}")
    assert await run_migration(empty, schema=schema) == [
        f"grant {names.reader} to {names.writer}",
        f"grant insert on notes to {names.writer}",
        f"grant update on notes to {names.writer}",
        f"grant usage on notes_id_seq to {names.writer}",
    ]
    assert read_privileges(empty, names.writer) == [(True, False, True, True)]
    assert await plan_migration(empty, schema) == []


def make_old_notes(database: TestDatabase) -> None:
    database.execute("create table notes (id bigint primary key, text text)")
    database.execute("insert into notes values (1, 'a'), (2, 'b')")


@pytest_twisted.ensureDeferred
async def test_an_existing_database_gets_the_missing_objects(
    empty: TestDatabase, schema: Schema, names: Names
) -> None:
    """A data step is done once, with its column or table."""
    make_old_notes(empty)
    assert await run_migration(empty, schema=schema) == [
        f"create role {names.reader}",
        "create sequence notes_id_seq",
        "create table mig_schema",
        "add to notes: changed, state",
        "create table log",
        "create function touch()",
        "create function count_notes(timestamptz, integer)",
        "create trigger notes_touch on notes",
        "create index notes_by_state",
        f"grant select on notes to {names.reader}",
        f"grant select on log to {names.reader}",
        "record schema version 1",
    ]
    assert await plan_migration(empty, schema) == []
    assert empty.execute("select distinct state from notes") == [("old; kept",)]
    assert empty.execute("select line from log") == [("begun",)]
    empty.execute("update notes set state = 'x'; drop index notes_by_state")
    assert await run_migration(empty, schema=schema) == ["create index notes_by_state"]
    assert empty.execute("select distinct state from notes") == [("x",)]


@pytest_twisted.ensureDeferred
async def test_a_data_step_that_fails_leaves_no_column(empty: TestDatabase, schema: Schema) -> None:
    make_old_notes(empty)
    data = [replace(schema.data[0], sql="update notes set state = null"), *schema.data[1:]]
    line = await catch_schema_error(run_migration(empty, schema=replace(schema, data=data)))
    assert line.startswith("add to notes: changed, state: null value in column")
    assert "add to notes: changed, state" in await run_migration(empty, schema=schema)


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ("alter function touch() security invoker", "replace function touch()"),
        ("alter function touch() reset search_path", "replace function touch()"),
        ("alter function touch() set search_path = public", "replace function touch()"),
        (
            "alter function count_notes volatile",
            "replace function count_notes(timestamptz, integer)",
        ),
        (
            "alter function count_notes called on null input",
            "replace function count_notes(timestamptz, integer)",
        ),
        (
            "alter function count_notes parallel unsafe",
            "replace function count_notes(timestamptz, integer)",
        ),
        (
            "create or replace function touch() returns trigger language plpgsql security definer"
            " set search_path = pg_catalog, pg_temp as $$begin return new; end$$",
            "replace function touch()",
        ),
        ("drop function count_notes", "create function count_notes(timestamptz, integer)"),
        ("alter table notes disable trigger notes_touch", "replace trigger notes_touch on notes"),
        ("drop trigger notes_touch on notes", "create trigger notes_touch on notes"),
        (
            "drop trigger notes_touch on notes; create trigger notes_touch before insert on notes"
            " for each row execute function touch()",
            "replace trigger notes_touch on notes",
        ),
        (
            "drop trigger notes_touch on notes; create trigger notes_touch before insert or update"
            " of text on notes for each row execute function touch()",
            "replace trigger notes_touch on notes",
        ),
        (
            "drop trigger notes_touch on notes; create trigger notes_touch before insert or update"
            " of text, state on notes for each row when (new.id > 0) execute function touch()",
            "replace trigger notes_touch on notes",
        ),
        (
            "create function nothing() returns trigger language plpgsql as $$begin end$$;"
            " drop trigger notes_touch on notes; create trigger notes_touch before insert or update"
            " of text, state on notes for each row execute function nothing()",
            "replace trigger notes_touch on notes",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_function_or_trigger_that_differs_is_replaced(
    empty: TestDatabase, schema: Schema, names: Names, change: str, step: str
) -> None:
    await run_migration(empty, schema=schema)
    select = (
        "select string_agg(pg_get_functiondef(oid), '' order by proname) from pg_proc"
        " where proname in ('touch', 'count_notes')"
        " union all select pg_get_triggerdef(oid) || tgenabled::text from pg_trigger"
        " where not tgisinternal"
    )
    before = empty.execute(select)
    empty.execute(change)
    assert await run_migration(empty, schema=schema) == [step]
    assert empty.execute(select) == before
    assert await plan_migration(empty, schema) == []


@pytest_twisted.ensureDeferred
async def test_a_function_with_another_result_type_is_not_dropped(
    empty: TestDatabase, schema: Schema
) -> None:
    await run_migration(empty, schema=schema)
    empty.execute("drop function count_notes")
    empty.execute(
        "create function count_notes(since timestamptz, minimum integer) returns text"
        " language sql as $$ select '' $$"
    )
    line = await catch_schema_error(run_migration(empty, schema=schema))
    assert line.startswith(
        "replace function count_notes(timestamptz, integer): cannot change return type"
    )


def group_by_runner(steps: list[Step]) -> dict[str, list[str]]:
    """Return the steps of each role that the current user cannot act for."""
    found: dict[str, list[str]] = {}
    for step in steps:
        if not step.runner.is_usable:
            found.setdefault(step.runner.title, []).append(step.description)
    return found


@pytest_twisted.ensureDeferred
async def test_roles_are_created_only_by_a_role_that_may_create_them(
    empty: TestDatabase, schema: Schema, names: Names
) -> None:
    """Any other role changes nothing; CREATEROLE is enough."""
    empty.execute(f"create role {names.owner}; grant all on schema public to {names.owner}")
    owner = as_role(empty, names.owner)
    assert group_by_runner(await plan_migration(owner, schema)) == {
        ROLE_CREATOR: [f"create role {names.reader}"]
    }
    with pytest.raises(OtherRoleNeededError) as refused:
        await run_migration(owner, schema=schema)
    assert f"create role {names.reader} nologin;" in refused.value.sql
    assert "create table" not in refused.value.sql
    assert empty.execute("select to_regclass('notes')") == [(None,)]
    empty.execute(
        f"alter role {names.owner} createrole; alter schema public owner to {names.owner}"
    )
    assert len(await run_migration(owner, schema=schema)) == 2
    assert await plan_migration(owner, schema) == []


@pytest_twisted.ensureDeferred
async def test_a_trigger_and_its_function_belong_to_the_owner_of_the_table(
    empty: TestDatabase, schema: Schema, names: Names
) -> None:
    """That owner can run both before the owner of the other tables runs the other steps."""
    await run_migration(empty, schema=schema)
    empty.execute("drop function touch() cascade")
    empty.execute(f"create role {names.owner}; create role {names.other}")
    empty.execute(f"grant create on schema public to {names.owner}, {names.other}")
    change_owner(empty, names.owner, "mig_schema", "log")
    change_owner(empty, names.other, "notes")
    assert group_by_runner(await plan_migration(as_role(empty, names.owner), schema)) == {
        names.other: ["create function touch()", "create trigger notes_touch on notes"]
    }
    with pytest.raises(OtherRoleNeededError) as refused:
        await run_migration(as_role(empty, names.owner), schema=schema)
    as_role(empty, names.other).execute(refused.value.sql)
    owner = "select proowner::regrole::text from pg_proc where proname = 'touch'"
    assert empty.execute(owner) == [(names.other,)]
    assert await plan_migration(as_role(empty, names.owner), schema) == []


@pytest_twisted.ensureDeferred
async def test_a_role_gets_usage_of_the_schema_where_it_lacks_it(
    empty: TestDatabase, schema: Schema, names: Names
) -> None:
    empty.execute("revoke usage on schema public from public")
    assert await run_migration(empty, schema=schema) == [
        f"create role {names.reader}",
        f"grant usage on schema public to {names.reader}",
        "set up an empty database",
    ]
    assert as_role(empty, names.reader).execute("select * from notes") == []


@pytest_twisted.ensureDeferred
async def test_membership_is_granted_only_by_a_role_that_may_grant_it(
    empty: TestDatabase, schema: Schema, names: Names
) -> None:
    """CREATEROLE is enough up to PostgreSQL 15; PostgreSQL 16 asks for the ADMIN OPTION."""
    await run_migration(empty, schema=schema)
    empty.execute(f"create role {names.owner}; create role {names.writer}")
    step = f"grant {names.reader} to {names.writer}"
    owner = as_role(empty, names.owner)
    assert [step] in group_by_runner(await plan_migration(owner, schema)).values()
    empty.execute(f"alter role {names.owner} createrole")
    empty.execute(f"grant {names.reader} to {names.owner} with admin option")
    told = group_by_runner(await plan_migration(owner, schema)).values()
    assert told and not any(step in steps for steps in told)
    owner.execute(step)
    assert step not in [each.description for each in await plan_migration(empty, schema)]


OPTIONAL = """
-- only for a feature:
create role READER;
grant READER to WRITER;
-- only for a feature:
alter role WRITER set temp_file_limit = '1GB';
grant select (id, text) on notes to READER;
"""


@pytest.fixture
def optional(names: Names) -> Schema:
    """Return a schema with a role that the service does not need in any case."""
    sql = SCHEMA.partition("create role")[0] + OPTIONAL
    sql = sql.replace("READER", names.reader).replace("WRITER", names.writer)
    return parse_schema(sql, version=1)


def run_sql(database: TestDatabase, script: str) -> None:
    """Run what a migration has printed for psql."""
    psql = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", database.dsn]
    subprocess.run(psql, input=script, text=True, check=True)


@pytest_twisted.ensureDeferred
async def test_steps_for_one_feature_do_not_stop_a_migration(
    empty: TestDatabase, optional: Schema, names: Names
) -> None:
    """The others run; these come last, and are left to a superuser, who can run all of them."""
    empty.execute(f"create role {names.owner}; grant all on schema public to {names.owner}")
    empty.execute(f"create role {names.writer}; alter schema public owner to {names.owner}")
    owner = as_role(empty, names.owner)
    for _ in range(2):  # in a database that has everything else, too
        left_out: list[Step] = []
        await run_migration(owner, schema=optional, left_out=left_out)
        assert {step.purpose for step in left_out} == {"a feature"}
        assert [step.description for step in left_out] == [
            f"create role {names.reader}",
            f"grant {names.reader} to {names.writer}",
            f"grant select on notes to {names.reader}",
            f"alter role {names.writer} set temp_file_limit = '1GB'",
        ]
        assert owner.execute("select count(*) from notes") == [(0,)]
    assert await plan_migration(owner, optional) == left_out
    run_sql(empty, format_script(left_out))
    assert await plan_migration(owner, optional) == []
    assert (
        as_role(empty, names.writer).execute(f"set role {names.reader}; select id, text from notes")
        == []
    )
    settings = "select rolconfig from pg_roles where rolname = %s"
    assert empty.execute(settings, (names.writer,)) == [(["temp_file_limit=1GB"],)]
    empty.execute(f"alter role {names.writer} set temp_file_limit = '2GB'")
    assert await plan_migration(owner, optional) == []


@pytest_twisted.ensureDeferred
async def test_a_superuser_runs_the_steps_for_one_feature_last(
    empty: TestDatabase, optional: Schema, names: Names
) -> None:
    """Also after a run that was killed before each of them."""
    empty.execute(f"create role {names.writer}")
    done: list[str] = []
    while await plan_migration(empty, optional):
        with pytest.raises(MigrationKilledError):
            await run_migration(empty, schema=optional, stop_after=1)
        done.append("")
    assert len(done) == 5
    assert as_role(empty, names.reader).execute("select id, text from notes") == []
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        as_role(empty, names.reader).execute("select state from notes")


@pytest_twisted.ensureDeferred
async def test_needed_steps_of_another_role_are_printed_with_those_for_one_feature(
    empty: TestDatabase, optional: Schema, names: Names
) -> None:
    """So an administrator is asked once."""
    empty.execute(f"create role {names.owner}; revoke create on schema public from public")
    with pytest.raises(OtherRoleNeededError) as refused:
        await run_migration(as_role(empty, names.owner), schema=optional)
    empty.execute(f"create role {names.writer}")
    run_sql(empty, refused.value.sql)
    assert [step.description for step in await plan_migration(empty, optional)] == [
        f"grant {names.reader} to {names.writer}",
        f"alter role {names.writer} set temp_file_limit = '1GB'",
    ]


@pytest_twisted.ensureDeferred
async def test_a_function_is_replaced_by_its_owner(
    empty: TestDatabase, schema: Schema, names: Names
) -> None:
    """The owner first gets the right to create in the schema, which PostgreSQL requires."""
    empty.execute("revoke create on schema public from public")
    await run_migration(empty, schema=schema)
    empty.execute(f"create role {names.owner}; alter function touch() owner to {names.owner}")
    empty.execute("alter function touch() security invoker")
    assert await run_migration(empty, schema=schema) == [
        f"grant create on schema public to {names.owner}",
        "replace function touch()",
    ]
    owner = "select proowner::regrole::text, prosecdef from pg_proc where proname = 'touch'"
    assert empty.execute(owner) == [(names.owner, True)]
    assert await plan_migration(empty, schema) == []
