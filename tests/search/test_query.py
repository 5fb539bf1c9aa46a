"""A search finds what a plain filter in Python finds, for any fleet and parameters."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations_with_replacement
from random import Random

import psycopg2
import pytest
import pytest_twisted
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from whenever import Instant

from mig.compliance.selection import AnswerKeeper
from mig.database.database import Database, Snapshot
from mig.errors import InvalidInputError
from mig.formats.collection_json import CollectionJson
from mig.hypermedia.urls import Urls
from mig.limits import Limits
from mig.search.item_limit import ItemLimit
from mig.search.order import PagePosition
from mig.search.parameters import PARAMETERS_BY_NAME, find_parameter
from mig.search.records import make_row_encoder
from mig.search.results import PART_BYTES, Preparation, SearchResults
from mig.search.search import Search, parse_search
from tests.support import fleet
from tests.support.json_types import Json, JsonObject
from tests.support.plain_search import (
    DAYS,
    OWN_TIMES,
    PARAMETERS,
    Fleet,
    Found,
    Pairs,
    build_search,
    choose,
    draw_search,
    find_expected,
    fleets,
    is_refused,
    list_names,
    load_rows,
)
from tests.support.postgres import TestDatabase
from tests.support.properties import REPETITIONS
from tests.support.reactor import call_in_reactor, reactor, record_log

NOW = Instant.from_utc(2026, 1, 10)
FLEETS = 20
"""Among how many fleets all pairs of parameters are divided."""


def open_results(
    snapshot: Snapshot, search: Search, item_limit: ItemLimit | None = None
) -> SearchResults[Json]:
    urls = Urls("http://x/api/v1")
    encoder = make_row_encoder(search, CollectionJson(urls), urls, Limits())
    preparation = Preparation(reactor, 60)
    return SearchResults(
        snapshot, search, encoder, lambda: 2_000_000, preparation, item_limit=item_limit
    )


class Searcher:
    """A search of a database as the handler runs it, without HTTP."""

    def __init__(self, dsn: str) -> None:
        self.database = Database(
            reactor, dsn, limits=Limits(query_connections=1, stream_connections=1)
        )
        self._keeper = AnswerKeeper(Limits())
        self.next_position: PagePosition | None = None
        self.total: int | None = None

    async def find_ids(self, pairs: Pairs) -> list[int]:
        return [value["id"] for _, value in await self._search(pairs)]

    async def find(self, pairs: Pairs) -> Found:
        """Return what a search finds, as the plain filter does."""
        return [self._shorten(name, value) for name, value in await self._search(pairs)]

    async def _search(self, pairs: Pairs) -> list[tuple[str, JsonObject]]:
        search = parse_search(pairs, NOW)
        with self._keeper.keep_answers("client") as latest:
            if search.takes_latest:
                search = replace(search, latest=latest)
            async with self.database.snapshot("test") as snapshot:
                results = open_results(snapshot, search)
                await results.open()
                items = b"".join([page async for page in results.encode_pages()])
        self.next_position, self.total = results.next_position, results.total
        data = [item["data"][0] for item in json.loads(b"[%b]" % items)]
        assert results.item_count == (len(data) if search.report else 0)
        return [(each["name"], each["value"]) for each in data]

    @staticmethod
    def _shorten(name: str, value: JsonObject) -> Json:
        if "link" not in value:
            return value["id"]
        command_id = int(value["link"].rpartition("=")[2])
        if name == "unreadable command":
            return command_id, "unreadable", None
        return command_id, value["check"]["name"], value["compliance"]


@pytest.fixture
def searcher(database: TestDatabase) -> Json:
    searcher = Searcher(database.dsn)
    yield searcher
    searcher.database.stop()


@pytest_twisted.ensureDeferred
async def test_a_search_finds_what_a_plain_filter_in_python_finds(
    database: TestDatabase, searcher: Searcher
) -> None:
    connection = psycopg2.connect(database.dsn)
    connection.autocommit = True

    @given(rows=fleets, asked=st.lists(draw_search(), min_size=5, max_size=10))
    def check(rows: Fleet, asked: list[Pairs]) -> None:
        load_rows(connection.cursor(), rows)
        for pairs in asked:
            call_in_reactor(partial(compare, searcher, rows, pairs))

    await deferToThread(check)
    connection.close()


async def compare(searcher: Searcher, rows: Fleet, pairs: Pairs) -> None:
    if is_refused(pairs):
        with pytest.raises(InvalidInputError, match="latest"):
            await searcher.find(pairs)
    else:
        found = await searcher.find(pairs)
        assert (found, searcher.total) == find_expected(rows, pairs), pairs


@pytest_twisted.ensureDeferred
async def test_every_parameter_and_every_pair_finds_what_a_plain_filter_finds(
    database: TestDatabase, searcher: Searcher
) -> None:
    connection = psycopg2.connect(database.dsn)
    connection.autocommit = True

    begun: set[int] = set()

    @settings(max_examples=1 + REPETITIONS, phases=[Phase.generate])  # to shrink takes minutes
    @given(rows=fleets, randomness=st.randoms())
    def check(part: int, rows: Fleet, randomness: Random) -> None:
        if part not in begun:  # the first example is always the simplest one
            begun.add(part)
            return

        def choose_values(values: list[str], most: int) -> list[str]:
            return randomness.choices(values, k=randomness.randint(1, most))

        load_rows(connection.cursor(), rows)
        for type_, *names in combinations[part::FLEETS]:
            pairs = build_search(type_, {*names}, choose_values)
            call_in_reactor(partial(compare, searcher, rows, pairs))

    combinations = [
        (type_, *names)
        for type_ in OWN_TIMES
        for names in combinations_with_replacement(list_names(type_), 2)
    ]
    for part in range(FLEETS):
        await deferToThread(check, part)
    connection.close()


def test_every_parameter_is_compared_with_a_plain_filter() -> None:
    compared = {find_parameter(name).name for name in PARAMETERS}
    # which conditions match is shown in test_target.py, summaries in test_summary.py, and what
    # follows a cursor below
    form = {
        parameter.name for parameter in PARAMETERS_BY_NAME.values() if parameter.is_of_documents
    }
    of_summaries = {"groupby", "maxage", "scope"}
    others = {"type", "cursor", "target"} | of_summaries
    assert {*PARAMETERS_BY_NAME} == compared | others | form


@pytest_twisted.ensureDeferred
async def test_pages_of_the_newest_answers_are_those_of_one_report(
    database: TestDatabase, searcher: Searcher
) -> None:
    connection = psycopg2.connect(database.dsn)
    connection.autocommit = True

    @settings(max_examples=20 * REPETITIONS)
    @given(rows=fleets, limit=choose(["1", "2", "3"]), level=choose(["low", "%"]))
    def check(rows: Fleet, limit: str, level: str) -> None:
        load_rows(connection.cursor(), rows)
        pairs = [("type", "command"), ("after", DAYS[0]), ("report", "complianceitems")]
        pairs += [("latest", "true"), ("level", level)]
        found = call_in_reactor(partial(searcher.find, [*pairs, ("limit", limit)]))
        while searcher.next_position is not None:
            following = [("limit", limit), ("cursor", str(searcher.next_position))]
            found += call_in_reactor(partial(searcher.find, [*pairs, *following]))
        assert found == find_expected(rows, pairs)[0]

    await deferToThread(check)
    connection.close()


@pytest_twisted.ensureDeferred
async def test_pages_miss_and_repeat_nothing_while_rows_are_added(
    database: TestDatabase, searcher: Searcher
) -> None:
    fleet.insert_rows(database.dsn, "actions", [fleet.make_action(1)])
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1)])
    same_time = [fleet.make_command(n, 1, 1) for n in range(100, 150)]
    fleet.insert_rows(database.dsn, "commands", same_time)
    found: list[int] = []
    search_parameters = {"type": "command", "limit": "7", "after": "2026-01-01T00:00:00Z"}
    for new in range(200, 300):
        found += await searcher.find_ids([*search_parameters.items()])
        if searcher.next_position is None:
            break
        search_parameters["cursor"] = str(searcher.next_position)
        newer = fleet.make_command(new, 1, 1, starttime="2026-01-02T00:00:00Z")
        fleet.insert_rows(database.dsn, "commands", [newer])
    assert found == list(range(149, 99, -1))


ORDERS = [
    (type_, sign + column)
    for type_, times in OWN_TIMES.items()
    for column in (times[2], "id", *(["name"] if type_ == "agent" else []))
    for sign in ("", "-")
]


@pytest.mark.parametrize(("type_", "sort"), ORDERS)
@pytest_twisted.ensureDeferred
async def test_pages_of_each_order_have_every_row_once(
    database: TestDatabase, searcher: Searcher, type_: str, sort: str
) -> None:
    names = ["b", "B", "ä", "a,b", "", "z" * 300 + "a", "z" * 300]
    column = OWN_TIMES[type_][2]
    makers: dict[str, Callable[..., JsonObject]] = {
        "agent": fleet.make_agent,
        "action": fleet.make_action,
        "command": lambda row_id, name, **times: fleet.make_command(row_id, None, None, **times),
        "investigator": lambda row_id, **other: {
            "id": row_id,
            "status": "active",
            "lastmodified": "2026-01-01T00:00:00Z",
            **other,
        },
    }
    rows = {
        n: makers[type_](n, name=names[n % 7], **{column: f"2026-01-0{1 + n % 3}T00:00:00.5Z"})
        for n in range(1, 29)
    }
    fleet.insert_rows(database.dsn, f"{type_}s", rows.values())
    pairs = [("type", type_), ("sort", sort), ("after", "2000-01-01T00:00:00Z")]
    whole = await searcher.find_ids(pairs)
    key = sort.removeprefix("-")
    assert whole == sorted(
        rows,
        key=lambda n: (rows[n][key][:256] if key != "id" else "", n),
        reverse=sort.startswith("-"),
    )
    found = await searcher.find_ids([*pairs, ("limit", "3")])
    while searcher.next_position is not None:
        cursor = ("cursor", str(searcher.next_position))
        found += await searcher.find_ids([*pairs, ("limit", "3"), cursor])
    assert found == whole


@pytest.mark.parametrize("limit", [9, 10, 11, 49, 50, 51, 150, 160])
@pytest_twisted.ensureDeferred
async def test_a_limit_may_fall_on_the_end_of_a_fetched_page(
    database: TestDatabase, searcher: Searcher, limit: int
) -> None:
    fleet.insert_rows(
        database.dsn, "commands", [fleet.make_command(n, None, None) for n in range(1, 161)]
    )
    search_parameters = {"type": "command", "limit": str(limit), "after": "2026-01-01T00:00:00Z"}
    found = await searcher.find_ids([*search_parameters.items()])
    assert found == list(range(160, 160 - limit, -1))
    assert (searcher.next_position is None) == (limit == 160)
    if searcher.next_position is not None:
        following = {"cursor": str(searcher.next_position), "limit": "1000"}
        remaining = await searcher.find_ids([*{**search_parameters, **following}.items()])
        assert found + remaining == list(range(160, 0, -1))


@pytest_twisted.ensureDeferred
async def test_an_odd_environment_hides_no_other_agent(
    database: TestDatabase, searcher: Searcher
) -> None:
    odd = [r'{"os":"x","a":"\u0000"}', r'{"os":"x","a":"\ud800"}', "[1]", "7", '"os"', "null", None]
    odd.append(r'{"os":"\u0000"}')
    rows = [fleet.make_agent(n, environment=text) for n, text in enumerate(odd, 1)]
    fleet.insert_rows(database.dsn, "agents", [*rows, fleet.make_agent(9, environment={"os": "x"})])
    for name in ("os", "environment.os"):
        pairs = [("type", "agent"), (name, "x"), ("after", "2026-01-01T00:00:00Z")]
        assert await searcher.find_ids(pairs) == [9, 2, 1]


@pytest_twisted.ensureDeferred
async def test_an_unreadable_threat_hides_no_other_action(
    database: TestDatabase, searcher: Searcher
) -> None:
    odd = [r'{"family":"x","a":"\u0000"}', r'{"family":"x","a":"\ud800"}', r'{"family":"\udc00"}']
    odd.append(r'{"family":"x","ref":"\\ud83d\udc00"}')
    rows = [fleet.make_action(n, threat=text) for n, text in enumerate(odd, 1)]
    fleet.insert_rows(
        database.dsn, "actions", [*rows, fleet.make_action(9, threat={"family": "x"})]
    )
    search_parameters = {"type": "action", "threatfamily": "x", "after": "2026-01-01T00:00:00Z"}
    assert await searcher.find_ids([*search_parameters.items()]) == [9, 4, 2, 1]


@pytest_twisted.ensureDeferred
async def test_a_search_closed_while_it_fetches_a_page_logs_no_failure(
    database: TestDatabase, searcher: Searcher
) -> None:
    fleet.insert_rows(
        database.dsn, "commands", [fleet.make_command(n, None, None) for n in range(1, 61)]
    )
    search = parse_search([("type", "command"), ("after", "2026-01-01T00:00:00Z")], NOW)
    with record_log() as log:
        for _ in range(20):
            async with searcher.database.snapshot("test") as snapshot:
                results = open_results(snapshot, search)
                await results.open()
                pages = results.encode_pages()
                await anext(pages)
                await pages.aclose()
            gc.collect()
    assert not log.failures


@pytest.mark.parametrize("max_items", [None, 500])
@pytest_twisted.ensureDeferred
async def test_others_have_their_turn_between_two_large_rows_of_a_page(
    database: TestDatabase,
    searcher: Searcher,
    monkeypatch: pytest.MonkeyPatch,
    max_items: int | None,
) -> None:
    fleet.insert_rows(database.dsn, "actions", [fleet.make_action(1)])
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1)])
    results = fleet.make_results(*[fleet.make_hit()] * 1_500)
    assert len(json.dumps(results)) > PART_BYTES
    commands = [fleet.make_command(n, 1, 1, results=results) for n in range(1, 61)]
    fleet.insert_rows(database.dsn, "commands", commands)
    turns: list[float] = []

    def take_turn(clock: IReactorTime, delay: float) -> Deferred[None]:
        turns.append(delay)
        return deferLater(clock, delay)

    monkeypatch.setattr("mig.reactor.SLICE_SECONDS", 0)
    monkeypatch.setattr("mig.reactor.deferLater", take_turn)
    pairs = [("type", "command"), ("report", "complianceitems"), ("check", "of no item")]
    search = parse_search([*pairs, ("after", "2026-01-01T00:00:00Z")], NOW)
    limit = None if max_items is None else ItemLimit(search.order, max_items, b",\n", None)
    async with searcher.database.snapshot("test") as snapshot:
        found = open_results(snapshot, search, limit)
        await found.open()
        assert not b"".join([page async for page in found.encode_pages()])
    assert found.row_count == len(turns) == 60
