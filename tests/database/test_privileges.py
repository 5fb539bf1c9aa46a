"""The daemon's role, migapi, can do what the API needs, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import pytest_twisted
from psycopg2.extensions import cursor
from twisted.internet.defer import Deferred

from mig.access.apikeys import make_key
from mig.access.caller import ANONYMOUS
from mig.database.connection import Connection
from mig.database.schema.declaration import API_ROLE, READER_ROLE, SCHEMA_VERSION, load_schema
from mig.database.schema.migrate import ensure_schema
from mig.demo.postgres import EmbeddedPostgres
from mig.model.statement import Parameters
from mig.search.kinds import FlagKind, TimeKind
from mig.search.parameters import PARAMETERS, SEARCH_TYPES
from tests.support.api import Api
from tests.support.audit import CAROL
from tests.support.callers import (
    add_investigator,
    make_token,
    set_old_key,
    with_key,
    with_token,
)
from tests.support.chosen_callers import ChosenCallers, insert_investigator
from tests.support.cli import run_cli
from tests.support.fleet import ANY_TIME, load_fleet
from tests.support.generations import GENERATIONS
from tests.support.keys import Keys
from tests.support.migration import MigrationKilledError, call_with_database, run_migration
from tests.support.postgres import NewDatabase, TestDatabase
from tests.support.submissions import build_text, make_action

TABLE = Path(__file__).parents[2] / "docs" / "privileges.md"
FORMER_GRANTS = """
grant select on
    mig_schema, agents, actions, commands, signatures, submissions,
    modules, agtmodreq, invagtmodperm, agents_stats, manifests, manifestsig, loaders
    to migapi;
grant
    select (id, name, pgpfingerprint, publickey, status, createdat, lastmodified,
        permissions, apikey, apisalt),
    insert (id, name, pgpfingerprint, publickey, status, createdat, lastmodified,
        permissions, apikey, apisalt),
    update (status, lastmodified, permissions, apikey, apisalt)
    on investigators to migapi;
