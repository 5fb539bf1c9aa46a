"""Every search reads commands by an index, in a database with a million of them.

The queries are those of the service: each is explained before it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from whenever import Instant

from mig.api.dashboard import DashboardResource
from mig.api.responder import Responder
from mig.database.connection import Rows
from mig.database.database import Database, Snapshot
from mig.demo.postgres import EmbeddedPostgres
from mig.formats.collection_json import CollectionJson
from mig.hypermedia.urls import Urls
from mig.limits import Limits
from mig.model.row import make_row_reader
from mig.model.statement import Parameters, Statement, select_ids
from mig.search.order import SORT_COLUMNS
from mig.search.parameters import PARAMETERS, SEARCH_TYPES
from mig.search.records import make_row_encoder
from mig.search.results import Preparation, SearchResults
from mig.search.search import parse_search
from mig.search.targeted_agents import find_targeted_agents
from tests.support.json_types import JsonObject
from tests.support.postgres import TestDatabase
from tests.support.reactor import reactor

Record = TypeVar("Record")

COMMANDS = 1_000_000
AGENTS = 5_000
ACTIONS = 200
MAX_SORTED_ROWS = COMMANDS / 20
"""The number of rows that the planner expects."""

FLEET = f"""
set session_replication_role = replica; -- no foreign keys to check: they hold
insert into agents
    (id, name, queueloc, version, pid, starttime, heartbeattime, status, environment, tags)
select n, (array['web', 'db', 'mail', 'build'])[1 + n % 4] || n || '.example.net', 'linux.' || n,
    '1.' || n % 7, 1, '2026-01-01'::timestamptz - n % 90 * interval '1 day',
    '2026-03-01'::timestamptz - n % 864 * interval '1000 s',
    (array['heartbeating', 'heartbeating', 'inactive', 'destroyed'])[1 + n % 4],
    json_build_object('os', (array['linux', 'windows', 'darwin'])[1 + n % 3], 'NAME', '10.0.' || n),
    json_build_object('NAME', (array['ops', 'sales'])[1 + n % 2])
from generate_series(1, {AGENTS}) n;
insert into investigators (id, name, status, createdat, lastmodified)
select n, 'Investigator ' || n, 'active', '2026-01-01', '2026-01-01' from generate_series(1, 10) n;
insert into actions (id, name, target, threat, validfrom, expireafter, starttime, status)
select n, 'check ' || n, 'true',
    json_build_object('family', (array['compliance', 'backdoor', 'malware', 'ddos'])[1 + n % 4]),
    '2026-03-01'::timestamptz - n * interval '6 hours', '2026-03-02'::timestamptz,
    '2026-03-01'::timestamptz - n * interval '6 hours',
    (array['completed', 'inflight', 'init'])[1 + n % 3]
from generate_series(1, {ACTIONS}) n;
insert into signatures select n, 1 + n % 10, 's' from generate_series(1, {ACTIONS}) n;
insert into commands
select n, {ACTIONS} - n * {ACTIONS} / {COMMANDS + 1}, 1 + n % {AGENTS},
    (array['success', 'success', 'success', 'success', 'success', 'success', 'success', 'success',
        'prepared', 'sent', 'timeout', 'cancelled', 'expired', 'failed'])[1 + n / 7 % 14],
    case when n % 3 = 0 then '[{{"foundanything": true}}]' else '[]' end::json,
    '2026-03-01'::timestamptz - ({ACTIONS} - n * {ACTIONS} / {COMMANDS + 1}) * interval '6 hours'
        + n % 500 * interval '1 ms',
    '2026-03-01'
