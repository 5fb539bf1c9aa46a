"""A client that knows Collection+JSON and nothing of MIG walks the whole service."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

import pytest_twisted

from mig.formats.collection_json import MEDIA_TYPE
from tests.support import fleet
from tests.support.api import Api
from tests.support.json_types import JsonObject
from tests.support.postgres import TestDatabase

MEMBERS = {
    "collection": {"version", "href", "links", "items", "queries", "template", "error"},
    "link": {"rel", "href", "name", "render", "prompt"},
    "query": {"rel", "href", "name", "prompt", "data"},
    "item": {"href", "data", "links"},
    "data": {"name", "value", "prompt"},
    "error": {"title", "code", "message"},
}


class Walker:
    """A client that follows every link, opens every item and submits every query."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.seen: set[str] = set()
        self.names: set[str] = set()
        self.waiting = [api.base + "/"]

    async def walk(self) -> None:
        while self.waiting:
            href = self.waiting.pop()
            if href not in self.seen:
                self.seen.add(href)
                await self.open_page(href)

    async def open_page(self, href: str) -> None:
        response = await self.api.get(href)
        assert response.code == 200, (href, response.body)
        assert response.get_header("content-type") == MEDIA_TYPE
        self.check_collection(response.document, href)

    def check_collection(self, collection: JsonObject, href: str) -> None:
        assert collection["version"] == "1.0"
        assert collection["href"] == href
        self.check_members("collection", collection)
        for link in collection.get("links", ()):
            self.follow_link("link", link)
        for item in collection.get("items", ()):
            self.follow_link("item", item)
            for data in item["data"]:
                self.check_members("data", data)
                self.names.add(data["name"])
            for link in item.get("links", ()):
                self.follow_link("link", link)
        for query in collection.get("queries", ()):
            self.submit_query(query)
        for data in collection.get("template", {"data": []})["data"]:
            assert isinstance(data["value"], str)

    def follow_link(self, kind: str, found: JsonObject) -> None:
        self.check_members(kind, found)
        assert urlsplit(found["href"]).netloc == urlsplit(self.api.base).netloc
        assert found["href"].isascii() and found["href"].count("?") <= 1
        assert (
            " " not in found.get("rel", "") or "Command" in found["rel"] or "hist" in found["rel"]
        )
        if not found.get("rel", "").startswith("service-"):  # the description, for others
            self.waiting.append(found["href"])

    def submit_query(self, query: JsonObject) -> None:
        """Submit a form with every field; those that it does not fill in are empty."""
        self.check_members("query", query)
        values = {d["name"]: d["value"] for d in query["data"]}
        if f"{query['rel']}id" in values and len(values) == 1:
            return  # needs an id; single documents are reached as items
        types = ("action", "command", "agent", "investigator", "") if "type" in values else ()
        for choice in [{"type": type_} for type_ in types] or [{}]:
            filled = {**values, **choice, "after": "2014-05-01T00:00:00Z"}
            pairs = "&".join(f"{name}={quote(value)}" for name, value in filled.items())
            self.waiting.append(f"{query['href']}?{pairs}")

    @staticmethod
    def check_members(kind: str, found: JsonObject) -> None:
        assert set(found) <= MEMBERS[kind], found
        assert "error" not in found


@pytest_twisted.ensureDeferred
async def test_a_client_finds_every_record_and_no_link_is_broken(
    api: Api, database: TestDatabase
) -> None:
    fleet.load_fleet(database.dsn)
    database.execute(
        "insert into audit (at, operation, callername, object, outcome)"
        " values (now(), '1', 'Carol', 'action', 'done')"
    )
    walker = Walker(api)
    await walker.walk()
    nouns = {"action", "command", "agent", "investigator", "audit"}
    assert {*nouns, "active agents"} <= walker.names
    for kind in ("agents", "actions", "commands", "investigators"):
        noun = kind[:-1]
        for row in fleet.FLEET[kind]:
            assert f"{api.base}/{noun}?{noun}id={row['id']}" in walker.seen


@pytest_twisted.ensureDeferred
async def test_next_links_lead_through_a_whole_search(api: Api, database: TestDatabase) -> None:
    fleet.load_fleet(database.dsn)
    for type_ in ("action", "agent", "command", "investigator"):
        href = f"/search?type={type_}&limit=2&after=2014-05-01T00:00:00-00:00"
        found: list[int] = []
        pages = 0
        while href:
            collection = await api.get_collection(href)
            data = [item["data"][0] for item in collection["items"]]
            assert ("search parameters" in {d["name"] for d in data}) == (pages == 0)
            found += [d["value"]["id"] for d in data if d["name"] == type_]
            href = next((li["href"] for li in collection.get("links", ())), "")
            pages += 1
        whole = await api.get_collection(f"/search?type={type_}&after=2014-05-01T00:00:00Z")
        expected = [i["data"][0]["value"]["id"] for i in whole["items"][:-1]]
        assert found == expected and len(found) == len(set(found)) == len(fleet.FLEET[f"{type_}s"])
        assert pages == (len(found) + 1) // 2
