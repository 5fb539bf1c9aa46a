"""A search finds what a plain filter in Python finds, for any fleet and parameters."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable
from functools import partial

import psycopg2
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from psycopg2 import extensions
from twisted.internet.threads import deferToThread
from whenever import Instant

from mig.database.database import Database, Snapshot
from mig.formats.collection_json import CollectionJson
from mig.hypermedia.urls import Urls
from mig.limits import Limits
from mig.model.action import FINISHED_COMMAND_STATUSES
from mig.search.order import PagePosition
from mig.search.records import make_row_encoder
from mig.search.results import SearchResults
from mig.search.search import Search, parse_search
from tests.support import fleet
from tests.support.json_types import Json, JsonObject
from tests.support.postgres import TestDatabase
from tests.support.reactor import call_in_reactor, reactor, record_log

TABLES = ("commands", "signatures", "actions", "agents", "investigators")
NOW = Instant.from_utc(2026, 1, 10)
DAYS = st.integers(1, 9).map(lambda day: f"2026-01-{day:02d}T00:00:00Z")
AGO = {"-24h": 9, "-1d": 9, "-1d48h": 7, "-6d1440m": 3, "-1w1d": 2}
"""Relative times, with the day of January that they are at NOW."""
TIMES = DAYS | st.sampled_from(sorted(AGO))
NAMES = st.sampled_from(["Web%1", "web_2", "db\\3", "ÄÖ-x", "plain"])
PATTERNS = st.sampled_from(["web%", "%1", "web\\_2", "db\\\\3", "äö%", "_lain", "%", "none"])
IDS = st.integers(1, 4)

ENVIRONMENTS = st.sampled_from(
    [
        None,
        {},
        {"os": "linux", "isproxied": True, "n": 1.0},
        {"os": "Darwin", "isproxied": False, "n": 10, "isproxied.x": None},
        {"os": None, "n": "1.0", "a.b": "\ud800é", "isproxied": "True"},
        ["os", "linux"],
    ]
)
agents = st.fixed_dictionaries(
    {"name": NAMES, "version": NAMES, "starttime": DAYS, "heartbeattime": DAYS}
    | {"os": st.sampled_from([None, "", "windows", "linux"])}
    | {"environment": ENVIRONMENTS, "tags": ENVIRONMENTS}
    | {"status": st.sampled_from(["heartbeating", "inactive"])}
)
actions = st.fixed_dictionaries(
    {"name": NAMES, "validfrom": DAYS, "expireafter": DAYS}
    | {"status": st.sampled_from(["init", "inflight", "completed"])}
    | {"threat": st.sampled_from([{"family": "compliance"}, {"family": "Backdoor"}, {}, None])}
    | {"signers": st.sets(IDS, max_size=2)}
)
investigators = st.fixed_dictionaries(
    {"name": NAMES, "createdat": DAYS, "lastmodified": DAYS}
    | {"status": st.sampled_from(["active", "disabled"])}
)
commands = st.fixed_dictionaries(
    {"actionid": st.none() | IDS, "agentid": st.none() | IDS}
    | {"starttime": DAYS, "finishtime": DAYS}
    | {"status": st.sampled_from(["sent", "prepared", *FINISHED_COMMAND_STATUSES])}
    | {"results": st.lists(st.booleans().map(lambda f: {"foundanything": f}), max_size=2)}
)
fleets = st.fixed_dictionaries(
    {
        "agents": st.lists(agents, min_size=4, max_size=4),
        "actions": st.lists(actions, min_size=4, max_size=4),
        "investigators": st.lists(investigators, min_size=4, max_size=4),
        "commands": st.lists(commands, max_size=8),
    }
)
PARAMETERS = {
    "actionid": IDS.map(str),
    "actionname": PATTERNS,
    "after": TIMES,
    "agentid": IDS.map(str),
    "agentname": PATTERNS,
    "agentversion": PATTERNS,
    "before": TIMES,
    "commandid": IDS.map(str),
    "environment.isproxied": st.sampled_from(["true", "FALSE", "%ru%", "%"]),
    "environment.n": st.sampled_from(["1.0", "1%", "10"]),
    "environment.os": st.sampled_from(["linux", "dar%", "%"]),
    "finishedafter": TIMES,
    "finishedbefore": TIMES,
    "foundanything": st.sampled_from(["true", "false"]),
    "investigatorid": IDS.map(str),
    "investigatorname": PATTERNS,
    "limit": st.integers(1, 5).map(str),
    "offset": st.integers(0, 2).map(str),
    "os": st.sampled_from(["LINUX", "%win%", "d_rwin", "%"]),
    "tag.a.b": st.sampled_from(["_é", "%É", "é"]),
    "tag.isproxied.x": st.sampled_from(["%x", "_%"]),
    "tag.n": st.sampled_from(["1.0", "1%", "10"]),
    "sort": st.sampled_from(["", "-"]).flatmap(
        lambda sign: st.sampled_from(["id", "name", "time"]).map(lambda column: sign + column)
    ),
    "status": st.sampled_from(["done", "sent", "%e%", "SUCCESS", "active"]),
    "threatfamily": st.sampled_from(["compliance", "back%", "BACKDOOR"]),
    "total": st.sampled_from(["true", "false"]),
}
ONLY = {
    "finishedafter": {"command"},
    "finishedbefore": {"command"},
    "foundanything": {"command"},
    "threatfamily": {"command", "action"},
    **{name: {"agent", "command"} for name in PARAMETERS if "." in name or name == "os"},
}
OWN_TIMES = {
    "action": ("validfrom", "expireafter", "validfrom"),
    "command": ("starttime", "starttime", "starttime"),
    "agent": ("heartbeattime", "heartbeattime", "starttime"),
    "investigator": ("createdat", "lastmodified", "createdat"),
}
"""The times that after and before compare, and the one that orders the records."""


REPEATABLE = {
    *("actionname", "agentname", "agentversion", "investigatorname", "os", "status"),
    "threatfamily",
}
Pairs = list[tuple[str, str]]


@st.composite
def draw_search(draw: Callable[[Json], Json]) -> Pairs:
    type_ = draw(st.sampled_from(sorted(OWN_TIMES)))
    fitting = {n: s for n, s in PARAMETERS.items() if type_ in ONLY.get(n, {type_})}
    names = draw(st.sets(st.sampled_from(sorted(fitting)), max_size=4))
    pairs = [("type", type_)]
    for name in sorted({"after", *names}):
        pairs += draw(draw_values(name)) if name in names else [("after", "2026-01-01T00:00:00Z")]
    return [(name, name_column(type_, text) if name == "sort" else text) for name, text in pairs]


def name_column(type_: str, order: str) -> str:
    """Return an order of a type: only agents can be sorted by name."""
    column = "id" if "name" in order and type_ != "agent" else order.lstrip("-")
    return order[: order.count("-")] + {"time": OWN_TIMES[type_][2]}.get(column, column)


@st.composite
def draw_values(draw: Callable[[Json], Json], name: str) -> Pairs:
    """Draw a parameter, with several values if it may have them."""
    most = 3 if name in REPEATABLE else 1
    return [(name, value) for value in draw(st.lists(PARAMETERS[name], min_size=1, max_size=most))]


def matches_ilike(text: str | None, pattern: str) -> bool:
    """Whether *text* matches, according to the documentation of PostgreSQL's ILIKE."""
    if text is None:
        return False
    parts, escaped = [], False
    for character in pattern:
        if not escaped and character == "\\":
            escaped = True
            continue
        special = {"%": ".*", "_": "."}.get(character) if not escaped else None
        parts.append(special or re.escape(character))
        escaped = False
    return re.fullmatch("".join(parts), text, re.IGNORECASE | re.DOTALL) is not None