grant insert on actions, signatures, submissions to migapi;
grant update (handedover, document) on submissions to migapi;
"""
"""What version 2 granted."""


def list_granted_columns() -> set[tuple[str, str, str]]:
    """Return table, privilege and column of everything that is granted on tables."""
    grants = [grant for grant in load_schema().grants if grant.kind == "table"]
    assert {grant.role for grant in grants} == {API_ROLE, READER_ROLE}
    return {
        (grant.relation, grant.privilege, column)
        for grant in grants
        if grant.role == API_ROLE
        for column in grant.columns or ("*",)
    }


def test_the_documentation_names_every_granted_column_with_its_reason() -> None:
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")][1:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    documented = [
        (table, privilege, column)
        for table, privilege, columns, reason in rows
        for column in columns.split(", ")
        if reason
    ]
    assert len(set(documented)) == len(documented)
    assert set(documented) == list_granted_columns()


def as_api(postgres: EmbeddedPostgres, database: TestDatabase) -> TestDatabase:
    name = database.execute("select current_database()")[0][0]
    return TestDatabase(dsn=postgres.format_dsn(API_ROLE, name))


@dataclass(frozen=True, kw_only=True)
class Service:
    """An API, which always runs as the limited role, and its database as the owner sees it."""

    api: Api
    database: TestDatabase
    keys: Keys
    callers: ChosenCallers

    async def use(self) -> None:
        """Use everything that a client can do, and the outbox."""
        await self._read_documents()
        await self._change_investigators()
        await self._change_api_keys()
        await self._submit_actions()
        await self._use_credentials()
        await self._be_refused()

    async def _use_credentials(self) -> None:
        set_old_key(self.database, add_investigator(self.database, "automation"), "an old key")
        add_investigator(self.database, "signer", self.keys.bob)
        token = make_token(self.keys, self.keys.bob)
        api = Api(self.database.dsn, authentication=True)
        try:
            for headers in (with_key("an old key"), with_key(make_key(7)), with_token(token)):
                for path in ("/search?type=agent", "/agent?agentid=99", "/agent?agentid=99"):
                    answer = await api.get(path, headers=headers)
                    assert answer.code in (200, 404, 401), answer.body
        finally:
            await api.stop()

    async def _read_documents(self) -> None:
        fixed = ("/", "/dashboard", "/heartbeat", "/audit?investigatorid=7")
        for path in (*fixed, *self._list_documents(), *list_searches()):
            answer = await self.api.get(path)
            assert answer.code == 200, (path, answer.body)

    def _list_documents(self) -> Iterator[str]:
        for kind in SEARCH_TYPES:
            ids = f"select trunc(id)::text from {kind}s order by id"
            for [found] in self.database.execute(ids):
                yield f"/{kind}?{kind}id={found}"

    async def _change_investigators(self) -> None:
        data = {"name": "alice", "publickey": self.keys.alice.armored}
        answer = await self.api.request("POST", "/investigator/create/", data=data)
        assert answer.code == 201, answer.body
        investigator_id = answer.get_header("Location").rpartition("=")[2]
        for status in ("disabled", "active"):
            data = {"id": investigator_id, "status": status}
            answer = await self.api.request("POST", "/investigator/update/", data=data)
            assert answer.code == 200, answer.body
        answer = await self.api.get(f"/publickey/{self.keys.alice.fingerprint}")
        assert answer.code == 200, answer.body

    async def _change_api_keys(self) -> None:
        self.callers.default = insert_investigator(self.database, "root")
        investigator_id = str(self.callers.default.investigator_id)
        answer = await self.api.request("POST", "/apikey/create/", data={"name": "for tests"})
        assert answer.code == 201, answer.body
        key_id = answer.get_header("Location").rpartition("=")[2]
        for path in ("/apikey", f"/apikey?apikeyid={key_id}"):
            assert (await self.api.get(path)).code == 200
        answer = await self.api.request("POST", "/apikey/revoke/", data={"id": key_id})
        assert answer.code == 200, answer.body
        for state in ("active", "disabled"):
            data = {"id": investigator_id, "apikey": state}
            answer = await self.api.request("POST", "/investigator/update/", data=data)
            assert answer.code == 200, answer.body
        self.callers.default = ANONYMOUS

    async def _submit_actions(self) -> None:
        operations = [{"module": "file", "parameters": {"path": "/"}}]
        await self._submit_action()
        await self._submit_action()
        await self._submit_action(operations=operations)  # alike: only these differ
        assert self.api.spool
        folder = self.api.spool / "action" / "new"
        away = folder.rename(folder.with_name("away"))
        await self._submit_action(name="of a fault")
        away.rename(folder)
        self.api.handoff.start()
        await self.api.handoff.stop()
        self.api.handoff.check_available()
        assert len(list(folder.iterdir())) == 3

    async def _be_refused(self) -> None:
        self.callers.default = CAROL
        answer = await self.api.request("POST", "/action/create/", data={})
        assert answer.code == 400, answer.body
        await self.api.refusals.stop()

    async def _submit_action(self, **members: object) -> None:
        action = make_action(**members)
        signature = self.keys.sign(self.keys.alice, build_text(action))
        data = {"action": json.dumps({**action, "pgpsignatures": [signature]})}
        answer = await self.api.request("POST", "/action/create/", data=data)
        assert answer.code == 202, answer.body


def list_searches() -> Iterator[str]:
    """Yield a search of each type for each parameter that filters, and reports."""
    for type_ in SEARCH_TYPES:
        yield f"/search?type={type_}&{ANY_TIME}"
        for parameter in PARAMETERS:
            if parameter.conditions and type_ in parameter.types:
                kind = type(parameter.kind)
                value = {TimeKind: "2020-01-01T00:00:00Z", FlagKind: "true"}.get(kind, "1")
                yield f"/search?type={type_}&{parameter.name}={value}"
    yield f"/search?type=command&{ANY_TIME}&report=complianceitems"
    summary = f"/search?type=command&{ANY_TIME}&report=compliancesummary"
    yield f"{summary}&groupby=tag.x,day"
    yield f"{summary}&groupby=os,version&scope=agents&latest=true"


@asynccontextmanager
async def run_service(database: TestDatabase, keys: Keys, folder: Path) -> AsyncIterator[Service]:
    callers = ChosenCallers()
    api = Api(database.dsn, folder / "spool", authenticate=callers)
    try:
        yield Service(api=api, database=database, keys=keys, callers=callers)
    finally:
        await api.stop()


@pytest.fixture(params=["new", *GENERATIONS])
def migrated(request: pytest.FixtureRequest, new_database: NewDatabase) -> TestDatabase:
    """Return a database of any origin, with some rows."""
    if request.param == "new":
        database = new_database()
        load_fleet(database.dsn)
        return database
    database = new_database("template0")
    database.execute(GENERATIONS[request.param].sql)
    GENERATIONS[request.param].insert_rows(database.dsn)
    pytest_twisted.blockon(Deferred.fromCoroutine(run_migration(database)))
    database.execute("select setval('investigators_id_seq', 100)")
    return database


@pytest_twisted.ensureDeferred
async def test_the_whole_service_works_as_the_limited_role(
    migrated: TestDatabase, keys: Keys, tmp_path: Path
) -> None:
    async with run_service(migrated, keys, tmp_path) as service:
        await service.use()


def test_the_command_line_works_as_the_limited_role(
    database: TestDatabase, postgres: EmbeddedPostgres, keys: Keys, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text(keys.alice.armored)
    dsn = as_api(postgres, database).dsn
    for arguments, says in {
        ("migrate",): "nothing to do",
        ("investigator", "add", "alice", str(file)): "added investigator 1",
        ("investigator", "disable", "1"): "investigator 1 is disabled",
        ("investigator", "enable", "1"): "investigator 1 is active",
        ("investigator", "permissions", "1", "--set", "agent"): "investigator 1 may: agent",
        ("investigator", "list"): f"1\tactive\t{keys.alice.fingerprint}\talice\tagent",
    }.items():
        assert run_cli(*arguments, "--database", dsn) == (0, f"{says}\n", "")
    key = ("apikey", "create", "1", "--name", "for tests")
    assert run_cli(*key, "--database", dsn)[1].startswith("mig_1_")
    assert run_cli("apikey", "list", "--database", dsn)[1].startswith("1\t1\t20")
    revoked = run_cli("apikey", "revoke", "1", "--database", dsn)
    assert revoked == (0, "API key 1 is revoked\n", "")


@pytest_twisted.ensureDeferred
async def test_every_granted_column_is_needed(
    database: TestDatabase,
    postgres: EmbeddedPostgres,
    keys: Keys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without it, PostgreSQL refuses to plan a statement of the service."""
    load_fleet(database.dsn)
    statements: dict[str, Parameters] = {}
    execute = Connection._execute

    def record(self: Connection, sql: str, parameters: Parameters, *rest: Any) -> object:
        statements.setdefault(sql, parameters)
        return execute(self, sql, parameters, *rest)

    monkeypatch.setattr(Connection, "_execute", record)
    async with run_service(database, keys, tmp_path) as service:
        await service.use()
        dsn = as_api(postgres, database).dsn
        await call_with_database(dsn, lambda d: ensure_schema(d, upgrade=False))
    with closing(psycopg2.connect(database.dsn)) as owner, owner.cursor() as cursor:
        owner.autocommit = True
        # this thread also reads the server's log, from a pipe that the errors would fill
        cursor.execute("set log_min_messages = fatal")
        plans = list(prepare_plans(cursor, statements))
        unneeded = [
            grant for grant in sorted(list_granted_columns()) if not is_needed(cursor, grant, plans)
        ]
        assert unneeded == []