from generate_series(1, {COMMANDS}::bigint) n;
"""
NOW = Instant.from_utc(2026, 3, 1)
LONG_AGO = {"after": "0001-01-01T00:00:00Z"}
DAY = {"after": "2026-02-20T00:00:00-04:00", "before": "2026-02-20T23:59:59-04:00"}
REPORT = {"type": "command", "report": "complianceitems", "threatfamily": "compliance"}

VALUES = {
    "actionid": ["50"],
    "actionname": ["check 50", "check 12%", "%check%", "none"],
    "after": ["2026-02-27T00:00:00Z", "0001-01-01T00:00:00Z"],
    "agentid": ["77"],
    "agentname": ["web100.example.net", "web10%", "%example%", "none"],
    "agentversion": ["1.3", "1.%", "none"],
    "before": ["2026-02-23T00:00:00Z"],
    "check": ["%ssh%"],
    "commandid": ["123456"],
    "compliance": ["false"],
    "cursor": ["2026-02-25 00:00:00+00,600000"],
    "environment.NAME": ["true", "10.0.1%", "none"],
    "finishedafter": ["2026-02-28T23:00:00Z", "2026-04-01T00:00:00Z"],
    "finishedbefore": ["2026-04-01T00:00:00Z", "2026-01-01T00:00:00Z"],
    "foundanything": ["true", "false"],
    "groupby": ["os,check"],
    "investigatorid": ["3"],
    "investigatorname": ["%tor 4", "%gator%", "none"],
    "latest": ["true"],
    "level": ["high"],
    "limit": ["10", "100000000"],
    "maxage": ["30d"],
    "offset": ["100"],
    "os": ["linux", "%win%", "none"],
    "policy": ["system"],
    "report": ["complianceitems"],
    "scope": ["agents"],
    "sort": ["id", "-id"],
    "status": ["done", "sent", "%e%", "none"],
    "tag.NAME": ["ops", "%s%", "none"],
    "target": ["id = 4", "name like 'web10%'", "true", "false"],
    "threatfamily": ["compliance", "back%", "none"],
    "total": ["true", "false"],
}
"""For each parameter except the type: values that find one, several, all and none."""

# no index has the finish time: docs/decisions/0056
OF_ONE_ACTION = {"actionid": "50"}
WINDOWS: dict[str, list[dict[str, str]]] = {
    "after": [{}],
    "finishedafter": [OF_ONE_ACTION, DAY],
    "finishedbefore": [OF_ONE_ACTION, DAY],
}
ALONE = [
    {
        "type": type_,
        **({"report": parameter.reports[0]} if parameter.reports else {}),
        parameter.name: value,
        **window,
    }
    for type_ in SEARCH_TYPES
    for parameter in PARAMETERS
    if parameter.name in VALUES and type_ in parameter.types
    for value in VALUES[parameter.name]
    for window in WINDOWS.get(parameter.name, [{}, LONG_AGO])
]
SENT = [
    {**REPORT, "status": "done", "limit": "100000", **DAY},
    {**REPORT, "status": "success", "limit": "50000", **DAY},
    {**REPORT, "status": "success", "limit": "50000", **LONG_AGO},
    {**REPORT, "status": "success", "limit": "100000000", **LONG_AGO},
    {"type": "agent", "after": "2026-02-28T23:00:00Z", "limit": "200"},
    {"type": "action", "status": "sent", **DAY},
    {"type": "command", "investigatorname": "%tor%4%", "limit": "10"},
    {"type": "action", "investigatorid": "3", "limit": "100"},
    {"type": "command", "actionid": "50", **LONG_AGO},
    {"type": "command", "actionid": "50", "foundanything": "true", **LONG_AGO},
    {"type": "command", "actionid": "50", "agentname": "web10%", **LONG_AGO},
    {"type": "command", "actionid": "50", "status": "success", "limit": "100"},
    {"type": "command", "agentid": "77", "status": "success", **LONG_AGO},
    {"type": "command", "limit": "100"},
]
"""The searches of the service's own links, its documentation and known clients."""
SORTED = [
    {"type": type_, "sort": sign + column.name, **filters, **window}
    for type_ in ("command", "agent")
    for column in SORT_COLUMNS[type_]
    for sign in ("", "-")
    for filters in ({}, {"actionid": "50"}, {"status": "none"}, {"limit": "100000000"})
    for window in (LONG_AGO, DAY)
]


class Explanation(NamedTuple):
    plans: list[JsonObject]


