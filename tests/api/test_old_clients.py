"""Requests as the agents and clients of 2014 to 2017 send them, over a real socket."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from urllib.parse import urlsplit

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from mig.formats.collection_json import MEDIA_TYPES
from mig.openpgp.certificate import parse_armored
from tests.support.api import Api
from tests.support.fleet import ANY_TIME, VECTORS, load_fleet
from tests.support.json_types import Json
from tests.support.postgres import TestDatabase

BOB = (VECTORS / "keys" / "bob.asc").read_bytes()


async def send(
    api: Api, method: str, path: str, headers: Mapping[str, str] | None = None
) -> tuple[int, str, bytes]:
    """Return status, media type and body; the path goes over the socket as it is."""

    def exchange() -> tuple[int, str, bytes]:
        with closing(http.client.HTTPConnection(urlsplit(api.root).netloc)) as connection:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.headers["Content-Type"], response.read()

    return await deferToThread(exchange)


@pytest_twisted.ensureDeferred
async def test_an_agent_of_2017_learns_its_address(api: Api) -> None:
    """It sends two slashes, and takes the whole body as its address."""
    status, media_type, body = await send(api, "GET", "/api/v1//ip")
    assert (status, media_type, body) == (200, "text/plain; charset=utf-8", b"127.0.0.1")


@pytest_twisted.ensureDeferred
async def test_the_key_of_an_active_investigator_is_served_as_text(
    api: Api, database: TestDatabase
) -> None:
    load_fleet(database.dsn)
    path = f"/api/v1/publickey/{parse_armored(BOB).fingerprint}"
    for spelling in (path, path.replace("/publickey", "//publickey"), path + "/"):
        status, media_type, body = await send(api, "GET", spelling)
        assert (status, media_type, body) == (200, "text/plain; charset=utf-8", BOB)
    assert (await send(api, "GET", path.lower()))[2] == BOB
    database.execute("update investigators set status = 'disabled' where id = 1")
    assert (await send(api, "GET", path))[0] == 404


@pytest.mark.parametrize("fingerprint", ["0" * 40, "bob", "0" * 39, "%25", "%27%20or%20true", ""])
@pytest_twisted.ensureDeferred
async def test_an_unknown_fingerprint_is_not_found(
    api: Api, database: TestDatabase, fingerprint: str
) -> None:
    load_fleet(database.dsn)
    assert (await send(api, "GET", f"/api/v1/publickey/{fingerprint}"))[0] == 404


@pytest_twisted.ensureDeferred
async def test_several_slashes_count_as_one_in_reading(api: Api, database: TestDatabase) -> None:
    """Consoles of 2014 send them; the href has one, and nothing redirects."""
    load_fleet(database.dsn)
    query = "?type=command&agentid=7&limit=3"
    for path in ("/api/v1//search", "//api///v1/search", "/api/v1/search"):
        status, _, body = await send(api, "GET", path + query)
        href = json.loads(body)["collection"]["href"]
        assert (status, href) == (200, f"{api.base}/search{query}")
        assert (await send(api, "HEAD", path + query))[0] == 200
    for method in ("POST", "PUT", "OPTIONS"):
        assert (await send(api, method, "/api/v1//action/create/"))[0] == 404


@pytest_twisted.ensureDeferred
async def test_a_console_of_2017_sees_the_permissions_of_investigators(
    api: Api, database: TestDatabase
) -> None:
    load_fleet(database.dsn)
    database.execute("update investigators set permissions = 3 where id = 1")
    single = await api.get_collection("/investigator?investigatorid=1")
    found = await api.get_collection("/search?type=investigator&investigatorid=1")
    for collection in (single, found):
        permissions = collection["items"][0]["data"][0]["value"]["permissions"]
        assert len(permissions) == 19
        assert [name for name, is_set in permissions.items() if is_set] == ["search", "action"]
    action = await api.get_collection(f"/search?type=action&investigatorid=1&{ANY_TIME}")
    signer = action["items"][0]["data"][0]["value"]["investigators"][0]
    assert "permissions" not in signer


PAGED_SEARCHES = (
    "type=action&status=%25",
    "type=agent",
    "type=command&status=%25",
    "type=investigator",
    "type=command&report=complianceitems",
)


@pytest.mark.parametrize("query", PAGED_SEARCHES)
@pytest_twisted.ensureDeferred
async def test_clients_of_2017_page_until_nothing_is_found(
    api: Api, database: TestDatabase, query: str
) -> None:
    """They ask for offset 0, then for the next ones, and end when they get 404."""
    load_fleet(database.dsn)
    path = f"/search?{query}&{ANY_TIME}"
    found: list[Json] = []
    offset = 0
    while (answer := await api.get(f"{path}&limit=3&offset={offset}")).code == 200:
        found += list_records(answer.document)
        offset += 3
    assert answer.code == 404
    assert answer.document["error"]["message"] == "no results found"
    assert found == list_records(await api.get_collection(path))
    assert len(found) > 1


def list_records(collection: Json) -> list[Json]:
    """Return what was found, without the parameters at the end."""
    data = [item["data"][0] for item in collection.get("items", [])]
    return [each for each in data if each["name"] != "search parameters"]


@pytest.mark.parametrize("query", PAGED_SEARCHES)
@pytest_twisted.ensureDeferred
async def test_no_result_is_404_for_clients_that_send_offset(api: Api, query: str) -> None:
    """With the parameters of the search; for all others it is 200."""
    status, media_type, body = await send(api, "GET", f"/api/v1/search?{query}&limit=37&offset=37")
    assert (status, media_type) == (404, MEDIA_TYPES[0])
    collection = json.loads(body)["collection"]
    assert collection["error"]["message"] == "no results found"
    [item] = collection["items"]
    assert item["data"][0]["name"] == "search parameters"
    assert item["data"][0]["value"]["limit"] == 37
    cursor = "cursor=2020-01-01%2000:00:00%2B00,7"
    for other in ("", "&offset=", f"&{cursor}", f"&{cursor}&offset=37"):
        status, _, body = await send(api, "GET", f"/api/v1/search?{query}{other}")
        assert status == 200 and "error" not in json.loads(body)["collection"]
    assert (await send(api, "HEAD", f"/api/v1/search?{query}&offset=37"))[0] == 200
