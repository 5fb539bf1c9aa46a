"""A database as MIG's own scripts leave it is adopted by migadmin and served as migapi."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest
import pytest_twisted

from mig.cli.migration import NO_ADMINISTRATOR
from mig.database.schema.declaration import API_ROLE, READER_ROLE, load_schema
from mig.hypermedia.urls import Urls
from tests.support import catalog, fleet
from tests.support.cli import run_cli
from tests.support.daemon import Daemon, run_program
from tests.support.generations import GENERATIONS, Generation
from tests.support.mig_server import OTHER_USER, SUPERUSER, MigServer, run_mig_server
from tests.support.migration import MigrationKilledError, plan_migration, run_migration
from tests.support.postgres import TestDatabase

OTHER_ROLES = ("migscheduler", "migreadonly")
KEY = fleet.VECTORS / "keys" / "bob.asc"
# migscheduler, as its programs of both generations write
SCHEDULER_STATEMENTS = (
    "update actions set status = 'inflight', lastupdatetime = now() where id = 1",
    "insert into commands (id, actionid, agentid, status, results, starttime, finishtime)"
    " values (7712177254054085632.00000000000000000, 1, 2, 'sent', '[]', now(), now())",
    "update commands set status = 'success' where id = 7712177254054085632",
    "update agents set heartbeattime = now() where id = 1",
    "insert into agents_stats (timestamp, online_agents) values (now(), 2)",
    "select privatekey from investigators",
    "select nextval('investigators_id_seq')",
)

NOBODY = f"mig-api: {NO_ADMINISTRATOR}\n"


@pytest.fixture(scope="module")
def server(twisted_greenlet: object) -> Iterator[MigServer]:
    with run_mig_server() as running:
        yield running


@pytest.fixture(params=GENERATIONS)
def generation(request: pytest.FixtureRequest) -> Generation:
    return GENERATIONS[request.param]


def migrate(database: TestDatabase) -> tuple[int, str, str]:
    return run_cli("migrate", "--database", database.dsn)


def run_psql(database: TestDatabase, script: str) -> None:
    """Run what a migration has printed."""
    psql = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", database.dsn]
    subprocess.run(psql, input=script, text=True, check=True)


def adopt(server: MigServer, name: str) -> None:
    """Migrate as migadmin, after postgres has run what it must."""
    owner = server.open_as("migadmin", name)
    status, output, _ = migrate(owner)
    if status == 2:
        run_psql(server.open_as(SUPERUSER, name), output)
        status, output, _ = migrate(owner)
    assert status == 0 and "the database is up to date" in output.splitlines()


def count_served(base: str) -> dict[str, int]:
    """Return how many records of each type a daemon serves, all of which must be readable."""
    served = {}
    for type_ in ("action", "agent", "command", "investigator"):
        url = f"{base}search?type={type_}&{fleet.ANY_TIME}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            items = json.load(answer)["collection"]["items"]
        *records, last = [item["data"][0] for item in items]
        assert last["name"] == "search parameters"
        assert {record["name"] for record in records} <= {type_}
        ids = {record["value"]["id"] for record in records}
        assert all(isinstance(id_, int) for id_ in ids)
        served[type_] = len(ids)
    return served


def test_migadmin_is_told_what_postgres_must_run_in_a_2017_database(server: MigServer) -> None:
    """It is printed as SQL, apart, and the status is 2; then migadmin can do the rest."""
    name = server.create_as_documented(GENERATIONS["2017"])
    superuser, owner = server.open_as(SUPERUSER, name), server.open_as("migadmin", name)
    superuser.execute(f"alter role {API_ROLE} reset temp_file_limit")
    before = catalog.describe_all(superuser)
    status, script, errors = migrate(owner)
    assert status == 2
    assert errors == (
        "mig-api: migadmin may not grant create on schema public to migadmin: this must be run by"
        " postgres; `mig-api migrate --plan` prints it as SQL\n"
    )
    assert [line for line in script.splitlines() if line.startswith("-- ")] == [
        "-- as postgres:",
        "-- grant create on schema public to migadmin",
        "-- as a superuser, only for searches with target=:",
        "-- alter role migapi set temp_file_limit = '1GB'",
    ]
    assert catalog.describe_all(superuser) == before
    run_psql(superuser, script)
    assert migrate(owner)[0] == 0
    assert migrate(owner) == (0, "nothing to do\n", NOBODY)
    owners = "select distinct tableowner from pg_tables where tablename = any(%s)"
    assert owner.execute(owners, (["mig_schema", "submissions"],)) == [("migadmin",)]
    assert owner.execute(owners, (["agents_stats", "manifestsig"],)) == [(SUPERUSER,)]


def test_a_grant_that_only_postgres_can_make_is_printed_too(server: MigServer) -> None:
    """As when the role migapi was made after MIG's scripts had run."""
    name = server.create_as_documented(GENERATIONS["2017"])
    superuser = server.open_as(SUPERUSER, name)
    superuser.execute(f"revoke all on sequence investigators_id_seq from {API_ROLE}")
    _, script, _ = migrate(server.open_as("migadmin", name))
    assert f"grant usage on sequence investigators_id_seq to {API_ROLE};" in script
    adopt(server, name)


