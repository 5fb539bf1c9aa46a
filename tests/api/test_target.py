"""Searches with target=: SQL of clients, as the launches of 2017 begin, over a real socket."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import quote

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred

from mig.database.schema.declaration import API_ROLE, READER_ROLE
from mig.errors import QueryCancelledError
from mig.limits import Limits
from mig.model.statement import select_ids
from mig.search.targeted_agents import SLICE_AGENTS
from tests.support import catalog, fleet
from tests.support.api import Answer, Api
from tests.support.json_types import Json
from tests.support.postgres import TestDatabase
from tests.support.reactor import wait_until

LAUNCH = "/search?type=agent&limit=1000000&target="
SLOW = (
    "exists (select 1 from agents a, agents b, agents c, agents d"
    " where a.pid + b.pid + c.pid + d.pid < 0)"
)
# It has no time limit at the server: the first function is called when the statement is planned.
NO_TIMEOUT = """
create function remove_timeout() returns text immutable
    language sql as $$ select set_config('statement_timeout', '0', true) $$
"""
ENDLESS = select_ids("select pg_sleep(600)::text || remove_timeout()")
FIND_ENDLESS = (
    "select pid from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"
)
MAX_WAL_BYTES = 1_000_000
"""What a server with nothing to do may write during a test."""


def make_agent(number: int, **members: Json) -> Json:
    """Return an agent of a queue of its own, whose last heartbeat was long ago."""
    agent = {
        **fleet.make_agent(number),
        "id": fleet.write_id(number),
        "name": f"web{number}.example.net",
        "queueloc": f"linux.{number}",
        "status": "online",
        "environment": {"os": "linux"},
        "tags": {"operator": "ops"},
        "heartbeattime": "2020-01-01T00:00:00Z",
    }
    return {**agent, **members}


@pytest.fixture
def agents(database: TestDatabase) -> TestDatabase:
    """Return a database with agents in every state."""
    fleet.insert_rows(
        database.dsn,
        "agents",
        [
            make_agent(1),
            make_agent(2, status="idle", os="linux"),
            make_agent(3, status="heartbeating", environment={"os": "darwin"}),
            make_agent(4, status="offline"),
            make_agent(5, status="destroyed"),
            # an older and a newer agent of one endpoint, and a third that is offline
            make_agent(6, queueloc="linux.x"),
            make_agent(7, queueloc="linux.x", heartbeattime="2020-01-02T00:00:00Z"),
            make_agent(
                8, queueloc="linux.x", heartbeattime="2020-01-03T00:00:00Z", status="offline"
            ),
        ],
    )
    results = [{"foundanything": True}]
    fleet.insert_rows(database.dsn, "actions", [fleet.make_action(5)])
    fleet.insert_rows(
        database.dsn,
        "commands",
        [fleet.make_command(1, 5, 2, results=results), fleet.make_command(2, 5, 3, results=[{}])],
    )
    return database


async def launch(api: Api, target: str, **headers: str) -> Answer:
    """Send what a client of 2017 sends before it launches an action."""
    return await api.get(LAUNCH + quote(target), headers=headers)


def list_ids(answer: Answer) -> list[int]:
    assert answer.code == 200, answer.body
    *records, last = [item["data"][0] for item in answer.document["items"]]
    assert last["name"] == "search parameters"
    return sorted(record["value"]["id"] for record in records)


def get_message(answer: Answer, status: int) -> str:
    """Return the message of a refusal, which has the parameters beside it."""
    assert answer.code == status, answer.body
    assert [item["data"][0]["name"] for item in answer.document["items"]] == ["search parameters"]
    message: str = answer.document["error"]["message"]
    return message


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("true", [1, 2, 3, 7]),
        ("status='online'", [1, 7]),
        ("environment->>'os'='linux'", [1, 2, 7]),
        ("tags->>'operator'='ops' AND status='idle'", [2]),
        ("name LIKE 'web_.example.net'", [1, 2, 3, 7]),
        ("agents.os='linux'", [2]),
        ("id % 2 = 0", [2, 6]),
        (
            "id IN (select agentid from commands, json_array_elements(commands.results) as r"
            " where actionid=5 and r#>>'{foundanything}' = 'true') AND status='idle'",
            [2],
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_agents_that_fulfil_a_condition_are_found(
    api: Api, agents: TestDatabase, target: str, found: list[int]
) -> None:
    """One for each queue that is reachable, the newest, whenever its last heartbeat was."""
    assert list_ids(await launch(api, target)) == found


@pytest_twisted.ensureDeferred
async def test_other_filters_of_agents_apply(api: Api, agents: TestDatabase) -> None:
    for query, found in {
        "&agentname=web1%25": [1],
        "&status=idle": [2],
        "&agentid=6": [],
        "&commandid=2": [3],
        "&after=2020-01-02T00:00:00Z": [7],
    }.items():
        answer = await api.get(LAUNCH + "true" + query)
        if found:
            assert list_ids(answer) == found
        else:
            assert get_message(answer, 404) == "no results found"


@pytest_twisted.ensureDeferred
async def test_pages_of_a_condition_follow_each_other(api: Api, agents: TestDatabase) -> None:
    url, found = "/search?type=agent&limit=3&target=true", []
    while url:
        collection = await api.get_collection(url)
        records = [item["data"][0] for item in collection["items"]]
        found += [record["value"]["id"] for record in records if record["name"] == "agent"]
        url = next(
            (link["href"] for link in collection.get("links", []) if link["rel"] == "next"), ""
        )
    assert sorted(found) == [1, 2, 3, 7]


@pytest_twisted.ensureDeferred
async def test_nobody_is_launched_on_when_no_agent_fulfils_the_condition(
    api: Api, agents: TestDatabase
) -> None:
    """Those clients take 200 as permission to go on."""
    for target in ("false", "status='offline'"):
        assert get_message(await launch(api, target), 404) == "no results found"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nme='x'", 'column "nme" does not exist (at character 1)'),
        (
            'name = "web1"',
            'column "web1" does not exist (at character 8);'
            " a text has single quotes: name = 'web1'",
        ),
        (
            "status='a' AND é = 1",
            "target must be a condition on agents in SQL; it cannot contain 'é'",
        ),
        ("name = 'é😀' and nme = 1", 'column "nme" does not exist (at character 17)'),
        ("name =", 'syntax error at or near ")" (at the end of the condition)'),
        (
            "name",
            "argument of AND must be type boolean, not type character varying (at character 1)",
        ),
        ("name::int > 1", "invalid input syntax for type integer"),
        ("id / 0 = 1", "division by zero"),
        ("id = (select agentid from commands)", "more than one row returned by a subquery"),
        ("count(*) > 1", "aggregate functions are not allowed in WHERE (at character 1)"),
        ("exists (select privatekey from investigators)", "permission denied for table"),
        (
            "exists (select 1 from agents for update)",
            "cannot execute SELECT FOR UPDATE in a read-only",
        ),
        ("a" * 2049, "target must have at most 2048 characters"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_wrong_condition_is_explained(
    api: Api, agents: TestDatabase, target: str, message: str
) -> None:
    """With PostgreSQL's words and the position within the condition."""
    assert message in get_message(await launch(api, target), 400)


