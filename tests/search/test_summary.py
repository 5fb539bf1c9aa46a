"""A summary is what one counts by hand from the report, for any fleet and groups."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial

import psycopg2
import pytest
import pytest_twisted
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.threads import deferToThread
from whenever import Instant

from mig.compliance.quota import SummaryQuota
from mig.compliance.selection import AnswerKeeper
from mig.database.database import Database, Snapshot
from mig.errors import InvalidInputError
from mig.formats.format import FormatOptions
from mig.formats.ndjson import Ndjson
from mig.hypermedia.urls import Urls
from mig.limits import Limits
from mig.search.records import find_record_type
from mig.search.results import Preparation
from mig.search.search import parse_search
from mig.search.summary import SummaryStream
from tests.support import fleet
from tests.support.json_types import JsonObject
from tests.support.plain_search import (
    DAYS,
    PARAMETERS,
    REPEATABLE,
    Fleet,
    Pairs,
    choose,
    fleets,
    list_names,
    load_rows,
)
from tests.support.plain_summary import MAX_AGES, PAIRS, summarize
from tests.support.postgres import TestDatabase
from tests.support.properties import REPETITIONS
from tests.support.reactor import call_in_reactor, reactor

NOW = Instant.from_utc(2026, 1, 10)
SUMMARY = [("type", "command"), ("report", "compliancesummary")]
NOT_OF_SUMMARIES = {"compliance", "latest", "limit", "offset", "report", "sort", "total"}
FILTERS = [name for name in list_names("command") if name not in NOT_OF_SUMMARIES]


class Summarizing:
    """Summaries of a database, as the handler runs them, without HTTP."""

    def __init__(self, dsn: str, limits: Limits) -> None:
        self.limits = limits
        self.database = Database(reactor, dsn, limits=replace(limits, stream_connections=1))
        self._keeper = AnswerKeeper(limits)
        self.quota = SummaryQuota(limits)

    async def summarize(self, pairs: Pairs) -> list[JsonObject]:
        search = parse_search([*SUMMARY, *pairs], NOW)
        urls = Urls("http://x/api/v1")
        with (
            self._keeper.keep_answers("client") as latest,
            self.quota.open_share("client") as share,
        ):
            if search.takes_latest:
                search = replace(search, latest=latest)
            stream = SummaryStream(
                search,
                Ndjson(urls, FormatOptions(record=find_record_type(search))),
                urls,
                self.limits,
                open_snapshot=self._open_snapshot,
                get_page_bytes=lambda: 2_000_000,
                preparation=Preparation(reactor, self.limits.preparation_seconds),
                share=share,
                now=NOW,
            )
            pages = []
            while not stream.is_complete:
                pages.append(await stream.read_page())
            await stream.aclose()
            kept = share.taken
        assert kept == 0, "what a summary keeps is given back"
        return [json.loads(line) for line in b"".join(pages).splitlines()]

    def _open_snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        return self.database.snapshot("test")


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def summaries(database: TestDatabase, limits: Limits) -> Iterator[Summarizing]:
    running = Summarizing(database.dsn, limits)
    yield running
    running.database.stop()


@st.composite
def draw_filters(draw: st.DrawFn) -> Pairs:
    pairs = [("after", DAYS[0])]
    for name in sorted(draw(st.sets(choose(FILTERS), max_size=2)) - {"after"}):
        most = 2 if name in REPEATABLE else 1
        values = draw(st.lists(choose(PARAMETERS[name]), min_size=1, max_size=most))
        pairs += [(name, value) for value in values]
    return pairs


@pytest_twisted.ensureDeferred
async def test_a_summary_counts_what_is_counted_by_hand(
    database: TestDatabase, summaries: Summarizing
) -> None:
    connection = psycopg2.connect(database.dsn)
    connection.autocommit = True
    groupings = iter(PAIRS * 1_000 * REPETITIONS)  # each of them comes in its turn

    @settings(max_examples=20 * REPETITIONS)
    @given(
        rows=fleets,
        filters=draw_filters(),
        max_age=choose([None, *MAX_AGES]),
        latest=choose(["", "false", "true"]),
        has_scope=st.booleans(),
    )
    def check(
        rows: Fleet, filters: Pairs, max_age: str | None, latest: str, has_scope: bool
    ) -> None:
        load_rows(connection.cursor(), rows)
        for _ in range(4):
            names = next(groupings)
            with_scope = has_scope and not {"day", "action"} & {*names}
            pairs = [*filters, ("groupby", ",".join(names)), ("latest", latest)]
            pairs += [("maxage", max_age or ""), ("scope", "agents" if with_scope else "")]
            found = call_in_reactor(partial(summaries.summarize, pairs))
            assert found == summarize(
                rows,
                [("type", "command"), *filters],
                names,
                max_age=max_age,
                is_latest=latest == "true",
                has_scope=with_scope,
            ), pairs

    await deferToThread(check)
    connection.close()


@pytest.mark.parametrize("limits", [Limits(summary_groups=2)], ids=["two groups"])
@pytest.mark.parametrize("scope", ["", "agents"])
@pytest_twisted.ensureDeferred
async def test_too_many_groups_are_refused_with_their_number(
    database: TestDatabase, summaries: Summarizing, scope: str
) -> None:
    agents = [fleet.make_agent(n, version=str(n)) for n in range(1, 4)]
    fleet.insert_rows(database.dsn, "actions", [fleet.make_action(1)])
    fleet.insert_rows(database.dsn, "agents", agents)
    commands = [
        fleet.make_command(n, 1, n, results=fleet.make_results(fleet.make_hit())) for n in (1, 2)
    ]
    fleet.insert_rows(database.dsn, "commands", commands)
    pairs = [("groupby", "version"), ("after", "2026-01-01T00:00:00Z")]
    assert len(await summaries.summarize(pairs)) == 3
    if not scope:
        fleet.insert_rows(database.dsn, "commands", [fleet.make_command(3, 1, 3)])
    with pytest.raises(InvalidInputError, match="groupby must make at most 2 groups"):
        await summaries.summarize([*pairs, ("scope", scope)])