def prepare_plans(cursor: cursor, statements: Mapping[str, Parameters]) -> Iterator[bytes]:
    """Yield an ``explain`` of each statement that reads or writes rows."""
    for sql, parameters in statements.items():
        text = re.sub(r"^begin [^;]*;|; commit$", "", sql.strip()).strip()
        if text.startswith("prepare "):
            cursor.execute(text)
        elif text.startswith(("select", "with", "insert", "update", "declare", "execute")):
            yield cursor.mogrify(f"explain {text}", parameters or None)


def is_needed(cursor: cursor, grant: tuple[str, str, str], plans: Sequence[bytes]) -> bool:
    """Return whether the role cannot run all statements without a privilege on a column."""
    table, privilege, column = grant
    cursor.execute("begin")
    cursor.execute(f"revoke {privilege} ({column}) on {table} from {API_ROLE}")
    cursor.execute(f"set local role {API_ROLE}")
    try:
        for plan in plans:
            cursor.execute(plan)
    except psycopg2.errors.InsufficientPrivilege:
        return True
    finally:
        cursor.execute("rollback")
    return False


def list_privileges(database: TestDatabase, role: str = API_ROLE) -> set[tuple[str, str, str]]:
    """Return every privilege that a role has on a table or a column of it."""
    on_columns = database.execute(
        "select c.relname, p.name, a.attname"
        " from pg_class c join pg_attribute a on a.attrelid = c.oid"
        " cross join unnest(array['select', 'insert', 'update', 'references']) as p (name)"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')"
        " and a.attnum > 0 and not a.attisdropped"
        " and has_column_privilege(%s, c.oid, a.attnum, p.name)",
        (role,),
    )
    on_tables = database.execute(
        "select c.relname, p.name, '*' from pg_class c"
        " cross join unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references',"
        " 'trigger']) as p (name)"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')"
        " and has_table_privilege(%s, c.oid, p.name)",
        (role,),
    )
    return {(table, name, column) for table, name, column in [*on_columns, *on_tables]}