def matches_status(type_: str, status: str, pattern: str) -> bool:
    if type_ == "command" and pattern == "done":
        return status in FINISHED_COMMAND_STATUSES
    if type_ == "action" and pattern == "done":
        return status == "completed"
    if type_ == "action" and pattern == "sent":
        return status in ("inflight", "completed")
    return matches_ilike(status, pattern)


Fleet = dict[str, list[JsonObject]]
Record = JsonObject | None
Combination = tuple[Record, Record, Record, Record]
"""A command, its action, its agent and a signer of the action, where there are any."""


def read_time(text: str) -> str:
    return f"2026-01-{AGO[text]:02d}T00:00:00Z" if text in AGO else text


def get_member(values: Json, key: str) -> str | None:
    """Return a member of a JSON object as text: of a value that is not a string, its JSON text."""
    value = values.get(key) if isinstance(values, dict) else None
    if value is None or isinstance(value, str):
        return value and value.replace("\ud800", "\ufffd")
    return json.dumps(value)


def find_os(agent: JsonObject) -> str | None:
    return agent["os"] or get_member(agent["environment"], "os")


def matches_agent(agent: Record, name: str, pattern: str) -> bool:
    """Whether an agent matches ``os``, ``environment.NAME`` or ``tag.NAME``."""
    if pattern == "%" or agent is None:
        return pattern == "%"
    family, _, key = name.partition(".")
    column = {"environment": "environment", "tag": "tags"}.get(family)
    text = get_member(agent[column], key) if column else find_os(agent)
    return matches_ilike(text, pattern)