@pytest_twisted.ensureDeferred
async def test_a_message_of_postgresql_is_cut(api: Api, database: TestDatabase) -> None:
    """It may repeat a stored value of any length."""
    fleet.insert_rows(database.dsn, "agents", [make_agent(1, environment={"os": "x" * 100_000})])
    message = get_message(await launch(api, "environment::text::int = 1"), 400)
    assert len(message) < 1_000 and "invalid input syntax" in message


@pytest_twisted.ensureDeferred
async def test_a_condition_is_only_for_agents(api: Api) -> None:
    for type_ in ("action", "command", "investigator"):
        answer = await api.get(f"/search?type={type_}&target=true")
        assert get_message(answer, 400) == "target is only for searches of type agent"


@pytest_twisted.ensureDeferred
async def test_head_runs_no_condition(api: Api, agents: TestDatabase) -> None:
    """One that PostgreSQL would refuse is not tried."""
    answer = await api.request("HEAD", f"{LAUNCH}nme%3D1")
    assert answer.code == 200
    assert (await api.request("HEAD", f"{LAUNCH}%3B")).code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example.net"},
        {"Origin": "null"},
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_page_of_another_site_cannot_send_a_condition(
    api: Api, agents: TestDatabase, headers: dict[str, str]
) -> None:
    for method in ("GET", "HEAD"):
        assert (await api.request(method, f"{LAUNCH}true", headers=headers)).code == 403
        assert (await api.request(method, "/search?type=agent", headers=headers)).code == 200
    own = {"Sec-Fetch-Site": "same-origin", "Origin": api.root}
    assert (await api.get(f"{LAUNCH}true", headers=own)).code == 200


