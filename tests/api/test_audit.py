"""The audit is read page by page, by those who may change investigators."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_twisted

from mig.model.permissions import ALL_PERMISSIONS, Permission
from tests.support.api import Api
from tests.support.audit import CAROL, FixedCaller
from tests.support.formats import read_lines, read_rows
from tests.support.json_types import Json, JsonObject
from tests.support.postgres import TestDatabase

INSERT = """
insert into audit (at, operation, caller, callername, object, outcome)
select {at}, n::text, {caller}, 'Carol', 'action', 'done' from generate_series({first}, {last}) n
"""


def insert_rows(
    database: TestDatabase, first: int, last: int, at: str = "now()", caller: str = "7"
) -> None:
    database.execute(INSERT.format(at=at, caller=caller, first=first, last=last))


@pytest.fixture
def caller() -> FixedCaller:
    return FixedCaller()


@pytest_twisted.async_yield_fixture
async def service(database: TestDatabase, caller: FixedCaller) -> AsyncIterator[Api]:
    running = Api(database.dsn, handoff="none", authenticate=caller)
    yield running
    await running.stop()


def list_entries(collection: Json) -> list[JsonObject]:
    data = [item["data"] for item in collection["items"]]
    assert all([entry["name"] for entry in each] == ["audit"] for each in data)
    return [each[0]["value"] for each in data]


def find_next(collection: Json) -> str:
    return next((link["href"] for link in collection.get("links", ())), "")


async def list_operations(service: Api, path: str) -> list[int]:
    return [int(e["operation"]) for e in list_entries(await service.get_collection(path))]


@pytest_twisted.ensureDeferred
async def test_an_entry_is_served_as_it_is_stored(service: Api, database: TestDatabase) -> None:
    """Its JSON passes to the character, and its address is that of a document with it alone."""
    database.execute(
        "insert into audit values ('2026-01-02T03:04:05.678901+01:00', 12, '9007199254740991', 7,"
        " 'Zoë', 3, '2001:db8::1', 'POST', '/investigator/update/', 'investigator',"
        " 18446744073709551615, '{\"status\" : \"active\", \"n\": 1.0}', '{}', 'done', 2)"
    )
    answer = await service.get("/audit?after=2026-01-01T00:00:00Z")
    assert b'"before":{"status" : "active", "n": 1.0},"after":{}' in answer.body
    [item] = answer.document["items"]
    assert item["href"] == f"{service.base}/audit?auditid=12"
    [entry] = list_entries(answer.document)
    assert entry == {
        "id": 12,
        "at": "2026-01-02T02:04:05.678901Z",
        "operation": "9007199254740991",
        "caller": 7,
        "callername": "Zoë",
        "key": 3,
        "client": "2001:db8::1",
        "method": "POST",
        "path": "/investigator/update/",
        "object": "investigator",
        "objectid": 18446744073709551615,
        "before": {"status": "active", "n": 1.0},
        "after": {},
        "outcome": "done",
        "count": 2,
    }
    single = await service.get_collection("/audit?auditid=12")
    assert list_entries(single) == [entry]
    error = (await service.get_collection("/audit?auditid=13", 404))["error"]
    assert error["message"] == "there is no audit 13"


@pytest_twisted.ensureDeferred
async def test_the_audit_has_the_same_entries_in_every_format(
    service: Api, database: TestDatabase
) -> None:
    """No page of them is cut in silence."""
    insert_rows(database, 1, 8)
    expected = list_entries(await service.get_collection("/audit"))
    rows = await service.get("/audit?format=csv&raw=true")
    assert [int(row["id"]) for row in read_rows(rows.body)] == [each["id"] for each in expected]
    assert rows.get_header("x-limit") == "100"
    lines, href = [], "/audit?format=ndjson&limit=5"
    while href:
        *found, last = read_lines((await service.get(href)).body)
        href = last["end"]["next"] if "end" in last else ""
        lines += found if href else [*found, last]
    assert lines == expected
    refused = (await service.get_collection("/audit?ids=text", 400))["error"]["message"]
    assert "unknown parameter 'ids'" in refused


@pytest_twisted.ensureDeferred
async def test_next_links_lead_through_every_entry_exactly_once(
    service: Api, database: TestDatabase
) -> None:
    """Also when entries have the same time, and while new ones arrive."""
    insert_rows(database, 1, 20)
    insert_rows(database, 21, 60, at="now() - n / 3 * interval '1 s'")
    for limit, pages in ((7, 9), (59, 2), (60, 1), (1000, 1)):
        href = f"/audit?limit={limit}&investigatorid=7"
        found: list[JsonObject] = []
        count = 0
        while href:
            collection = await service.get_collection(href)
            found += list_entries(collection)
            href = find_next(collection)
            count += 1
            insert_rows(database, 61, 61, at="clock_timestamp()", caller="8")
        assert count == pages
        assert sorted(int(entry["operation"]) for entry in found) == list(range(1, 61))
        places = [(entry["at"], entry["id"]) for entry in found]
        assert places == sorted(places, reverse=True)


@pytest_twisted.ensureDeferred
async def test_the_default_is_the_last_day_and_100_entries(
    service: Api, database: TestDatabase
) -> None:
    """A next link keeps the window of the first page."""
    insert_rows(database, 1, 1, at="now() - interval '24 h 1 min'")
    insert_rows(database, 2, 2, at="now() - interval '23 h 59 min'")
    insert_rows(database, 3, 102)
    collection = await service.get_collection("/audit")
    assert len(list_entries(collection)) == 100
    assert "after=" in find_next(collection) and "limit=100" in find_next(collection)
    assert await list_operations(service, find_next(collection)) == [2]


@pytest_twisted.ensureDeferred
async def test_entries_are_found_by_time_and_investigator(
    service: Api, database: TestDatabase
) -> None:
    for n in range(1, 7):
        caller = ("null", "7", "8")[n % 3]
        insert_rows(database, n, n, at=f"'2020-01-01T00:00:0{n}.5Z'", caller=caller)
    since = "/audit?after=2020-01-01T00:00:00Z"
    assert await list_operations(service, since) == [6, 5, 4, 3, 2, 1]
    assert await list_operations(service, f"{since}&investigatorid=7") == [4, 1]
    assert await list_operations(service, f"{since}&before=2020-01-01T00:00:04.5Z") == [4, 3, 2, 1]
    assert await list_operations(service, "/audit?after=2020-01-01T00:00:04.500001Z") == [6, 5]
    assert await list_operations(service, f"{since}&investigatorid=9&limit=&cursor=") == []


BAD = {
    "limit=0": "limit must be a whole number from 1 to 1000, not '0'",
    "limit=1001": "limit must be a whole number from 1 to 1000, not '1001'",
    "after=yesterday": "after must be an RFC 3339 date",
    "before=1": "before must be an RFC 3339 date",
    "investigatorid=-1": "investigatorid must be a whole number",
    "auditid=9223372036854775808": "auditid must be a whole number from 1 to 9223372036854775807",
    "cursor=x": "cursor must be taken from the next link",
    "cursor=2026-02-31 00:00:00%2B00,1": "cursor must be taken from the next link",
    "cursor=2026-01-31 00:00:00%2B00,NaN": "cursor must be taken from the next link",
    "cursor=2026-01-31 00:00:00%2B00,99999999999999999999": "cursor must be taken from the next",
    "cursor=2026-01-31 00:00:00%2B00,1.5": "cursor must be taken from the next link",
    "limit=1&limit=2": "limit is given twice",
    "investigator=1": "unknown parameter 'investigator'; did you mean investigatorid?",
}


@pytest.mark.parametrize("query", BAD)
@pytest_twisted.ensureDeferred
async def test_a_bad_parameter_is_refused_by_its_name(service: Api, query: str) -> None:
    error = (await service.get_collection(f"/audit?{query}", 400))["error"]
    assert BAD[query] in error["message"]


@pytest_twisted.ensureDeferred
async def test_only_who_may_change_investigators_reads_the_audit(
    service: Api, caller: FixedCaller
) -> None:
    others = ALL_PERMISSIONS & ~Permission.INVESTIGATOR_UPDATE
    caller.caller = replace(CAROL, permissions=others)
    error = (await service.get_collection("/audit", 403))["error"]
    assert error["message"] == "this request needs the permission investigator_update"
    caller.caller = replace(CAROL, permissions=Permission.INVESTIGATOR_UPDATE)
    assert list_entries(await service.get_collection("/audit")) == []


@pytest_twisted.ensureDeferred
async def test_an_unreadable_entry_is_not_left_out(service: Api, database: TestDatabase) -> None:
    insert_rows(database, 1, 2)
    database.execute("update audit set at = 'infinity' where operation = '1'")
    items = (await service.get_collection("/audit"))["items"]
    assert [item["data"][0]["name"] for item in items] == ["unreadable audit", "audit"]
    page = await service.get_collection("/audit?limit=1")
    assert await list_operations(service, find_next(page)) == [2]


@pytest_twisted.ensureDeferred
async def test_the_largest_page_is_served_whole(service: Api, database: TestDatabase) -> None:
    """Each entry has the longest values, so the document is sent in pieces."""
    database.execute(
        "insert into audit (at, operation, callername, object, after, outcome)"
        " select now(), n::text, repeat('é', 1024), 'action',"
        " json_build_object('name', repeat('\\u0001', 2048)), 'done'"
        " from generate_series(1, 1000) n"
    )
    answer = await service.get("/audit?limit=1000")
    assert len(json.loads(answer.body)["collection"]["items"]) == 1000
    assert len(answer.body) > 5_000_000
