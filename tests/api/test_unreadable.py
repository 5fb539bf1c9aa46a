"""A report or a search never omits a record silently, however unusual its row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import pytest_twisted

from mig.limits import Limits
from tests.support import fleet
from tests.support.api import Api
from tests.support.json_types import Json, JsonObject
from tests.support.postgres import TestDatabase

REPORT = f"/search?type=command&report=complianceitems&limit=100000&{fleet.ANY_TIME}"
GOOD = fleet.make_results(fleet.make_hit())
ODD: dict[int, JsonObject] = {
    101: {"results": r'[{"elements":{"a":[{"file":"\u0000"}]}}]'},
    102: {"results": r'[{"elements":{"a":[{"file":"\ud800"}]}}]'},
    103: {"results": '{"no":"array"}'},
    104: {"results": GOOD, "finishtime": "infinity"},
    105: {"results": GOOD, "finishtime": "-infinity"},
    106: {"results": GOOD, "finishtime": "10000-01-01T00:00:00Z"},
    107: {"results": '[{"elements":1e400}]'},
    108: {"results": "[" * 2_000 + "]" * 2_000},
}


def load_commands(database: TestDatabase, odd: dict[int, JsonObject]) -> None:
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1)])
    fleet.insert_rows(database.dsn, "actions", [fleet.make_action(1)])
    rows = [fleet.make_command(n, 1, 1, results=GOOD) for n in (99, 110)]
    rows += [fleet.make_command(n, 1, 1, **other) for n, other in odd.items()]
    fleet.insert_rows(database.dsn, "commands", rows)


def list_names(items: list[Json]) -> dict[int, str]:
    return {int(i["href"].rpartition("=")[2]): i["data"][0]["name"] for i in items}


@pytest_twisted.ensureDeferred
async def test_unreadable_commands_are_listed_in_the_report(
    api: Api, database: TestDatabase
) -> None:
    load_commands(database, ODD)
    items = (await api.get_collection(REPORT))["items"]
    good = {99: "compliance item", 110: "compliance item"}
    assert list_names(items) == good | dict.fromkeys(ODD, "unreadable command")
    for item in items:
        value = item["data"][0]["value"]
        assert value["link"] == item["href"]
        assert value["target"] == "agents.name='agent1.example.net'"
        assert value.get("reason", "-")


@pytest_twisted.ensureDeferred
async def test_year_one_is_a_time_like_any_other(api: Api, database: TestDatabase) -> None:
    load_commands(database, {103: {"results": GOOD, "finishtime": "0001-01-01T00:00:00Z"}})
    items = (await api.get_collection(REPORT))["items"]
    [value] = [i["data"][0]["value"] for i in items if i["href"].endswith("=103")]
    assert value["timestamp"] == value["utctimestamp"] == "0001-01-01T00:00:00Z"


@pytest_twisted.ensureDeferred
async def test_unreadable_records_are_listed_in_searches(api: Api, database: TestDatabase) -> None:
    parseable = {n: other for n, other in ODD.items() if n != 108}  # served as stored, too deep
    load_commands(database, parseable | {111: {"starttime": "infinity"}})
    fleet.insert_rows(database.dsn, "actions", [fleet.make_action(2, validfrom="infinity")])
    found = list_names(
        (await api.get_collection(f"/search?type=command&{fleet.ANY_TIME}"))["items"][:-1]
    )
    unreadable = {104, 105, 106, 111}
    readable = {99, 110, 101, 102, 103, 107}
    expected = dict.fromkeys(readable, "command") | dict.fromkeys(unreadable, "unreadable command")
    assert found == expected
    actions = (await api.get_collection(f"/search?type=action&{fleet.ANY_TIME}"))["items"][:-1]
    assert [i["data"][0]["name"] for i in actions] == ["unreadable action", "action"]


@pytest_twisted.ensureDeferred
async def test_large_results_are_served_and_too_large_ones_are_named(
    start_api: Callable[[Limits], Api],
    database: TestDatabase,
) -> None:
    large = fleet.make_results(*[fleet.make_hit(f"/{n:099d}") for n in range(4_000)])
    huge = fleet.make_results(fleet.make_hit("/" + "x" * 3_000_000))
    api = start_api(Limits(result_bytes=2_000_000))
    load_commands(
        database, {101: {"results": large}, 102: {"results": huge}, 103: {"results": large}}
    )
    items = (await api.get_collection(REPORT))["items"]
    assert len(items) == 2 + 2 * 4_000 + 1
    [value] = [i["data"][0]["value"] for i in items if "unreadable" in i["data"][0]["name"]]
    assert value["link"].endswith("=102")
    assert "bytes, more than 2000000" in value["reason"]
    [one] = (await api.get_collection("/command?commandid=101"))["items"]
    assert one["data"][0]["value"]["results"] == large
    under_a_mebibyte = await start_api(Limits(large_documents=0)).get("/command?commandid=101")
    assert under_a_mebibyte.code == 200
    none_at_once = start_api(Limits(whole_answer_bytes=100_000, large_documents=0))
    refused = await none_at_once.get("/command?commandid=101")
    assert refused.code == 503 and refused.headers.hasHeader("retry-after")
    one_at_once = start_api(Limits(whole_answer_bytes=100_000, large_documents=1))
    for _ in range(2):
        [again] = (await one_at_once.get_collection("/command?commandid=101"))["items"]
        assert again["data"] == one["data"]
    [none] = (await api.get_collection("/command?commandid=102"))["items"]
    assert none["data"][0]["name"] == "unreadable command"
    found = (await api.get_collection(f"/search?type=command&{fleet.ANY_TIME}"))["items"][:-1]
    assert list_names(found)[102] == "unreadable command" and list_names(found)[103] == "command"


@pytest_twisted.ensureDeferred
async def test_a_result_of_100_megabytes_is_named_without_being_loaded(
    api: Api, database: TestDatabase
) -> None:
    load_commands(database, {})
    database.execute(
        "insert into commands values (101, 1, 1, 'success',"
        " ('[\"' || repeat('x', 100000000) || '\"]')::json, now(), now())"
    )
    items = (await api.get_collection(REPORT))["items"]
    assert list_names(items)[101] == "unreadable command"
    assert "100000004 bytes, more than" in items[0]["data"][0]["value"]["reason"]


@pytest_twisted.ensureDeferred
async def test_an_unreadable_record_has_a_document_that_says_so(
    api: Api, database: TestDatabase
) -> None:
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1, destructiontime="infinity")])
    fleet.insert_rows(database.dsn, "actions", [fleet.make_action(1, expireafter="infinity")])
    for noun in ("agent", "action"):
        [item] = (await api.get_collection(f"/{noun}?{noun}id=1"))["items"]
        assert item["data"][0]["name"] == f"unreadable {noun}"
        assert item["href"] == f"{api.base}/{noun}?{noun}id=1"


@pytest_twisted.ensureDeferred
async def test_signatures_that_are_not_json_break_no_document(
    api: Api, database: TestDatabase
) -> None:
    database.execute("alter table actions alter pgpsignatures type varchar(4096)")
    fleet.insert_rows(database.dsn, "actions", [fleet.make_action(1, pgpsignatures="iQEcBAAB")])
    [item] = (await api.get_collection("/action?actionid=1"))["items"]
    assert item["data"][0]["name"] == "unreadable action"
    found = (await api.get_collection(f"/search?{fleet.ANY_TIME}"))["items"]
    assert found[0]["data"][0]["name"] == "unreadable action"


@pytest_twisted.ensureDeferred
async def test_an_id_with_a_fraction_is_listed_as_unreadable(
    api: Api, database: TestDatabase
) -> None:
    """Zeros after the point do not count: such rows are read, and linked, as whole numbers."""
    load_commands(database, {})
    rows = [
        fleet.make_command("101.00000000000000000", 1, 1, results=GOOD),
        fleet.make_command("102.50000000000000000", 1, 1, results=GOOD),
    ]
    fleet.insert_rows(database.dsn, "commands", rows)
    for path in (REPORT, f"/search?type=command&{fleet.ANY_TIME}"):
        items = (await api.get_collection(path))["items"]
        names = {
            item["href"].rpartition("=")[2]: item["data"][0]["name"]
            for item in items
            if "commandid=" in item["href"]
        }
        assert names.pop("102.50000000000000000") == "unreadable command"
        assert names.keys() == {"99", "101", "110"}
        assert not any("unreadable" in name for name in names.values())


@pytest_twisted.ensureDeferred
async def test_next_links_lead_past_unusual_ids(api: Api, database: TestDatabase) -> None:
    ids: list[int | str] = ["NaN", "1e30", "-5", "1.5", "7"]
    fleet.insert_rows(
        database.dsn, "commands", [fleet.make_command(row_id, None, None) for row_id in ids]
    )
    href, pages = f"/search?type=command&limit=1&{fleet.ANY_TIME}", 0
    while href:
        collection = await api.get_collection(href)
        href = next((link["href"] for link in collection.get("links", ())), "")
        pages += 1
    assert pages == len(ids)


@pytest.mark.parametrize(
    "time",
    ["2026-13-45 00:00:00", "999999-01-01 00:00:00", "0000-01-01 00:00:00", "2026-01-01 25:61:61"],
)
@pytest_twisted.ensureDeferred
async def test_impossible_cursors_are_refused(api: Api, time: str) -> None:
    error = (await api.get_collection(f"/search?cursor={time.replace(' ', '%20')}%2B00,1", 400))[
        "error"
    ]
    assert error["message"] == "cursor must be taken from the next link of an earlier page"


@pytest_twisted.ensureDeferred
async def test_the_end_of_the_year_9999_is_accepted(api: Api) -> None:
    await api.get_collection("/search?after=9999-12-31T23:59:59.9999999Z")