ATTACKS = (
    # another statement
    "true); delete from agents; select (true",
    "true); delete from agents; commit; select (true",
    "true); reset role; delete from agents; select (true",
    "true); do $$ begin delete from agents; end $$; select (true",
    # another role
    "set_config('role', 'migadmin', false) is not null",
    "set_config('session_authorization', 'migadmin', false) is not null",
    # writing
    "set_config('transaction_read_only', 'off', false) is not null",
    "id in (with gone as (delete from agents returning id) select id from gone)",
    # the session and the server
    "set_config('statement_timeout', '0', false) is not null",
    "set_config('work_mem', '1TB', false) is not null",
    "pg_advisory_lock(1664) is not null",
    "lo_create(0) > 0",
    "pg_notify('a', 'b') is not null",
    # what the role may not read
    "exists (select 1 from investigators where privatekey is not null)",
    "exists (select 1 from investigators i where i::text <> '')",
    "exists (select 1 from investigators where apikey is not null)",
    "exists (select 1 from pg_shadow where passwd is not null)",
    "exists (select 1 from loaders where loaderkey is not null)",
    "exists (select 1 from submissions)",
    "pg_read_file('/etc/passwd') <> ''",
    "query_to_xml('select privatekey from investigators', true, true, '')::text <> ''",
    # the end of the bracket
    "true) --",
    "true /*",
    "true) union select 1 where (true",
    # writing in a read-only transaction
    "pg_logical_emit_message(false, 'x', repeat('x', 100000000)) > '0/0'",
    "exists (select 1 from generate_series(1, 1000000000))",
    # memory
    "id in (with recursive t as (select name s from agents union all select s||s from t)"
    " select 1 from t)",
    "exists (" + "select a||a from (" * 24 + "select name as a from agents" + ") t" * 24 + ")",
    "(" * 30 + "'\"'" + ", 1)::text" * 30 + " = ''",
    "exists (select 1 from (values (1)) t0(x)"
    + "".join(f", lateral (values (t{n}.x+t{n}.x)) t{n + 1}(x)" for n in range(30))
    + " where t30.x = 0)",
    # x.f is f(x)
    "(30).pg_sleep is null",
    "('/etc/passwd').pg_read_file <> ''",
    "agents.row_to_json is null",
    # what PostgreSQL does not stop
    " or ".join(f"7.7 ^ 14000{n % 10} = 0" for n in range(100)),
    " or ".join(["('1e130000' / 7.1) % ('1e65000' / 7.3) = 1"] * 40),
)


def describe_database(database: TestDatabase) -> object:
    """Return everything in a database and its server that an attack might change."""
    rows = [
        database.execute(f"select t::text from {table} t order by 1") for table in catalog.TABLES
    ]
    of_server = [
        database.execute(sql)
        for sql in (
            "select rolname, rolsuper, rolconfig from pg_roles order by 1",
            "select pid, objid from pg_locks where locktype = 'advisory'",
            "select oid from pg_largeobject_metadata",
            "select name, setting from pg_settings where name not like 'transaction%' order by 1",
        )
    ]
    return rows, of_server, catalog.describe_all(database)


@contextmanager
def unchanged(database: TestDatabase) -> Iterator[None]:
    """Check that a block changes nothing, and writes nothing to the server's log of changes."""
    before = describe_database(database)
    [[begin]] = database.execute("select pg_current_wal_lsn()")
    yield
    [[size]] = database.execute("select pg_current_wal_lsn() - %s", (begin,))
    assert describe_database(database) == before
    assert size < MAX_WAL_BYTES


@pytest_twisted.ensureDeferred
async def test_an_attack_is_refused_and_changes_nothing(api: Api, agents: TestDatabase) -> None:
    fleet.insert_rows(
        agents.dsn,
        "investigators",
        [
            {
                "id": 1,
                "name": "alice",
                "status": "active",
                "privatekey": b"secret",
                "createdat": "2026-01-01T00:00:00Z",
                "lastmodified": "2026-01-01T00:00:00Z",
            }
        ],
    )
    with unchanged(agents):
        for target in ATTACKS:
            message = get_message(await launch(api, target), 400)
            assert "secret" not in message
    assert list_ids(await launch(api, "true")) == [1, 2, 3, 7]


@pytest_twisted.ensureDeferred
async def test_a_slow_condition_is_cut(
    agents: TestDatabase, start_api: Callable[[Limits], Api]
) -> None:
    """It is not 503, which clients try again."""
    api = start_api(Limits(restricted_seconds=0.5))
    agents.execute(
        "insert into agents select 1000 + n, name, 'q' || n, os, version, pid, starttime,"
        " destructiontime, heartbeattime, status from agents, generate_series(1, 500) n"
        " where id = 1"
    )
    message = get_message(await launch(api, SLOW), 400)
    assert message == "target: the condition took more than 0.5 s"
    working = (
        "select 1 from pg_stat_activity where query = 'fetch forward 1 from rows'"
        " and state = 'active' and datname = current_database()"
    )
    await wait_until(lambda: not agents.execute(working))


