"""Odd methods and headers get no one further, and the log stays readable."""

from __future__ import annotations

import http.client
import itertools
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from mig.model.permissions import READONLY_PERMISSIONS, Permission
from tests.support.api import Api
from tests.support.callers import add_api_key, add_investigator
from tests.support.daemon import Daemon
from tests.support.fleet import ANY_TIME, VECTORS
from tests.support.postgres import TestDatabase
from tests.support.reactor import port_number

REPORT = f"/search?type=command&report=complianceitems&{ANY_TIME}"
OVERRIDES = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
WITHOUT_SEARCH = Permission.ACTION | Permission.DASHBOARD


@pytest_twisted.async_yield_fixture
async def closed_api(database: TestDatabase) -> AsyncIterator[Api]:
    """Return an API that requires credentials."""
    api = Api(database.dsn, handoff="none", authentication=True)
    yield api
    await api.stop()


def make_key(database: TestDatabase, permissions: Permission) -> dict[str, str]:
    """Return the header with the key of a new investigator."""
    return {
        "X-MIGAPIKEY": add_api_key(database, add_investigator(database, permissions=permissions))
    }


async def send_raw(api: Api, method: str, path: str, headers: dict[str, str]) -> int:
    """Return the status of a request whose method may be of any form."""

    def send() -> int:
        client = http.client.HTTPConnection("localhost", port_number(api.port), timeout=20)
        with closing(client):
            client.request(method, f"/api/v1{path}", headers=headers)
            return client.getresponse().status

    return await deferToThread(send)


@pytest_twisted.ensureDeferred
async def test_head_needs_the_permission_of_get_and_reads_no_command(
    closed_api: Api, database: TestDatabase
) -> None:
    """The table does not even exist."""
    may, may_not = make_key(database, READONLY_PERMISSIONS), make_key(database, WITHOUT_SEARCH)
    database.execute("alter table commands rename to gone")
    for path in (REPORT, f"/search?type=command&{ANY_TIME}"):
        assert await send_raw(closed_api, "HEAD", path, {}) == 401
        assert await send_raw(closed_api, "HEAD", path, may_not) == 403
        assert await send_raw(closed_api, "HEAD", path, may) == 200
        assert await send_raw(closed_api, "GET", path, may) in (500, 503)


@pytest.mark.parametrize("method", ["post", "Post", "gET", "get"])
@pytest_twisted.ensureDeferred
async def test_a_method_in_lower_case_is_not_the_method(
    closed_api: Api, database: TestDatabase, method: str
) -> None:
    everything = make_key(database, Permission(0x7FFFF))
    for path in ("/investigator/create/", REPORT):
        assert await send_raw(closed_api, method, path, everything) == 400


@pytest_twisted.ensureDeferred
async def test_no_header_makes_one_method_another(closed_api: Api, database: TestDatabase) -> None:
    """Neither the permission nor the handler is that of the method in the header."""
    everything, reads = (make_key(database, p) for p in (Permission(0x7FFFF), READONLY_PERMISSIONS))
    key = (VECTORS / "keys" / "bob.asc").read_text()
    for name in OVERRIDES:
        for method, override, headers, status in (
            ("GET", "POST", everything, 200),
            ("POST", "GET", reads, 403),
            ("POST", "OPTIONS", {}, 401),
            ("HEAD", "POST", everything, 200),
        ):
            answer = await closed_api.request(
                method,
                "/investigator/create/",
                headers={**headers, name: override},
                data={"name": "Eve", "publickey": key} if method == "POST" else None,
            )
            assert answer.code == status, (name, method, override)
    assert not database.execute("select 1 from investigators where name = 'Eve'")


@pytest.fixture
def daemon(database: TestDatabase, tmp_path: Path) -> Iterator[Daemon]:
    (tmp_path / "api.cfg").write_text("[server]\nclientpublicip = x-forwarded-for:0\n")
    running = Daemon(
        *("--config", "api.cfg", "--database", database.dsn),
        *("--authentication", "on", "--listen", "tcp:0"),
        cwd=tmp_path,
    )
    yield running
    running.stop()


HEADERS = (
    *("Authorization", "X-MIGAPIKEY", "X-PGPAUTHORIZATION", "Cookie", "User-Agent", "Referer"),
    *("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "Proxy-Authorization"),
)
VALUES = {
    "8 bits": b"\xff\xfe\x80\xe2\x80\xae",
    "UTF-8": "mig_1_\u202e\u0085é".encode(),
    "ESC": b"\x1b[31m\x1b]0;owned\x07\x7f",
    "Bearer with 8 bits": b"Bearer mig_1_\xff\xc3",
    "token with 8 bits": b"1;2026-01-01T00:00:00Z;1;\xff\xfe",
    "long": b"=;,=%x" * 2_500,
    "long Bearer": b"Bearer " + b"9" * 15_000,
    "long token": b"1;2026-01-01T00:00:00Z;1;" + b"A" * 15_000,
    "long list": b"192.0.2.1," * 1_500,
    "format": b"%s%n{0.__class__}{log_source}",
}


_numbers = itertools.count()


def exchange(port: int, path: bytes, *lines: bytes) -> bytes:
    """Return the answer to a request with these lines as headers, from a new address."""
    high, low = divmod(next(_numbers), 250)
    head = [b"GET /api/v1" + path + b" HTTP/1.1", b"Host: localhost", b"Connection: close"]
    source = (f"127.1.{high}.{low + 1}", 0)
    with socket.create_connection(("127.0.0.1", port), timeout=20, source_address=source) as client:
        client.sendall(b"\r\n".join([*head, *lines, b"", b""]))
        parts = []
        while part := client.recv(65536):
            parts.append(part)
        return b"".join(parts)


def test_headers_of_any_bytes_are_neither_a_failure_nor_in_the_log(daemon: Daemon) -> None:
    """Also when the same header comes twice, and on a path that needs no credentials."""
    port = int(daemon.base.split(":")[2].partition("/")[0])
    for name in HEADERS:
        for value in VALUES.values():
            line = name.encode() + b": " + value
            for lines in ([line], [line, line]):
                for path, accepted in ((b"/search?type=agent", (400, 401)), (b"/ip", (200,))):
                    if sum(map(len, lines)) > 16_000:
                        continue  # Twisted closes: tests/sockets/test_connections.py
                    status = int(exchange(port, path, *lines).split()[1])
                    assert status in accepted, (name, value, status)
    log = daemon.log.read_bytes()
    assert b" 500 " not in log and b"Traceback" not in log
    assert all(32 <= byte < 127 for byte in log.replace(b"\n", b"")), "raw bytes in the log"
    assert b"owned" not in log and b"99999999" not in log and b"AAAAAAAA" not in log
    assert b"log_source" not in log
