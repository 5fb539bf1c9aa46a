"""The client library against the service, against recorded answers, and against broken ones."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

import pytest
import pytest_twisted
import treq.testing
from twisted.web.client import Agent as HTTPAgent
from twisted.web.resource import Resource
from twisted.web.server import Request

from mig.client import (
    Agent,
    ConnectionFailedError,
    Filters,
    ForbiddenError,
    IncompleteResponseError,
    InsecureURLError,
    InvalidResponseError,
    MIGClient,
    NotFoundError,
    RequestError,
    UnauthorizedError,
    UnavailableError,
    UnreadableRecordsError,
)
from mig.model.compliance import AgentCounts
from tests.support import fleet
from tests.support.api import Api
from tests.support.callers import add_api_key, add_investigator
from tests.support.postgres import TestDatabase
from tests.support.reactor import reactor
from tests.support.scripted_server import (
    NDJSON,
    ScriptedAnswer,
    ScriptedServer,
    make_document,
    make_error,
)
from tests.support.skipping_clock import SkippingClock

LONG_AGO = datetime(2014, 1, 1, tzinfo=UTC)
STALL_SECONDS = 1000.0
Serve = Callable[..., ScriptedServer]
Result = TypeVar("Result")


async def collect(results: AsyncIterator[Result]) -> list[Result]:
    return [result async for result in results]


def make_client(
    server: ScriptedServer, credentials: str | None = None
) -> tuple[MIGClient, SkippingClock]:
    """Return a client whose pauses between attempts are over at once."""
    clock = SkippingClock(STALL_SECONDS)
    agent = HTTPAgent(reactor)
    client = MIGClient(
        server.url, credentials, reactor=clock, agent=agent, stall_seconds=STALL_SECONDS
    )
    return client, clock


def make_recorded_answer(name: str) -> ScriptedAnswer:
    recorded = fleet.read_recording(name)
    body = json.dumps(recorded["body"], indent=1).encode()
    return ScriptedAnswer(body, recorded["status"], recorded["content_type"])


def make_agents(count: int, following: str | None = None) -> bytes:
    lines = b"".join(b'{"id":%d,"name":"a"}\n' % (number + 1) for number in range(count))
    end = {
        "rows": count,
        "items": count,
        "next": following,
        "snapshot": True,
        "sha256": hashlib.sha256(lines).hexdigest(),
    }
    return lines + json.dumps({"end": end}, separators=(",", ":")).encode() + b"\n"


@pytest.fixture
def api_with_fleet(api: Api, database: TestDatabase) -> Api:
    fleet.load_fleet(database.dsn)
    return api


@pytest_twisted.ensureDeferred
async def test_every_record_of_the_service_is_read_typed(api_with_fleet: Api) -> None:
    async with MIGClient(api_with_fleet.base) as client:
        [action, *_] = await collect(client.search("action", after=LONG_AGO))
        assert await client.action(action.id) == action
        [command, *_] = await collect(client.search("command", after=LONG_AGO, limit=1))
        assert (await client.command(command.id)).results == command.results
        assert command.action.id in {row["id"] for row in fleet.FLEET["actions"]}
        agents = await collect(client.search("agent", after=LONG_AGO))
        assert {agent.id for agent in agents} == {row["id"] for row in fleet.FLEET["agents"]}
        assert await client.agent(agents[0].id) == agents[0]
        [investigator, *_] = await collect(client.search("investigator"))
        found = await client.investigator(investigator.id)
        assert found.pgpfingerprint == investigator.pgpfingerprint
        assert found.publickey


@pytest_twisted.ensureDeferred
async def test_a_report_is_read_as_compliance_items(api_with_fleet: Api) -> None:
    path = "/search?type=command&report=complianceitems&after=2014-01-01T00:00:00Z"
    document = await api_with_fleet.get_collection(path)
    async with MIGClient(api_with_fleet.base) as client:
        items = await collect(client.compliance_items(after=LONG_AGO))
        assert len(items) == len(document["items"]) > 0
        values = [item["data"][0]["value"] for item in document["items"]]
        assert [item.check.test.value for item in items] == [
            value["check"]["test"]["value"] for value in values
        ]
        assert await collect(client.compliance_items()) == []


@pytest_twisted.ensureDeferred
async def test_a_summary_is_read_with_its_totals_last(api_with_fleet: Api) -> None:
    async with MIGClient(api_with_fleet.base) as client:
        items = await collect(client.compliance_items(after=LONG_AGO))
        summary = client.compliance_summary(
            groupby=["check"], maxage=timedelta(days=1), scope="agents", after=LONG_AGO
        )
        *groups, totals = await collect(summary)
        assert {group.group["check"] for group in groups} >= {item.check.name for item in items}
        passed = sum(item.compliance for item in items)
        assert (totals.items.passed, totals.items.failed) == (passed, len(items) - passed)
        assert totals.group == {} and totals.agents.stale > 0
        assert totals.agents.total == sum(
            getattr(totals.agents, name) for name in AgentCounts.__struct_fields__[:-1]
        )


@pytest_twisted.ensureDeferred
async def test_home_and_dashboard_are_read(api_with_fleet: Api) -> None:
    async with MIGClient(api_with_fleet.base) as client:
        home = await client.home()
        assert "search" in {query.rel for query in home.queries or ()}
        dashboard = await client.dashboard()
        assert dashboard.values["active agents"] == 0
        assert dashboard.actions


@pytest_twisted.ensureDeferred
async def test_filters_reach_the_service(api_with_fleet: Api) -> None:
    async with MIGClient(api_with_fleet.base) as client:
        name = fleet.FLEET["agents"][0]["name"]
        long = timedelta(days=36_000)
        searches: list[Filters] = [
            {"agentname": [name, "nothing"]},
            {"agentname": name, "os": "%", "environment": {"isproxied": "%"}},
            {"agentid": fleet.FLEET["agents"][0]["id"]},
        ]
        for filters in searches:
            found = await collect(client.search("agent", filters, after=long))
            assert [agent.name for agent in found] == [name], filters
        targeted = await collect(client.targets(f"name = '{name}'"))
        assert [agent.name for agent in targeted] == [name]


@pytest_twisted.ensureDeferred
async def test_results_are_counted_where_the_service_counts(
    api_with_fleet: Api, serve: Serve
) -> None:
    async with MIGClient(api_with_fleet.base) as client:
        agents = await collect(client.search("agent", after=LONG_AGO))
        assert await client.count("agent", after=LONG_AGO, limit=1) == len(agents) > 1
        commands = await collect(client.search("command", after=LONG_AGO))
        assert await client.count("command", after=LONG_AGO, compliance=True) == len(commands)
    for answer in (make_error(400, "unknown parameter 'total'"), ScriptedAnswer(make_document())):
        client, _ = make_client(serve(answer))
        assert await client.count("agent") is None


@pytest_twisted.ensureDeferred
async def test_errors_have_status_message_and_operation(api_with_fleet: Api) -> None:
    async with MIGClient(api_with_fleet.base) as client:
        with pytest.raises(NotFoundError) as missing:
            await client.action(4096)
        assert missing.value.status == 404
        assert missing.value.operation == api_with_fleet.ended[-1].operation
        with pytest.raises(RequestError, match="limit must be") as refused:
            await collect(client.search("action", limit=-1))
        assert refused.value.status == 400


@pytest_twisted.ensureDeferred
async def test_an_api_key_is_sent(database: TestDatabase) -> None:
    api = Api(database.dsn, handoff="none", authentication=True)
    try:
        key = add_api_key(database, add_investigator(database))
        async with MIGClient(api.base, key) as client:
            assert [found.name for found in await collect(client.search("investigator"))]
            with pytest.raises(ForbiddenError):
                await client.create_investigator("a", "", {"search": True})
        async with MIGClient(api.base) as client:
            with pytest.raises(UnauthorizedError):
                await collect(client.search("agent"))
    finally:
        await api.stop()


@pytest.mark.parametrize("url", ["http://mig.example.com/api/v1", "http://192.0.2.1"])
def test_credentials_go_over_plain_http_only_to_this_host(url: str) -> None:
    with pytest.raises(InsecureURLError):
        MIGClient(url, "key")
    MIGClient(url)
    for own in ("http://localhost:1", "http://127.0.0.2", "http://[::1]:1", "https://a.example"):
        MIGClient(own, "key")


@pytest_twisted.ensureDeferred
async def test_recorded_answers_of_the_original_are_read(serve: Serve) -> None:
    client, _ = make_client(
        serve(
            *map(
                make_recorded_answer,
                ("home", "dashboard", "action-two-signers", "agent", "command-sent"),
            ),
            make_recorded_answer("investigator"),
        )
    )
    home = await client.home()
    assert "Get dashboard" in {query.rel for query in home.queries or ()}
    dashboard = await client.dashboard()
    assert dashboard.values["agents versions count"] is None
    assert len((await client.action(1)).pgpsignatures) == 2
    assert (await client.agent(1)).name
    assert (await client.command(1)).agent.name == "desktop1.corp.example.net"
    assert (await client.investigator(1)).pgpfingerprint


@pytest_twisted.ensureDeferred
async def test_recorded_searches_of_the_original_are_read(serve: Serve) -> None:
    client, _ = make_client(
        serve(*map(make_recorded_answer, ("compliance", "search-action", "search-agent")))
    )
    items = await collect(client.compliance_items())
    recorded = fleet.read_recording("compliance")["body"]["collection"]["items"]
    assert len(items) == len(recorded) - 1  # the last one repeats the parameters
    assert await collect(client.search("action"))
    assert await collect(client.search("agent"))


@pytest_twisted.ensureDeferred
async def test_a_search_that_the_original_has_cut_at_its_limit_is_incomplete(serve: Serve) -> None:
    items = [("agent", {"id": 1}), ("search parameters", {"limit": 1})]
    answer = ScriptedAnswer(make_document(*items), media_type="application/json")
    client, _ = make_client(serve(answer, answer))
    assert len(await collect(client.search("agent", limit=1))) == 1
    with pytest.raises(IncompleteResponseError, match="at most 1 results"):
        await collect(client.search("agent"))


@pytest_twisted.ensureDeferred
async def test_an_original_that_finds_nothing_answers_404(serve: Serve) -> None:
    client, _ = make_client(serve(make_error(404, "no results found")))
    assert await collect(client.search("agent")) == []


@pytest_twisted.ensureDeferred
async def test_ndjson_and_its_next_pages_are_read(serve: Serve) -> None:
    server = serve(
        ScriptedAnswer(
            make_agents(2, "https://public.example/api/v1/search?cursor=x"), 200, NDJSON
        ),
        ScriptedAnswer(make_agents(1), 200, NDJSON),
    )
    client, _ = make_client(server)
    assert [agent.id for agent in await collect(client.search("agent"))] == [1, 2, 1]
    assert server.paths == [
        "GET /api/v1/search?type=agent&format=ndjson&seal=true",
        "GET /api/v1/search?cursor=x",
    ]


@pytest_twisted.ensureDeferred
async def test_collection_json_is_read_where_there_is_no_ndjson(serve: Serve) -> None:
    following = {"rel": "next", "href": "http://public.example/search?cursor=x"}
    server = serve(
        make_error(400, "there is no parameter 'format'"),
        ScriptedAnswer(make_document(("agent", {"id": 1}), links=[following])),
        ScriptedAnswer(make_document(("agent", {"id": 2}))),
        ScriptedAnswer(make_document()),
    )
    client, _ = make_client(server)
    assert [agent.id for agent in await collect(client.search("agent"))] == [1, 2]
    assert await collect(client.search("agent")) == []
    assert server.paths[1:] == [
        "GET /api/v1/search?type=agent",
        "GET /api/v1/search?cursor=x",
        "GET /api/v1/search?type=agent",
    ]


@pytest_twisted.ensureDeferred
async def test_a_limit_is_not_exceeded_by_further_pages(serve: Serve) -> None:
    server = serve(ScriptedAnswer(make_agents(2, "http://a/search?cursor=x"), 200, NDJSON))
    client, _ = make_client(server)
    assert len(await collect(client.search("agent", limit=2))) == 2


def encode_agents(encoding: str) -> tuple[ScriptedAnswer, int]:
    """Return an answer with many agents, and the length of its body."""
    document = [("agent", {"id": number + 1, "name": "a" * 20}) for number in range(200)]
    if encoding.startswith("ndjson"):
        body, media_type = make_agents(200), NDJSON
    else:
        body, media_type = make_document(*document), "application/vnd.collection+json"
    headers: tuple[str, ...] = ()
    if encoding.endswith("gzip"):
        body, headers = gzip.compress(body), ("Content-Encoding: gzip",)
    return ScriptedAnswer(body, 200, media_type, headers), len(body)


ENCODINGS = ("ndjson", "ndjson, gzip", "collection", "collection, gzip")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("is_reported", [True, False], ids=["reported", "hidden"])
@pytest_twisted.ensureDeferred
async def test_a_cut_is_an_error_and_never_an_end(
    serve: Serve, encoding: str, is_reported: bool
) -> None:
    whole, length = encode_agents(encoding)
    client, _ = make_client(serve(whole))
    assert len(await collect(client.search("agent"))) == 200
    for cut in random.Random(encoding).sample(range(1, length), 20):
        if is_reported:  # the connection ends before the length that was announced
            answer = replace(whole, sent_bytes=cut)
        else:  # a proxy that was cut itself has ended its answer well
            answer = replace(whole, body=whole.body[:cut])
        client, _ = make_client(serve(answer))
        with pytest.raises(IncompleteResponseError):
            await collect(client.search("agent"))


@pytest_twisted.ensureDeferred
async def test_unreadable_records_are_an_error_after_all_others(serve: Serve) -> None:
    odd = ("unreadable", {"kind": "agent", "id": "7", "reason": "odd"})
    server = serve(ScriptedAnswer(make_document(odd, ("agent", {"id": 1}))))
    client, _ = make_client(server)
    found: list[Agent] = []
    with pytest.raises(UnreadableRecordsError) as caught:
        async for agent in client.search("agent"):
            found.append(agent)
    assert [agent.id for agent in found] == [1]
    assert (caught.value.count, caught.value.records[0].id) == (1, "7")


@pytest_twisted.ensureDeferred
async def test_a_request_is_sent_again_when_the_service_is_unavailable(serve: Serve) -> None:
    found = ScriptedAnswer(make_document(("agent", {"id": 1})))
    server = serve(None, make_error(503, "busy", "Retry-After: 77"), found)
    client, clock = make_client(server)
    assert (await client.agent(1)).id == 1
    assert len(server.requests) == 3
    assert clock.pauses[0] < 1
    assert clock.pauses[1] == 77


@pytest_twisted.ensureDeferred
async def test_a_request_is_sent_again_five_times_at_most(serve: Serve) -> None:
    server = serve(*[make_error(503, "busy")] * 7)
    client, _ = make_client(server)
    with pytest.raises(UnavailableError, match="busy"):
        await client.agent(1)
    assert len(server.requests) == 6


@pytest_twisted.ensureDeferred
async def test_a_service_that_asks_for_a_long_pause_gets_none(serve: Serve) -> None:
    client, clock = make_client(serve(make_error(503, "busy", "Retry-After: 3600")))
    with pytest.raises(UnavailableError):
        await client.agent(1)
    assert clock.pauses == []


@pytest_twisted.ensureDeferred
async def test_only_what_may_be_repeated_is_sent_again(serve: Serve) -> None:
    server = serve(None, ScriptedAnswer(make_document(("action", {"id": 1}))), None)
    client, _ = make_client(server)
    assert (await client.create_action("{}")).id == 1
    with pytest.raises(ConnectionFailedError):
        await client.create_investigator("name", "key")
    assert [path.split("/")[-2] for path in server.paths[2:]] == ["create"]


@pytest_twisted.ensureDeferred
async def test_a_service_that_cannot_be_reached_is_an_error(serve: Serve) -> None:
    server = serve()
    await server.stop()
    client, clock = make_client(server)
    # as a part of other sentences, it has no full stop
    with pytest.raises(ConnectionFailedError, match=r"^no connection to .*[^.]$"):
        await client.agent(1)
    assert len(clock.pauses) == 5


@pytest_twisted.ensureDeferred
async def test_another_site_is_not_taken_for_the_api(serve: Serve) -> None:
    client, _ = make_client(serve(ScriptedAnswer(b"<html>", media_type="text/html")))
    with pytest.raises(InvalidResponseError, match="base URL"):
        await client.home()


@pytest_twisted.ensureDeferred
async def test_a_redirection_gets_no_credentials(serve: Serve) -> None:
    other = serve()
    server = serve(make_error(302, "elsewhere", f"Location: {other.url}"))
    client, _ = make_client(server, "secret")
    with pytest.raises(RequestError):
        await client.home()
    assert b"secret" in server.requests[0]
    assert other.requests == []


@pytest_twisted.ensureDeferred
async def test_a_program_can_be_tested_with_treq_testing() -> None:
    root = cast(Any, Resource)()
    static: Any = StaticAgent
    root.putChild(b"agent", static())
    agent: Any = treq.testing.RequestTraversalAgent
    client = MIGClient("http://localhost", agent=agent(root))
    assert (await client.agent(1)).name == "made up"


class StaticAgent(Resource):
    """An agent that is always the same."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        request.setHeader("Content-Type", "application/json")
        return make_document(("agent", {"id": 1, "name": "made up"}))
