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

from mig.openpgp.certificate import parse_armored
from tests.support.api import Api
from tests.support.fleet import ANY_TIME, VECTORS, load_fleet
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