def test_an_adopted_database_works_for_every_role(
    server: MigServer, generation: Generation, tmp_path: Path
) -> None:
    """The daemon serves the rows, and the scheduler goes on writing."""
    name = server.create_as_documented(generation)
    adopt(server, name)
    scheduler = server.open_as("migscheduler", name)
    for statement in SCHEDULER_STATEMENTS:
        scheduler.execute(statement)
    dsn = server.open_as(API_ROLE, name).dsn
    daemon = Daemon("--database", dsn, "--listen", "tcp:0:interface=127.0.0.1", cwd=tmp_path)
    try:
        assert count_served(daemon.base) == {
            "action": 2,
            "agent": 2,
            "command": 5,
            "investigator": 3,
        }
        url = Urls(daemon.base).for_command(7712177254054085632)
        with urllib.request.urlopen(url, timeout=60) as answer:
            [item] = json.load(answer)["collection"]["items"]
        assert item["href"] == url and item["data"][0]["value"]["agent"]["id"] == 2
    finally:
        daemon.stop()


def describe_privileges(database: TestDatabase, relations: list[str]) -> set[tuple[str, ...]]:
    """Return what MIG's other roles may do with each column of tables, and with sequences."""
    rows = database.execute(
        "select r, c.relname, a.attname, p from unnest(%s) r, unnest(%s) p, pg_class c"
        " join pg_attribute a on a.attrelid = c.oid and a.attnum > 0"
        " where c.relname = any(%s) and c.relkind = 'r'"
        " and has_column_privilege(r, c.oid, a.attnum, p)"
        " union all select r, c.relname, '', p from unnest(%s) r, unnest(%s) p, pg_class c"
        " where c.relname = any(%s) and has_sequence_privilege(r, c.oid, p) and c.relkind = 'S'",
        (
            *(list(OTHER_ROLES), ["select", "insert", "update"], relations),
            *(list(OTHER_ROLES), ["usage"], relations),
        ),
    )
    return set(rows)


@pytest_twisted.ensureDeferred
async def test_other_roles_get_what_mig_gave_them_on_new_objects(server: MigServer) -> None:
    """Also when the migration that creates the objects is killed after each step."""
    documented = server.open_as(SUPERUSER, server.create_as_documented(GENERATIONS["2017"]))
    new = server.open_as("migadmin", server.create_database("migadmin"))
    old = server.open_as("migadmin", server.create_as_documented(GENERATIONS["2014"]))
    before = set(catalog.list_columns(old))
    await run_migration(new)
    while await plan_migration(old):
        with pytest.raises(MigrationKilledError):
            await run_migration(old, stop_after=1)
    common = set(catalog.list_columns(new)) & set(catalog.list_columns(documented))
    created = {table for table, _ in common} - {table for table, _ in before}
    assert created >= {"agents_stats", "loaders"}
    sequence = ("investigators_id_seq", "")
    for database, relations in (
        (new, {table for table, _ in common}),
        (old, created),
    ):
        listed = [*relations, sequence[0]]
        expected = describe_privileges(documented, listed)
        assert ("migscheduler", *sequence, "usage") in expected
        assert {row for row in describe_privileges(database, listed) if row[1:3] in common} == {
            row for row in expected if row[1:3] in common
        }
        assert ("migscheduler", *sequence, "usage") in describe_privileges(database, listed)


@pytest_twisted.ensureDeferred
async def test_other_roles_keep_what_they_have_on_existing_objects(server: MigServer) -> None:
    """What an administrator has revoked there is not granted again."""
    name = server.create_as_documented(GENERATIONS["2017"])
    superuser = server.open_as(SUPERUSER, name)
    superuser.execute("revoke all on modules, agents_stats from migscheduler, migreadonly")
    adopt(server, name)
    assert describe_privileges(superuser, ["modules", "agents_stats"]) == set()
    plan = await plan_migration(server.open_as("migadmin", name))
    assert [step for step in plan if not step.purpose] == []