def find_expected(rows: Fleet, pairs: Pairs) -> tuple[list[int], int | None]:
    """Return the ids that a search must find, by joining everything and filtering.

    And the total, if the search asks for it.
    """
    search_parameters = dict(pairs)
    type_ = search_parameters["type"]
    by_id = {table: {row["id"]: row for row in rows[table]} for table in rows}
    found = []
    for own in rows[f"{type_}s"]:
        candidates = [own] if type_ == "command" else rows["commands"]
        combinations: list[Combination] = []
        for command in [*candidates, None] if type_ != "command" else candidates:
            action = by_id["actions"].get(command["actionid"]) if command else None
            agent = by_id["agents"].get(command["agentid"]) if command else None
            if type_ == "action":
                if command and action is not own:
                    continue
                action = own
            if type_ == "agent":
                if command and agent is not own:
                    continue
                agent = own
            if type_ == "investigator" and command is None:
                combinations += [
                    (None, a, None, own) for a in rows["actions"] if own["id"] in a["signers"]
                ] + [(None, None, None, own)]
                continue
            for signer in [*sorted(action["signers"] if action else ()), None]:
                investigator = by_id["investigators"].get(signer)
                if type_ == "investigator" and investigator is not own:
                    continue
                combinations.append((command, action, agent, investigator))
        if any(matches_search(*combination, own, pairs) for combination in combinations):
            found.append(own)
    sort = search_parameters.get("sort", f"-{OWN_TIMES[type_][2]}")
    column = sort.removeprefix("-")
    found.sort(key=lambda row: (row[column], row["id"]), reverse=sort.startswith("-"))
    begin = int(search_parameters.get("offset", 0))
    end = begin + int(search_parameters.get("limit", 10_000))
    total = len(found) if search_parameters.get("total") == "true" else None
    return [row["id"] for row in found[begin:end]], total


def is_finished(command: Json) -> bool:
    return command["status"] in FINISHED_COMMAND_STATUSES


