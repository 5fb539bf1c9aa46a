"""A search that is read in several snapshots has the same results as in one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.threads import deferToThread
from whenever import Instant

from mig.compliance.quota import Quota, QuotaShare
from mig.compliance.selection import LatestAnswers
from mig.database.database import Database, Snapshot
from mig.formats.collection_json import CollectionJson
from mig.hypermedia.urls import Urls
from mig.limits import Limits
from mig.search.records import make_row_encoder
from mig.search.results import Preparation
from mig.search.search import parse_search
from mig.search.stream import SearchStream
from tests.support import fleet
from tests.support.postgres import TestDatabase
from tests.support.reactor import call_in_reactor, reactor

NOW = Instant.from_utc(2026, 1, 10)
COMMANDS = 70
LARGE = 37
URLS = Urls("http://x/api/v1")


class Streamer:
    """A search of a database as the handler runs it, which is suspended after some pages."""

    def __init__(self, dsn: str) -> None:
        self.database = Database(reactor, dsn, limits=Limits(stream_connections=1))

    def make_stream(self, parameters: dict[str, str], page_bytes: int = 10**6) -> SearchStream:
        search = parse_search([*{"type": "command", **parameters}.items()], NOW)
        if search.takes_latest:
            share = QuotaShare(Quota(1_000, "", "", ""), "client")
            search = replace(search, latest=LatestAnswers(share))

        def open_snapshot(*, is_resumed: bool) -> AbstractAsyncContextManager[Snapshot]:
            return self.database.snapshot("test", is_patient=is_resumed)

        return SearchStream(
            search,
            open_snapshot=open_snapshot,
            make_encoder=lambda: make_row_encoder(search, CollectionJson(URLS), URLS, Limits()),
            get_page_bytes=lambda: page_bytes,
            preparation=Preparation(reactor, 60),
            is_connection_needed=lambda _: False,
        )

    async def read(
        self, parameters: dict[str, str], suspended_after: frozenset[int], page_bytes: int = 10**6
    ) -> tuple[bytes, str | None, int]:
        """Return the items, where the next page begins, and the number of rows."""
        stream = self.make_stream(parameters, page_bytes)
        parts: list[bytes] = []
        while not stream.is_complete:
            parts.append(await stream.read_page())
            if len(parts) in suspended_after:
                await stream.suspend()
        await stream.aclose()
        position = stream.next_position
        return b"".join(parts), None if position is None else str(position), stream.row_count


@pytest.fixture
def filled(database: TestDatabase) -> TestDatabase:
    fleet.insert_rows(database.dsn, "actions", [fleet.make_action(1)])
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1)])
    results = fleet.make_results(fleet.make_hit("/etc/a"), fleet.make_hit("/etc/b"))
    large = fleet.make_results(*[fleet.make_hit(f"/etc/{n}" * 20) for n in range(1500)])
    fleet.insert_rows(
        database.dsn,
        "commands",
        [
            fleet.make_command(
                n,
                1,
                1,
                results=large if n == LARGE else results if n % 3 else [],
                starttime=f"2026-01-0{1 + n % 3}T00:00:00Z",
            )
            for n in range(1, COMMANDS + 1)
        ],
    )
    return database


@pytest_twisted.async_yield_fixture
async def streamer(filled: TestDatabase) -> AsyncIterator[Streamer]:
    running = Streamer(filled.dsn)
    yield running
    running.database.stop()


@pytest_twisted.ensureDeferred
async def test_a_suspended_search_goes_on_where_it_was(streamer: Streamer) -> None:
    ranges = st.fixed_dictionaries(
        {
            "after": st.just("2026-01-01T00:00:00Z"),
            "limit": st.integers(1, COMMANDS + 10).map(str),
            "offset": st.integers(0, COMMANDS + 10).map(str),
            "report": st.sampled_from(["", "complianceitems"]),
            "sort": st.sampled_from(["", "starttime", "-starttime", "id", "-id"]),
        }
    )

    @given(
        parameters=ranges,
        suspended_after=st.frozensets(st.integers(1, 8)) | st.just(frozenset(range(1, 200))),
        page_bytes=st.sampled_from([1, 5_000, 10**6]),
    )
    def check(parameters: dict[str, str], suspended_after: frozenset[int], page_bytes: int) -> None:
        once = call_in_reactor(partial(streamer.read, parameters, frozenset()))
        several = call_in_reactor(partial(streamer.read, parameters, suspended_after, page_bytes))
        assert several == once

    await deferToThread(check)


@pytest.mark.parametrize("sort", ["name", "-name"])
@pytest_twisted.ensureDeferred
async def test_a_suspended_search_by_name_goes_on_where_it_was(
    streamer: Streamer, filled: TestDatabase, sort: str
) -> None:
    agents = [fleet.make_agent(n, name=("B", "a", "a,", "é" * 300)[n % 4]) for n in range(2, 100)]
    fleet.insert_rows(filled.dsn, "agents", agents)
    parameters = {"type": "agent", "sort": sort, "after": "2026-01-01T00:00:00Z", "limit": "98"}
    once = await streamer.read(parameters, frozenset())
    assert await streamer.read(parameters, frozenset(range(1, 200)), page_bytes=5_000) == once
    assert (once[1], once[2]) == ("é" * 256 + ",95" if sort == "name" else "B,8", 98)


@pytest.mark.parametrize("cursor", ["", "2026-01-02 00:00:00+00,40"])
@pytest_twisted.ensureDeferred
async def test_a_suspended_report_knows_the_newest_answers(
    streamer: Streamer, filled: TestDatabase, cursor: str
) -> None:
    fleet.insert_rows(filled.dsn, "agents", [fleet.make_agent(n) for n in range(2, 6)])
    filled.execute("update commands set agentid = 1 + id::int % 5 where id != 37")
    parameters = {"report": "complianceitems", "latest": "true", "after": "2026-01-01T00:00:00Z"}
    if cursor:
        parameters["cursor"] = cursor
    once = await streamer.read(parameters, frozenset())
    several = await streamer.read(parameters, frozenset(range(1, 200)), page_bytes=1)
    assert several == once
    assert once[0].count(b"compliance item") == (0 if cursor else 10)


@pytest_twisted.ensureDeferred
async def test_rows_that_are_added_do_not_move_a_suspended_search(
    streamer: Streamer, filled: TestDatabase
) -> None:
    parameters = {"after": "2026-01-01T00:00:00Z", "limit": "60", "offset": "3"}
    before = await streamer.read(parameters, frozenset())
    stream = streamer.make_stream(parameters, page_bytes=5_000)
    parts: list[bytes] = []
    new_id = 1000
    while not stream.is_complete:
        parts.append(await stream.read_page())
        await stream.suspend()
        newest = fleet.make_command(new_id, 1, 1, starttime="2026-01-09T00:00:00Z")
        fleet.insert_rows(filled.dsn, "commands", [newest])
        new_id += 1
    await stream.aclose()
    assert new_id > 1002
    assert (b"".join(parts), str(stream.next_position), stream.row_count) == before


@pytest_twisted.ensureDeferred
async def test_a_suspended_search_holds_no_connection(streamer: Streamer) -> None:
    stream = streamer.make_stream({"after": "2026-01-01T00:00:00Z"})
    await stream.read_page()
    assert not streamer.database.can_stream()
    await stream.suspend()
    assert streamer.database.can_stream()
    assert stream.resumption is not None and str(stream.resumption.limit) == "9990"
    await stream.aclose()
