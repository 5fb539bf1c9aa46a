"""Every route follows HTTP, and a bad request is refused with a reason."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from mig.api.routes import ROUTES
from mig.formats.collection_json import MEDIA_TYPE
from mig.hypermedia import urls
from mig.limits import Limits
from tests.support import fleet
from tests.support.api import Api
from tests.support.json_types import Json
from tests.support.postgres import TestDatabase
from tests.support.reactor import port_number

PATHS = sorted({route.path for route in ROUTES})


async def send_bytes(api: Api, request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Send bytes, and return the status line, headers and body of the answer."""

    def exchange_bytes() -> bytes:
        with socket.create_connection(("127.0.0.1", port_number(api.port)), timeout=20) as client:
            client.sendall(request)
            parts = []
            while part := client.recv(65536):
                parts.append(part)
            return b"".join(parts)

    head, _, body = (await deferToThread(exchange_bytes)).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
    return status, headers, body


def build_request(path: str, *headers: str, version: str = "1.1", method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", *headers, "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1")


def parse_error(body: bytes) -> Json:
    return json.loads(body)["collection"]["error"]


@pytest.mark.parametrize("path", PATHS)
@pytest_twisted.ensureDeferred
async def test_every_path_answers_options_and_head_and_refuses_other_methods(
    api: Api, path: str
) -> None:
    options = await api.request("OPTIONS", path)
    assert (options.code, options.body) == (204, b"")
    allowed = options.get_header("allow").split(", ")
    assert {"GET", "HEAD", "OPTIONS"} <= set(allowed)
    refused = await api.request("DELETE", path)
    assert refused.code == 405
    assert refused.get_header("allow") == ", ".join(allowed)
    assert "the method DELETE is not allowed here" in parse_error(refused.body)["message"]
    whole, head = await api.get(path), await api.request("HEAD", path)
    assert (head.code, head.body) == (whole.code, b"")
    for name in ("content-type", "vary"):
        assert head.get_header(name) == whole.get_header(name)
    missing = await api.get(f"{path}/nothing")
    kept = "public, max-age=3600" if path == urls.STYLE else "no-store"
    for answer, expected in (
        (whole, kept),
        (head, kept),
        (refused, "no-store"),
        (missing, "no-store"),
    ):
        assert answer.get_header("cache-control") == expected
        assert answer.get_header("x-content-type-options") == "nosniff"


@pytest_twisted.ensureDeferred
async def test_no_cache_keeps_a_report_in_any_format(api: Api) -> None:
    for parameters in (
        "report=complianceitems",
        "format=ndjson",
        "format=csv",
        "report=complianceitems&format=csv",
    ):
        answer = await api.get(f"/search?type=command&{parameters}&{fleet.ANY_TIME}")
        assert answer.code == 200
        assert answer.get_header("cache-control") == "no-store"
        assert answer.get_header("x-content-type-options") == "nosniff"


@pytest_twisted.ensureDeferred
async def test_a_head_request_for_a_report_runs_no_query(api: Api, database: TestDatabase) -> None:
    database.execute("alter table commands rename to hidden")
    path = f"/search?type=command&report=complianceitems&{fleet.ANY_TIME}"
    assert (await api.request("HEAD", path)).code == 200
    assert (await api.get(path)).code == 500
    assert (await api.request("HEAD", "/search?type=nothing")).code == 400


@pytest.mark.parametrize(
    ("request_bytes", "status", "message"),
    [
        (build_request("/api/v1/", "Host: a..b"), 400, "the header Host must be"),
        (build_request("/api/v1/", "Host: evil.example"), 400, "the header Host must be"),
        (build_request("/api/v1/", "Host: \xff"), 400, "the header Host must be"),
        (build_request("/api/v1/", "Host: " + "a" * 64), 400, "the header Host must be"),
        (
            build_request("/api/v1/", "Host: localhost", "Host: localhost"),
            400,
            "Host is given twice",
        ),
        (build_request("/api/v1/"), 400, "the header Host is missing"),
        (
            build_request("http://evil.example/api/v1/", "Host: localhost"),
            400,
            "the header Host must be",
        ),
        (build_request("@evil/x", "Host: localhost"), 400, "target must be a path"),
        (build_request("/api/v1/%ff", "Host: localhost"), 400, "the path is not UTF-8"),
        (build_request("/api/v1/%00", "Host: localhost"), 400, "the path contains a NUL"),
        (build_request("/api/v1/", "Host: localhost", method="get"), 400, "32 capital letters"),
        (build_request("//evil/api/v1/", "Host: localhost"), 404, "nothing at this path"),
        (
            build_request("/api/v1//action", "Host: localhost", method="POST"),
            404,
            "nothing at this path",
        ),
        (
            build_request("/api/v1/%2e%2e/etc/passwd", "Host: localhost"),
            404,
            "nothing at this path",
        ),
        (build_request("/api/v1/search?a=%zz", "Host: localhost"), 400, "two hexadecimal digits"),
        (build_request("/api/v1/search?type=%ff", "Host: localhost"), 400, "type is not UTF-8"),
        (build_request("/api/v1/search?type=%00", "Host: localhost"), 400, "type contains a NUL"),
        (
            build_request("/api/v1/search?limit=1;type=agent", "Host: localhost"),
            400,
            "limit must be",
        ),
        (build_request("/api/v1/search?a" + "&a" * 64, "Host: localhost"), 400, "more than 64"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_bad_requests_are_explained(
    api: Api, request_bytes: bytes, status: int, message: str
) -> None:
    line, headers, body = await send_bytes(api, request_bytes)
    assert line.split()[1] == str(status), (line, body)
    error = parse_error(body)
    assert message in error["message"]
    assert error["code"] == headers["x-request-id"]
    assert headers["content-type"] == MEDIA_TYPE
    assert "location" not in headers


@pytest.mark.parametrize(
    ("accept", "answered"),
    [
        (None, MEDIA_TYPE),
        ("*/*", MEDIA_TYPE),
        ("", MEDIA_TYPE),
        ("application/json", "application/json"),
        ("application/json;charset=utf-8;q=0.5, */*;q=0.1", "application/json"),
        (f"{MEDIA_TYPE}, application/json", MEDIA_TYPE),
        ("image/png", MEDIA_TYPE),
        (";;;,,q=x", MEDIA_TYPE),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_client_gets_the_media_type_that_it_accepts(
    api: Api, accept: str | None, answered: str
) -> None:
    headers = {} if accept is None else {"accept": accept}
    response = await api.get("/heartbeat", headers=headers)
    assert response.get_header("content-type") == answered
    assert response.get_header("vary") == "Accept, Accept-Encoding"
    item = response.document["items"][0]
    assert item["data"] == [{"name": "heartbeat", "value": "gatorz say hi"}]


@pytest_twisted.ensureDeferred
async def test_the_root_of_the_server_redirects_to_the_api(api: Api) -> None:
    response = await api.get(api.root + "/")
    assert response.code == 302
    assert response.get_header("location") == api.base + "/"


@pytest_twisted.ensureDeferred
async def test_an_http_1_0_client_gets_a_whole_answer_or_is_refused(
    api: Api, start_api: Callable[[Limits], Api], database: TestDatabase
) -> None:
    fleet.load_fleet(database.dsn)
    path = f"/api/v1/search?type=agent&{fleet.ANY_TIME}"
    line, headers, body = await send_bytes(
        api, build_request(path, "Host: localhost", version="1.0")
    )
    assert line.split()[1] == "200" and int(headers["content-length"]) == len(body) > 2000
    strict = start_api(Limits(whole_answer_bytes=2000))
    line, _, body = await send_bytes(strict, build_request(path, "Host: localhost", version="1.0"))
    assert line.split()[1] == "505"
    assert "proxy_http_version 1.1" in parse_error(body)["message"]


@pytest_twisted.ensureDeferred
async def test_a_failure_shows_its_id_and_nothing_else(api: Api, database: TestDatabase) -> None:
    database.execute("alter table agents rename to hidden")
    response = await api.get("/agent?agentid=1")
    assert response.code == 500
    error = parse_error(response.body)
    assert error["code"] == response.get_header("x-request-id")
    assert "agents" not in error["message"] and "select" not in error["message"]
    assert b"Traceback" not in response.body


@pytest_twisted.ensureDeferred
async def test_a_request_target_may_be_a_whole_url(api: Api) -> None:
    line, _, body = await send_bytes(
        api, build_request("http://localhost/api/v1/heartbeat?", "Host: localhost")
    )
    assert line.split()[1] == "200"
    assert json.loads(body)["collection"]["href"] == f"{api.base}/heartbeat?"
