"""The dashboard's counts are right, and those of a large fleet are cached."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import psycopg2
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from mig.api.dashboard import DashboardResource
from mig.api.responder import Responder
from mig.database.database import Database
from mig.errors import UnavailableError
from mig.formats.collection_json import CollectionJson
from mig.hypermedia.urls import Urls
from mig.limits import Limits
from mig.model.statement import Parameters, Statement
from tests.support import fleet
from tests.support.json_types import Json, JsonObject
from tests.support.postgres import TestDatabase
from tests.support.reactor import call_in_reactor, reactor

Record = TypeVar("Record")

LIMITS = Limits()
RENEWAL_FACTOR = round(1 / LIMITS.count_share)
"""How many times as old as the time of a count it is when it is renewed."""
URLS = Urls("http://x/api/v1")
ONLINE, IDLE = ("heartbeating", "online"), ("inactive", "idle")
HOURS = st.sampled_from([0.0, 0.05, 0.1, 1.0, 23.0, 25.0, 167.0, 169.0])
AGENTS = st.lists(
    st.fixed_dictionaries(
        {
            "queueloc": st.sampled_from(["a", "b", "c", "d"]),
            "version": st.sampled_from(["", "1", "2"]),
            "status": st.sampled_from([*ONLINE, *IDLE, "destroyed", "upgraded"]),
            "heartbeat": HOURS,
            "start": HOURS,
        }
    ),
    max_size=12,
)


class DashboardDriver:
    """A dashboard on a database and a clock, whose counts can be delayed and are counted."""

    def __init__(self, dsn: str, limits: Limits) -> None:
        self.clock = Clock()
        self.database = Database(reactor, dsn, limits=limits)
        responder = Responder(self.clock, URLS, limits)
        self.dashboard = DashboardResource(self.clock, self.query, responder, limits)
        self.counts = 0
        self.takes_a_second = False
        self.gate: Deferred[None] | None = None

    async def query(
        self, statement: Statement[Record], parameters: Parameters = ()
    ) -> list[Record]:
        counts = "grouping sets" in statement.execute_sql
        if counts:
            self.counts += 1
            if self.gate is not None:
                await self.gate
        records = await self.database.query(statement, parameters)
        if counts and self.takes_a_second:
            self.clock.advance(1)
        return records

    def start_reading(self) -> Deferred[list[Json]]:
        return Deferred.fromCoroutine(self.read_items())

    async def read_items(self) -> list[Json]:
        """Return the dashboard's items: the counts by name, then the actions."""
        found = json.loads(b"[%b]" % await self.dashboard.encode_items(CollectionJson(URLS)))
        counts = {data["name"]: data["value"] for data in found[0]["data"]}
        return [counts, *(item["data"][0]["value"] for item in found[1:])]


@pytest.fixture
def counted(database: TestDatabase) -> Iterator[DashboardDriver]:
    counted = DashboardDriver(database.dsn, LIMITS)
    yield counted
    counted.database.stop()


@pytest.fixture
def large(database: TestDatabase) -> Iterator[DashboardDriver]:
    """Return a dashboard for which every fleet is large and takes a second to count."""
    counted = DashboardDriver(database.dsn, replace(LIMITS, counted_rows=-1))
    counted.takes_a_second = True
    yield counted
    counted.database.stop()


def make_agents(agents: list[JsonObject]) -> list[JsonObject]:
    now = datetime.now(UTC)
    return [
        fleet.make_agent(
            agent_id,
            queueloc=agent["queueloc"],
            version=agent["version"],
            status=agent["status"],
            heartbeattime=now - timedelta(hours=agent["heartbeat"]),
            starttime=now - timedelta(hours=agent["start"]),
        )
        for agent_id, agent in enumerate(agents, 1)
    ]


def count_expected(agents: list[JsonObject]) -> JsonObject:
    active = [agent for agent in agents if agent["heartbeat"] < 5 / 60]
    online = [agent for agent in agents if agent["status"] in ONLINE]
    idle = [agent for agent in agents if agent["status"] in IDLE]
    started = [agent for agent in agents if agent["start"] < 24]
    recent = [agent for agent in agents if agent["heartbeat"] < 168]
    earlier = [agent for agent in recent if agent["heartbeat"] > 24]
    double = sum(count > 1 for count in Counter(a["queueloc"] for a in active).values())
    flapping = Counter(agent["queueloc"] for agent in online + idle)
    disappeared = len(list_endpoints(recent) - list_endpoints(online + idle))
    return {
        "active agents": len(active),
        "agents versions count": count_versions(active),
        "agents started in the last 24 hours": len(started),
        "endpoints running 2 or more agents": double,
        "endpoints that have disappeared over last 7 days": disappeared,
        "online agents": len(online),
        "online agents by version": count_versions(online),
        "online endpoints": len(list_endpoints(online)),
        "idle agents": len(idle),
        "idle agents by version": count_versions(idle),
        "idle endpoints": len(list_endpoints(idle)),
        "new endpoints": len(list_endpoints(started) - list_endpoints(earlier)),
        "disappeared endpoints": disappeared,
        "flapping endpoints": sum(count > 1 for count in flapping.values()),
    }


def list_endpoints(agents: list[JsonObject]) -> set[str]:
    return {agent["queueloc"] for agent in agents}