@asynccontextmanager
async def run_stopped_statement(database: TestDatabase, api: Api) -> AsyncIterator[Deferred[Any]]:
    """Let a statement run during the block that does not end, even when it is cancelled."""
    database.execute(NO_TIMEOUT)
    running = ensureDeferred(api.database.query_restricted(ENDLESS, client="other"))
    await wait_until(lambda: database.execute(FIND_ENDLESS))
    [[pid]] = database.execute(FIND_ENDLESS)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield running
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest_twisted.ensureDeferred
async def test_one_condition_runs_at_a_time(
    agents: TestDatabase, start_api: Callable[[Limits], Api]
) -> None:
    """Even one that PostgreSQL does not stop keeps the others waiting, who are told so."""
    api = start_api(Limits(restricted_seconds=0.1, restricted_wait_seconds=0.2))
    async with run_stopped_statement(agents, api) as running:
        await expect_overload(api)
        with pytest.raises(QueryCancelledError):
            await running
        await expect_overload(api)
        for path in ("/heartbeat", "/search?type=agent", "/dashboard"):
            assert (await api.get(path)).code == 200
    while (answer := await launch(api, "true")).code == 503:
        pass
    assert list_ids(answer) == [1, 2, 3, 7]


async def expect_overload(api: Api) -> None:
    answer = await launch(api, "true")
    assert (answer.code, answer.get_header("Retry-After")) == (503, "5")
    assert answer.document["error"]["message"] == (
        "other conditions on agents are being evaluated; try again"
    )


@pytest_twisted.ensureDeferred
async def test_a_statement_that_never_ends_is_given_up(
    agents: TestDatabase, start_api: Callable[[Limits], Api]
) -> None:
    api = start_api(Limits(restricted_seconds=0.1, restricted_end_seconds=1.5))
    async with run_stopped_statement(agents, api) as running:
        with pytest.raises(QueryCancelledError):
            await running
        assert list_ids(await launch(api, "true")) == [1, 2, 3, 7]


@pytest_twisted.ensureDeferred
async def test_a_condition_of_a_client_that_leaves_is_cancelled(
    api: Api, agents: TestDatabase
) -> None:
    agents.execute(NO_TIMEOUT)
    running = ensureDeferred(api.database.query_restricted(ENDLESS, client="other"))
    await wait_until(lambda: agents.execute(FIND_ENDLESS))
    running.addErrback(lambda _: None).cancel()
    await wait_until(lambda: not agents.execute(FIND_ENDLESS))
    assert list_ids(await launch(api, "true")) == [1, 2, 3, 7]


@pytest_twisted.ensureDeferred
async def test_a_condition_may_be_fulfilled_by_a_bounded_number_of_agents(
    agents: TestDatabase, start_api: Callable[[Limits], Api]
) -> None:
    assert list_ids(await launch(start_api(Limits(targeted_agents=4)), "true")) == [1, 2, 3, 7]
    message = get_message(await launch(start_api(Limits(targeted_agents=3)), "true"), 400)
    assert message == "target must be fulfilled by at most 3 agents"


@pytest_twisted.ensureDeferred
async def test_many_agents_are_found_in_slices(api: Api, agents: TestDatabase) -> None:
    """Each pause of the service is short, however many there are."""
    agents.execute(
        "insert into agents (id, name, queueloc, version, pid, starttime, heartbeattime, status)"
        " select 1000 + n, 'many', 'q' || n, '1', 1, now(), now(), 'online'"
        f" from generate_series(1, {SLICE_AGENTS + 2}) n"
    )
    answer = await api.get("/search?type=agent&agentname=m%25&limit=2&target=name%3D'many'")
    assert list_ids(answer) == [1000 + SLICE_AGENTS + 1, 1000 + SLICE_AGENTS + 2]
    answer = await api.get("/search?type=agent&agentname=web%25&target=true")
    assert list_ids(answer) == [1, 2, 3, 7]


@pytest.mark.parametrize(
    ("change", "restore"),
    [
        (f"revoke {READER_ROLE} from {API_ROLE}", f"grant {READER_ROLE} to {API_ROLE}"),
        (f"alter role {READER_ROLE} rename to away", f"alter role away rename to {READER_ROLE}"),
        (
            f"revoke select on agents from {READER_ROLE}",
            f"grant select on agents to {READER_ROLE}",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_without_the_role_an_administrator_is_told_what_to_run(
    api: Api, agents: TestDatabase, change: str, restore: str
) -> None:
    agents.execute(change)
    try:
        answer = await launch(api, "true")
    finally:
        agents.execute(restore)
    assert answer.code == 503
    assert (
        "`mig-api migrate` prints what a superuser must run"
        in (answer.document["error"]["message"])
    )
    assert (await launch(api, "true")).code == 200