@contextmanager
def without_role(server: MigServer, role: str) -> Iterator[None]:
    """Let a role not be there during the block."""
    superuser = server.open_as(SUPERUSER)
    superuser.execute(f"alter role {role} rename to later")
    try:
        yield
    finally:
        superuser.execute(f"alter role later rename to {role}")


def test_a_database_without_the_role_of_conditions_is_adopted(server: MigServer) -> None:
    """What searches with target= need is printed, apart, and can be run at any time."""
    name = server.create_as_documented(GENERATIONS["2014"])
    superuser, owner = server.open_as(SUPERUSER, name), server.open_as("migadmin", name)
    with without_role(server, READER_ROLE):
        superuser.execute(f"alter role {API_ROLE} reset temp_file_limit")
        status, output, errors = migrate(owner)
        done, _, script = output.partition("the database is up to date\n")
        assert (status, errors) == (
            0,
            f"mig-api: searches with target= need the steps above, of other roles\n{NOBODY}",
        )
        assert "done: record schema version" in done
        assert READER_ROLE not in done
        assert migrate(owner) == (0, f"nothing to do\n{script}", errors)
        assert run_cli("migrate", "--plan", "--database", owner.dsn) == (0, script, "")
        run_psql(superuser, script)
        try:
            assert migrate(owner) == (0, "nothing to do\n", NOBODY)
            api = server.open_as(API_ROLE, name)
            count = "select count(*) from agents"
            assert api.execute(f"set role {READER_ROLE}; {count}") == [(2,)]
            assert api.execute("show temp_file_limit") == [("1GB",)]
        finally:
            superuser.execute(f"drop owned by {READER_ROLE}; drop role {READER_ROLE}")


def test_a_role_migapi_that_comes_later_does_not_stop_another_users_daemon(
    server: MigServer, tmp_path: Path
) -> None:
    """It needs the privileges of the daemon's own user alone, and names one that is missing."""
    name = server.create_database("migadmin")
    owner = server.open_as("migadmin", name)
    with without_role(server, API_ROLE):
        assert migrate(owner)[0] == 0
        for grant in load_schema().grants:
            if grant.role == API_ROLE:
                owner.execute(replace(grant, role=OTHER_USER).sql)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        server.open_as(API_ROLE, name).execute("select version from mig_schema")
    arguments = (
        *("--database", server.open_as(OTHER_USER, name).dsn),
        *("--listen", "tcp:0:interface=127.0.0.1"),
    )
    daemon = Daemon(*arguments, cwd=tmp_path)
    try:
        assert count_served(daemon.base).keys() == {"action", "agent", "command", "investigator"}
    finally:
        daemon.stop()
    owner.execute(f"revoke insert on signatures from {OTHER_USER}")
    owner.execute(f"revoke insert (actionid, investigatorid) on signatures from {OTHER_USER}")
    status, output = run_program("-n", "mig-api", *arguments, cwd=tmp_path)
    assert status != 0
    assert (
        f"{OTHER_USER} lacks privileges that this service needs:"
        " insert (actionid, investigatorid, pgpsignature) on signatures;"
        f" `mig-api migrate` grants them to {API_ROLE}"
    ) in output
    owner.execute(f"revoke select (version) on mig_schema from {OTHER_USER}")
    status, output = run_program("-n", "mig-api", *arguments, cwd=tmp_path)
    assert status != 0 and f"{OTHER_USER} may not read the table mig_schema" in output


def test_a_verb_that_the_user_may_not_run_ends_with_one_line(server: MigServer) -> None:
    """In a database of 2017, migadmin may not use the sequence of the investigators."""
    name = server.create_as_documented(GENERATIONS["2017"])
    adopt(server, name)
    owner = server.open_as("migadmin", name).dsn
    for verb in (("list",), ("disable", "1"), ("enable", "1")):
        assert run_cli("investigator", *verb, "--database", owner)[0] == 0
    server.open_as(SUPERUSER, name).execute("select setval('investigators_id_seq', 3)")
    add = ("investigator", "add", "Bob", str(KEY), "--database")
    assert run_cli(*add, owner) == (
        1,
        "",
        "mig-api: permission denied for sequence investigators_id_seq; connect as migapi:"
        " `mig-api migrate` grants it what this needs\n",
    )
    assert run_cli(*add, server.open_as(API_ROLE, name).dsn) == (0, "added investigator 4\n", "")