def count_versions(agents: list[JsonObject]) -> list[JsonObject]:
    counts = Counter(agent["version"] for agent in agents)
    return [{"version": version, "count": counts[version]} for version in sorted(counts)]


@pytest_twisted.ensureDeferred
async def test_the_dashboard_counts_what_a_plain_count_in_python_counts(
    database: TestDatabase, counted: DashboardDriver
) -> None:
    connection = psycopg2.connect(database.dsn)
    connection.autocommit = True

    @given(agents=AGENTS)
    def check(agents: list[JsonObject]) -> None:
        connection.cursor().execute("truncate agents cascade")
        fleet.insert_rows(database.dsn, "agents", make_agents(agents))
        assert call_in_reactor(counted.read_items) == [count_expected(agents)]

    await deferToThread(check)
    connection.close()


@pytest_twisted.ensureDeferred
async def test_requests_for_a_small_fleet_share_a_count_that_began_after_them(
    database: TestDatabase, counted: DashboardDriver
) -> None:
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1)])
    gate = counted.gate = Deferred()
    first = counted.start_reading()
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(2)])
    others = [counted.start_reading() for _ in range(5)]
    counted.gate = None
    gate.callback(None)
    await first
    assert [(await other)[0]["online agents"] for other in others] == [2] * 5
    assert counted.counts == 2
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(3)])
    assert (await counted.start_reading())[0]["online agents"] == 3


@pytest_twisted.ensureDeferred
async def test_cached_counts_show_their_age_and_are_renewed_only_once(
    database: TestDatabase, large: DashboardDriver
) -> None:
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1)])
    [counts] = await large.start_reading()
    assert counts == {**counts, "online agents": 1, "counts age": 1}
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(2)])
    large.clock.advance(RENEWAL_FACTOR - 1)
    assert (await large.start_reading())[0]["counts age"] == RENEWAL_FACTOR
    assert large.counts == 1
    gate = large.gate = Deferred()
    large.clock.advance(10)
    for _ in range(5):
        [counts] = await large.start_reading()
        assert counts == {**counts, "online agents": 1, "counts age": RENEWAL_FACTOR + 10}
    assert large.counts == 2
    large.gate = None
    await finish_renewal(large, gate)
    [counts] = await large.start_reading()
    assert counts == {**counts, "online agents": 2, "counts age": 1}


async def finish_renewal(counted: DashboardDriver, gate: Deferred[None]) -> None:
    """Let a delayed count go on, and wait for its end."""
    counted.clock.advance(LIMITS.count_age_seconds)
    waiting = counted.start_reading()
    gate.callback(None)
    await waiting


@pytest_twisted.ensureDeferred
async def test_counts_older_than_the_limit_are_never_served(
    database: TestDatabase, large: DashboardDriver
) -> None:
    await large.start_reading()
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1)])
    large.clock.advance(LIMITS.count_age_seconds)
    [counts] = await large.start_reading()
    assert counts == {**counts, "online agents": 1, "counts age": 1}


@pytest_twisted.ensureDeferred
async def test_the_newest_actions_are_current_even_with_cached_counts(
    database: TestDatabase, large: DashboardDriver
) -> None:
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1)])
    fleet.insert_rows(
        database.dsn, "actions", [fleet.make_action(1, starttime="2026-01-01T00:00:00Z")]
    )
    fleet.insert_rows(database.dsn, "commands", [fleet.make_command(1, 1, 1)])
    await large.start_reading()
    fleet.insert_rows(
        database.dsn, "actions", [fleet.make_action(2, starttime="2026-01-02T00:00:00Z")]
    )
    fleet.insert_rows(database.dsn, "commands", [fleet.make_command(n, 2, 1) for n in (2, 3)])
    _, newest, oldest = await large.start_reading()
    assert (newest["id"], newest["counters"]) == (2, {"sent": 2, "done": 2, "success": 2})
    assert (oldest["id"], oldest["counters"]) == (1, {"sent": 1, "done": 1, "success": 1})
    assert large.counts == 1


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_does_not_stop_the_count_of_others(
    counted: DashboardDriver,
) -> None:
    gate = counted.gate = Deferred()
    leaving, staying = counted.start_reading(), counted.start_reading()
    leaving.addErrback(lambda _: None)
    leaving.cancel()
    counted.gate = None
    gate.callback(None)
    assert (await staying)[0]["active agents"] == 0


@pytest_twisted.ensureDeferred
async def test_a_failed_count_is_reported_and_tried_again(
    counted: DashboardDriver,
) -> None:
    gate = counted.gate = Deferred()
    asked = counted.start_reading()
    gate.errback(UnavailableError("gone"))
    with pytest.raises(UnavailableError):
        await asked
    counted.gate = None
    assert (await counted.start_reading())[0]["active agents"] == 0


@pytest_twisted.ensureDeferred
async def test_cached_counts_are_served_while_they_cannot_be_renewed(
    large: DashboardDriver,
) -> None:
    await large.start_reading()
    gate = large.gate = Deferred()
    large.clock.advance(2 * RENEWAL_FACTOR)
    await large.start_reading()
    gate.errback(UnavailableError("gone"))
    large.gate = None
    assert (await large.start_reading())[0]["counts age"] > 2 * RENEWAL_FACTOR
    assert large.counts == 3