def matches_search(
    command: Json, action: Json, agent: Json, investigator: Json, own: Json, pairs: Pairs
) -> bool:
    type_ = dict(pairs)["type"]
    after, before, _ = OWN_TIMES[type_]
    tests: dict[str, Callable[[str], object]] = {
        "actionid": lambda v: action and action["id"] == int(v),
        "actionname": lambda v: v == "%" or (action and matches_ilike(action["name"], v)),
        "agentid": lambda v: agent and agent["id"] == int(v),
        "agentname": lambda v: v == "%" or (agent and matches_ilike(agent["name"], v)),
        "agentversion": lambda v: v == "%" or (agent and matches_ilike(agent["version"], v)),
        "finishedafter": lambda v: is_finished(command) and command["finishtime"] >= read_time(v),
        "finishedbefore": lambda v: is_finished(command) and command["finishtime"] <= read_time(v),
        "commandid": lambda v: command and command["id"] == int(v),
        "investigatorid": lambda v: investigator and investigator["id"] == int(v),
        "investigatorname": lambda v: (
            v == "%" or (investigator and matches_ilike(investigator["name"], v))
        ),
        "threatfamily": lambda v: (
            action and matches_ilike((action["threat"] or {}).get("family"), v)
        ),
        "foundanything": lambda v: any(
            r["foundanything"] is (v == "true") for r in command["results"]
        ),
        "status": lambda v: matches_status(type_, own["status"], v),
        "after": lambda v: own[after] >= read_time(v),
        "before": lambda v: own[before] <= read_time(v),
        **{
            name: partial(matches_agent, agent, name)
            for name in PARAMETERS
            if "." in name or name == "os"
        },
    }
    return all(
        any(tests[name](value) for other, value in pairs if other == name)
        for name, _ in pairs
        if name in tests
    )


def load_rows(cursor: extensions.cursor, rows: Fleet) -> None:
    cursor.execute(f"truncate {', '.join(TABLES)} cascade")
    makers: dict[str, Callable[..., JsonObject]] = {
        "agents": fleet.make_agent,
        "actions": fleet.make_action,
        "investigators": lambda row_id, **other: {"id": row_id, **other},
        "commands": fleet.make_command,
    }
    for table, make in makers.items():
        for row in rows[table]:
            other = {k: v for k, v in row.items() if k not in ("id", "signers")}
            full = make(row["id"], **other)
            values = [json.dumps(v) if isinstance(v, dict | list) else v for v in full.values()]
            places = ", ".join(["%s"] * len(values))
            cursor.execute(f"insert into {table} ({', '.join(full)}) values ({places})", values)
    for action in rows["actions"]:
        for signer in sorted(action["signers"]):
            cursor.execute("insert into signatures values (%s, %s, 's')", (action["id"], signer))


def open_results(snapshot: Snapshot, search: Search) -> SearchResults[Json]:
    urls = Urls("http://x/api/v1")
    encoder = make_row_encoder(search, CollectionJson(urls), urls, Limits())
    return SearchResults(snapshot, search, encoder, lambda: 2_000_000)


class Searcher:
    """A search of a database as the handler runs it, without HTTP."""

    def __init__(self, dsn: str) -> None:
        self.database = Database(
            reactor, dsn, limits=Limits(query_connections=1, stream_connections=1)
        )
        self.next_position: PagePosition | None = None
        self.total: int | None = None

    async def find_ids(self, pairs: Pairs) -> list[int]:
        search = parse_search(pairs, NOW)
        async with self.database.snapshot("test") as snapshot:
            results = open_results(snapshot, search)
            await results.open()
            items = b"".join([page async for page in results.encode_pages()])
        self.next_position, self.total = results.next_position, results.total
        data = [item["data"][0] for item in json.loads(b"[%b]" % items)]
        assert {d["name"] for d in data} <= {search.type}
        return [d["value"]["id"] for d in data]


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
        numbered = {t: [{"id": n, **row} for n, row in enumerate(rows[t], 1)] for t in rows}
        load_rows(connection.cursor(), numbered)
        for pairs in asked:
            found = call_in_reactor(partial(searcher.find_ids, pairs))
            assert (found, searcher.total) == find_expected(numbered, pairs), pairs

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
