"""Whatever a server answers, a program has one tree of errors to catch."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final

import pytest
import pytest_twisted
import treq.testing
from twisted.web.resource import Resource
from twisted.web.server import Request

from mig.client import MIGClient, MIGClientError
from tests.support.json_types import Json
from tests.support.properties import REPETITIONS
from tests.support.scripted_server import COLLECTION_JSON, NDJSON
from tests.support.skipping_clock import SkippingClock

STALL_SECONDS = 1000.0
VALUES: tuple[Json, ...] = (
    None,
    1,
    1.5,
    True,
    "x",
    "\ud800",
    "http://[::/",
    "?a b",
    [],
    {},
    [1],
    [[]],
)
DOCUMENT: Json = {
    "collection": {
        "items": [
            {
                "data": [
                    {"name": "agent", "value": {"id": 1}},
                    {"name": "action", "value": {"id": 1, "expireafter": "2014-01-01T00:00:00Z"}},
                    {"name": "apikey", "value": {"id": 1, "investigatorid": 1}},
                    {"name": "unreadable", "value": {"kind": "a", "id": "1", "reason": "b"}},
                    {"name": "search parameters", "value": {"limit": 9}},
                ]
            }
        ],
        "links": [{"rel": "next", "href": "http://localhost/search?cursor=x"}],
        "queries": [{"rel": "a", "href": "b", "data": []}],
        "error": {"code": "1", "message": "odd"},
    }
}
LAST_PAGE: Final = b'{"collection":{}}'
EMPTY: Final = hashlib.sha256().hexdigest().encode()
LINES: tuple[bytes, ...] = (
    b"1\n",
    b'{"id":"x"}\n',
    b'{"id":1,"environment":' + b"[" * 100_000 + b"\n",
    b'{"end":1}\n',
    b'{"end":{"items":0,"sha256":"%s","next":1}}\n' % EMPTY,
    b'{"end":{"items":0,"sha256":"%s","next":"http://[::/"}}\n' % EMPTY,
    b'{"unreadable":{"link":"","reason":1}}\n',
    b"\xff\n",
)
HEADERS: tuple[tuple[int, bytes, bytes], ...] = (
    (200, b"Content-Type", b"\xff"),
    (200, b"Content-Encoding", b"\xff"),
    (200, b"X-Total-Count", b"\xb2"),
    (302, b"Location", b"\xff"),
    (503, b"Retry-After", b"\xb2"),
    (503, b"Retry-After", b"9" * 5000),
    (503, b"Retry-After", b"Mon, 01 Jan 0001 00:00:00 -0000"),
    (503, b"X-Request-Id", b"\xff"),
)


async def list_agents(client: MIGClient) -> None:
    async for _ in client.search("agent"):
        pass


CALLS: tuple[Callable[[MIGClient], Awaitable[object]], ...] = (
    list_agents,
    lambda client: client.home(),
    lambda client: client.dashboard(),
    lambda client: client.agent(1),
    lambda client: client.count("agent"),
    lambda client: client.api_keys(),
    lambda client: client.wait(1),
)


class OddAnswer(Resource):
    """An answer to all requests but those for another page."""

    isLeaf = True

    def __init__(self, body: bytes, status: int, headers: Mapping[bytes, bytes]) -> None:
        Resource.__init__(self)
        self._body = body
        self._status = status
        self._headers = headers

    def render(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", COLLECTION_JSON.encode())
        if b"cursor=" in request.uri:
            return LAST_PAGE
        request.setResponseCode(self._status)
        for name, value in self._headers.items():
            request.setHeader(name, value)
        return self._body


async def is_told(
    call: Callable[[MIGClient], Awaitable[object]],
    body: bytes,
    status: int = 200,
    **headers: bytes,
) -> bool:
    """Return whether a call raises an error; any but those of the library is raised here."""
    named = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    agent: Any = treq.testing.RequestTraversalAgent
    client = MIGClient(
        "http://localhost",
        reactor=SkippingClock(STALL_SECONDS),
        agent=agent(OddAnswer(body, status, named)),
        stall_seconds=STALL_SECONDS,
    )
    try:
        await call(client)
    except MIGClientError:
        return True
    return False


def list_places(value: Json, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    if isinstance(value, dict | list):
        for name in value if isinstance(value, dict) else range(len(value)):
            yield from list_places(value[name], (*place, name))


def replace_at(document: Json, place: tuple[Any, ...], value: Json) -> Json:
    if not place:
        return value
    changed = copy.deepcopy(document)
    target = changed
    for name in place[:-1]:
        target = target[name]
    target[place[-1]] = value
    return changed


@pytest_twisted.ensureDeferred
async def test_a_document_with_something_else_anywhere_raises_no_other_error() -> None:
    chosen = random.Random(0)
    places = list(list_places(DOCUMENT))
    told = 0
    for _ in range(300 * REPETITIONS):
        document = replace_at(DOCUMENT, chosen.choice(places), chosen.choice(VALUES))
        status = chosen.choice((200, 200, 400))
        told += await is_told(chosen.choice(CALLS), json.dumps(document).encode(), status)
    assert told


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:40].decode(errors="replace"))
@pytest_twisted.ensureDeferred
async def test_an_odd_line_is_an_error_of_the_library(line: bytes) -> None:
    assert await is_told(list_agents, line, Content_Type=NDJSON.encode())


@pytest_twisted.ensureDeferred
async def test_an_odd_header_raises_no_other_error() -> None:
    for status, name, value in HEADERS:
        header = {name.decode().replace("-", "_"): value}
        for call in CALLS[:5]:
            told = await is_told(call, LAST_PAGE, status, **header)
            assert told or status == 200, (name, value)