class ExplainingSnapshot:
    """A snapshot whose statements are explained before they run."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.plans: list[JsonObject] = []

    async def query(
        self, statement: Statement[Record], parameters: Parameters = ()
    ) -> list[Record]:
        await self._record_plans(statement.execute_sql, parameters)
        return await self._snapshot.query(statement, parameters)

    async def declare_cursor(self, sql: str, parameters: Parameters = ()) -> None:
        await self._record_plans(f"declare rows no scroll cursor for {sql}", parameters)
        await self._snapshot.declare_cursor(sql, parameters)

    def fetch(self, count: int) -> Deferred[Rows]:
        return self._snapshot.fetch(count)

    async def _record_plans(self, sql: str, parameters: Parameters) -> None:
        explain = Statement(f"explain (format json) {sql}", make_row_reader(Explanation))
        [[plans]] = await self._snapshot.query(explain, parameters)
        assert not [plan for plan in plans if "JIT" in plan], "it is compiled before the first row"
        self.plans += [plan["Plan"] for plan in plans]


def walk_nodes(plan: JsonObject) -> Iterator[JsonObject]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from walk_nodes(below)


def find_faults(plans: list[JsonObject]) -> Iterator[str]:
    """Yield what reads or sorts all commands."""
    for plan in plans:
        for node in walk_nodes(plan):
            kind, about = node["Node Type"], [n.get("Relation Name") for n in walk_nodes(node)]
            if "Seq Scan" in kind and node["Relation Name"] == "commands":
                yield f"{kind} of commands"
            if (
                node.get("Relation Name") == "commands"
                and kind.startswith("Index")
                and ("Index Cond" not in node)
            ):
                yield f"{kind} of all commands"
            if "Sort" in kind and "commands" in about and node["Plan Rows"] > MAX_SORTED_ROWS:
                yield f"{kind} of {node['Plan Rows']} rows"


@pytest.fixture(scope="module")
def large_database(postgres: EmbeddedPostgres) -> Iterator[Database]:
    admin = TestDatabase(dsn=postgres.format_dsn())
    admin.execute("create database million")
    dsn = postgres.format_dsn(database="million")
    for sql in (FLEET, "vacuum (analyze)"):
        TestDatabase(dsn=dsn).execute(sql)
    database = Database(reactor, dsn, limits=Limits(query_connections=1, stream_connections=1))
    yield database
    database.stop()
    admin.execute("drop database million with (force)")


async def explain_search(database: Database, parameters: dict[str, str]) -> list[JsonObject]:
    """Return the plans of a search up to its first page."""
    search = parse_search(list(parameters.items()), NOW)
    if search.target is not None:
        agents = await find_targeted_agents(database, search.target, client="", limits=Limits())
        search = replace(search, targeted_agents=agents)
    urls = Urls("http://x/api/v1")
    encoder = make_row_encoder(search, CollectionJson(urls), urls, Limits())
    async with database.snapshot("test") as snapshot:
        explained: Any = ExplainingSnapshot(snapshot)
        preparation = Preparation(reactor, 60)
        results = SearchResults(explained, search, encoder, lambda: 2_000_000, preparation)
        await results.open()
        pages = results.encode_pages()
        await anext(pages)
        await pages.aclose()
    found: list[JsonObject] = explained.plans
    return found


def test_every_parameter_is_tried() -> None:
    of_searches = {parameter.name for parameter in PARAMETERS if not parameter.is_of_documents}
    assert {"type", *VALUES} == of_searches


@pytest_twisted.ensureDeferred
async def test_a_search_reads_commands_by_an_index(large_database: Database) -> None:
    found = {}
    for parameters in [*({"type": type_} for type_ in SEARCH_TYPES), *ALONE, *SENT, *SORTED]:
        wrong = set(find_faults(await explain_search(large_database, parameters)))
        if parameters.get("sort", "").lstrip("-") == "id":
            wrong -= {"Index Scan of all commands"}  # in the order of their ids
        if parameters == {"type": "command", "total": "true", **LONG_AGO}:
            wrong -= {"Seq Scan of commands"}  # all are counted
        if wrong:
            found[str(parameters)] = sorted(wrong)
    assert found == {}


def sorts_commands(node: JsonObject) -> bool:
    """Whether rows of commands are sorted; PostgreSQL 16 and later also sorts signers."""
    below = [inner.get("Relation Name") for inner in walk_nodes(node)]
    return "Sort" in node["Node Type"] and "commands" in below


@pytest_twisted.ensureDeferred
async def test_the_commands_of_one_action_or_agent_need_no_sort(
    large_database: Database,
) -> None:
    for parameters in ({"actionid": "50"}, {"agentid": "77"}):
        found = await explain_search(large_database, {"type": "command", **parameters, **LONG_AGO})
        assert not [sort for plan in found for sort in walk_nodes(plan) if sorts_commands(sort)]


@pytest_twisted.ensureDeferred
async def test_the_dashboard_reads_commands_by_an_index(large_database: Database) -> None:
    async with large_database.snapshot("test") as snapshot:
        explained = ExplainingSnapshot(snapshot)
        urls = Urls("http://x/api/v1")
        dashboard = DashboardResource(
            reactor, explained.query, Responder(reactor, urls, Limits()), Limits()
        )
        await dashboard.encode_items(CollectionJson(urls))
    assert not list(find_faults(explained.plans))


@pytest_twisted.ensureDeferred
async def test_a_query_without_an_index_is_detected(large_database: Database) -> None:
    async with large_database.snapshot("test") as snapshot:
        explained = ExplainingSnapshot(snapshot)
        for sql in (
            "select min(status) from commands",
            "select id::text from commands order by finishtime desc, id limit 1",
        ):
            await explained.query(select_ids(sql))
    assert len({fault.split()[0] for fault in find_faults(explained.plans)}) > 1
