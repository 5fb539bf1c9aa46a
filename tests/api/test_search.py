"""What a client of searches sees over HTTP: its links, headers, and parameters."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

import pytest
import pytest_twisted

from mig.limits import Limits
from tests.support import fleet
from tests.support.api import Api
from tests.support.json_types import JsonObject
from tests.support.postgres import TestDatabase

OF_THAT_TIME = "after=2025-12-01T00:00:00Z"


def find_next_link(collection: JsonObject) -> str:
    """Return the address of the next page, or nothing on the last one."""
    hrefs = [link["href"] for link in collection.get("links", ()) if link["rel"] == "next"]
    return hrefs[0] if hrefs else ""


def list_ids(collection: JsonObject) -> list[int]:
    """Return the ids of all records in a collection."""
    values = [item["data"][0]["value"] for item in collection["items"]]
    return [value["id"] for value in values if "id" in value]


async def follow_next_links(api: Api, href: str) -> list[list[int]]:
    """Return the ids on each page."""
    pages = []
    while href:
        collection = await api.get_collection(href)
        pages.append(list_ids(collection))
        href = find_next_link(collection)
    return pages


@pytest_twisted.ensureDeferred
async def test_a_next_link_keeps_every_value_of_a_filter(api: Api, database: TestDatabase) -> None:
    agents = [fleet.make_agent(n, name="abcd"[n % 4]) for n in range(1, 9)]
    fleet.insert_rows(database.dsn, "agents", agents)
    href = f"/search?type=agent&agentname=a&agentname=B&agentname=&limit=2&{OF_THAT_TIME}"
    assert await follow_next_links(api, href) == [[8, 5], [4, 1]]


@pytest_twisted.ensureDeferred
async def test_a_next_link_has_the_times_of_the_first_page(
    api: Api, database: TestDatabase
) -> None:
    """A relative time would move with the clock from page to page."""
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(n) for n in range(1, 3)])
    collection = await api.get_collection("/search?type=agent&after=-5000w&before=-1s&limit=1")
    values = dict(parse_qsl(urlsplit(find_next_link(collection)).query))
    [shown] = [item["data"][0]["value"] for item in collection["items"][1:]]
    for name in ("after", "before"):
        assert values[name] == shown[name] and values[name].startswith(("19", "20"))


@pytest_twisted.ensureDeferred
async def test_next_links_lead_through_any_names(api: Api, database: TestDatabase) -> None:
    names = ["a&b=c", "a%41", "a#b", "a,b", "a b", "a+b", "a\nb", "ä", "", "a" * 2_000]
    agents = [fleet.make_agent(n, name=name) for n, name in enumerate(names, 1)]
    fleet.insert_rows(database.dsn, "agents", agents)
    for sort, is_descending in (("name", False), ("-name", True)):
        href = f"/search?type=agent&sort={sort}&limit=1&{OF_THAT_TIME}"
        expected = sorted(range(1, 11), key=lambda n: names[n - 1], reverse=is_descending)
        assert await follow_next_links(api, href) == [[n] for n in expected]


@pytest_twisted.ensureDeferred
async def test_the_total_is_that_of_the_whole_search_on_every_page(
    api: Api, database: TestDatabase
) -> None:
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(n) for n in range(1, 8)])
    commands = [fleet.make_command(n, None, 1 + n % 2) for n in range(1, 8)]
    fleet.insert_rows(database.dsn, "commands", commands)
    search = f"/search?type=command&agentid=1&{OF_THAT_TIME}&limit=1"
    href = f"{search}&total=true&offset=1"
    for page in range(2):
        answer = await api.get(href)
        assert answer.get_header("x-total-count") == "3"
        shown = [item["data"][0] for item in answer.document["items"]][1:]
        assert [data["value"]["total"] for data in shown] == ([3] if page == 0 else [])
        href = find_next_link(answer.document)
    report = await api.get(f"{search}&total=true&report=complianceitems")
    assert report.get_header("x-total-count") == "3"
    for flag in ("", "&total=", "&total=false"):
        answer = await api.get(search + flag)
        assert not answer.headers.hasHeader("x-total-count")
        assert "total" not in answer.document["items"][-1]["data"][0]["value"]
    none = await api.get(f"/search?type=agent&agentname=none&total=true&{OF_THAT_TIME}")
    assert (none.code, none.get_header("x-total-count")) == (200, "0")


@pytest_twisted.ensureDeferred
async def test_the_newest_answers_say_how_the_fleet_is_now(
    api: Api, database: TestDatabase
) -> None:
    fleet.insert_rows(database.dsn, "actions", [fleet.make_action(1)])
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(n) for n in (1, 2)])
    found, missing = fleet.make_results(fleet.make_hit()), fleet.make_results(fleet.make_hit(""))
    commands = [
        fleet.make_command(1, 1, 1, results=found),
        fleet.make_command(2, 1, 2, results=missing),
        fleet.make_command(3, 1, 1, results=missing, starttime="2026-01-02T00:00:00Z"),
        fleet.make_command(4, 1, 2, results=[], starttime="2026-01-02T00:00:00Z"),
    ]
    fleet.insert_rows(database.dsn, "commands", commands)
    report = f"/search?type=command&report=complianceitems&{OF_THAT_TIME}"
    for filters, expected in {
        "": [3, 2, 1],
        "&latest=true": [3, 2],
        "&latest=true&compliance=true": [],
        "&compliance=true": [1],
        "&latest=true&check=CH%25": [3, 2],
        "&check=none&check=nothing": [],
    }.items():
        items = (await api.get_collection(report + filters))["items"]
        assert [int(item["href"].rpartition("=")[2]) for item in items] == expected


@pytest_twisted.ensureDeferred
async def test_too_many_answers_are_refused_before_the_first_byte(
    start_api: Callable[[Limits], Api], database: TestDatabase
) -> None:
    api = start_api(Limits(latest_answers=1_000))
    fleet.insert_rows(database.dsn, "actions", [fleet.make_action(1)])
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(n) for n in range(1, 4)])
    hits = [fleet.make_hit(names=[f"n{n}"]) for n in range(500)]
    commands = [fleet.make_command(n, 1, n, results=fleet.make_results(*hits)) for n in range(1, 4)]
    fleet.insert_rows(database.dsn, "commands", commands)
    report = f"/search?type=command&report=complianceitems&latest=true&{OF_THAT_TIME}"
    refused = await api.get(report)
    assert refused.code == 400
    assert "at most 1000 answers" in refused.document["error"]["message"]
    items = (await api.get_collection(f"{report}&agentid=1&agentname=agent1%25"))["items"]
    assert len(items) == 500
    # the answers of a page alone count, and those of the pages before it
    pages = [await api.get_collection(f"{report}&limit=1")]
    pages.append(await api.get_collection(find_next_link(pages[0])))
    assert [len(page["items"]) for page in pages] == [500, 500]
    assert (await api.get(find_next_link(pages[1]))).code == 400


@pytest.mark.parametrize("report", ["complianceitems&latest=true", "compliancesummary"])
@pytest_twisted.ensureDeferred
async def test_what_takes_too_long_before_its_first_byte_is_refused(
    start_api: Callable[[Limits], Api], database: TestDatabase, report: str
) -> None:
    api = start_api(Limits(preparation_seconds=-1))
    refused = await api.get(f"/search?type=command&report={report}&{OF_THAT_TIME}")
    assert refused.code == 400
    assert "to read the commands takes more than" in refused.document["error"]["message"]