def test_the_limited_role_has_no_other_privilege(migrated: TestDatabase) -> None:
    assert list_privileges(migrated) == list_granted_columns()


def test_the_role_of_conditions_may_only_read(
    migrated: TestDatabase, postgres: EmbeddedPostgres
) -> None:
    """The limited role is a member, and this is all that the membership adds."""
    privileges = list_privileges(migrated, READER_ROLE)
    assert {privilege for _, privilege, _ in privileges} == {"select"}
    columns = {(table, column) for table, _, column in privileges}
    assert columns >= {("agents", "os"), ("commands", "results"), ("investigators", "name")}
    assert not columns & {
        *(("investigators", c) for c in ("*", "privatekey", "permissions", "apikey", "apisalt")),
        *(("loaders", c) for c in ("*", "loaderkey", "salt")),
        *((table, "*") for table in ("submissions", "mig_schema")),
    }
    limited = as_api(postgres, migrated)
    attributes = (
        "select rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolcanlogin"
        " from pg_roles where rolname = %s"
    )
    assert limited.execute(attributes, (READER_ROLE,)) == [(False,) * 6]
    roles = "select rolname from pg_roles where pg_has_role(%s, oid, 'member')"
    assert set(limited.execute(roles, (API_ROLE,))) == {(API_ROLE,), (READER_ROLE,)}
    assert limited.execute(roles, (READER_ROLE,)) == [(READER_ROLE,)]
    assert limited.execute("select defaclrole from pg_default_acl") == []
    for sql in (
        "create table t ()",
        "create function f() returns int language sql as 'select 1'",
        "select nextval('investigators_id_seq')",
        "update agents set status = ''",
        "delete from agents",
        "select privatekey from investigators",
        "select pg_read_file('/etc/passwd')",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            limited.execute(f"set role {READER_ROLE}; {sql}")
            pytest.fail(sql)


def test_the_limited_role_cannot_do_harm(
    database: TestDatabase, postgres: EmbeddedPostgres
) -> None:
    limited = as_api(postgres, database)
    tables = [table.name for table in load_schema().tables]
    [[month]] = database.execute("select to_char(now() at time zone 'UTC', '\"audit_\"YYYY_MM')")
    for sql in (
        "select privatekey from investigators",
        "select * from investigators",
        "select loaderkey from loaders",
        "select count(*) from loaders",
        "update apikeys set keyhash = 'k'",
        "update apikeys set permissions = 1",
        "update audit set outcome = ''",
        "update investigators set publickey = 'k'",
        "insert into investigators (name, privatekey, status, createdat, lastmodified)"
        " values ('n', 'k', 'active', now(), now())",
        "update actions set status = 'init'",
        "update signatures set pgpsignature = ''",
        "update submissions set document = 'd'",
        "update submissions set handedover = null, document = 'd'",
        "update submissions set actionid = 1",
        "insert into commands (id, status, starttime) values (1, 'sent', now())",
        "update agents set status = ''",
        "insert into mig_schema values (99)",
        "update mig_schema set version = 99",
        "insert into audit_default (at, operation, callername, object, outcome)"
        " values (now(), 'o', 'c', 'b', 'd')",
        "delete from audit_default",
        "alter sequence investigators_id_seq restart",
        "alter table submissions disable trigger submissions_close",
        "insert into audit (id, at, operation, callername, object, outcome)"
        " values (1, now(), '1', 'x', 'y', 'done')",
        "select setval('audit_id_seq', 1)",
        "alter table audit add column note text",
        f"alter table audit detach partition {month}",
        "select create_months('audit', 30)",
        *(f"select count(*) from {part}" for part in (month, "audit_default")),
        *(f"update {part} set count = 2" for part in (month, "audit_default")),
        *(f"delete from {part}" for part in (month, "audit_default")),
        *(f"truncate {part}" for part in (month, "audit_default")),
        *(f"drop table {part}" for part in (month, "audit_default")),
        *(f"delete from {table}" for table in tables),
        *(f"truncate {table} cascade" for table in tables),
        *(f"drop table {table} cascade" for table in tables),
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            limited.execute(sql)
            pytest.fail(sql)


def test_an_action_that_was_handed_over_cannot_be_put_back_into_the_outbox(
    database: TestDatabase, postgres: EmbeddedPostgres
) -> None:
    """Its document is gone, too, though the role may not change that column."""
    limited = as_api(postgres, database)
    limited.execute("insert into submissions (identity, actionid, document) values ('i', 7, 'd')")
    limited.execute("update submissions set handedover = now()")
    assert limited.execute("select handedover is not null, document from submissions") == [
        (True, None)
    ]
    for value in ("null", "now() + interval '1 s'"):
        with pytest.raises(psycopg2.errors.RaiseException, match="action 7 has been handed over"):
            limited.execute(f"update submissions set handedover = {value}")


@pytest_twisted.ensureDeferred
async def test_privileges_that_an_earlier_version_granted_are_revoked(
    new_database: NewDatabase,
) -> None:
    """A migration from it, even one that was killed, ends with those of a new database."""
    old = new_database()
    old.execute(FORMER_GRANTS)
    old.execute("update mig_schema set version = 2")
    assert ("loaders", "select", "loaderkey") in list_privileges(old)
    with pytest.raises(MigrationKilledError):
        await run_migration(old, stop_after=1)
    done = await run_migration(old)
    assert len(done) == len(load_schema().former_grants)  # one is done, and the version follows
    assert all(step.startswith("revoke ") for step in done[:-1])
    assert done[-1] == f"record schema version {SCHEMA_VERSION}"
    assert list_privileges(old) == list_granted_columns()


@pytest_twisted.ensureDeferred
async def test_privileges_that_another_program_granted_are_left_alone(
    new_database: NewDatabase,
) -> None:
    """An existing MIG may still use them, at the first migration and later."""
    database = new_database("template0")
    database.execute(GENERATIONS["2017"].sql)
    database.execute("grant select on loaders to migapi")
    await run_migration(database)
    assert await run_migration(database) == []
    kept = list_privileges(database) - list_granted_columns()
    assert kept >= {("loaders", "select", column) for column in ("*", "id", "loaderkey")}
    assert {(table, privilege) for table, privilege, _ in kept} == {("loaders", "select")}
