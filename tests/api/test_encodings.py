"""Answers are compressed for clients who accept it, and are otherwise the same."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from mig.demo import fleet as demo
from tests.support import fleet
from tests.support.api import Api
from tests.support.encodings import decode_whole
from tests.support.postgres import TestDatabase
from tests.support.programs import find_program
from tests.support.reactor import port_number

REPORT = f"/search?type=command&report=complianceitems&{fleet.ANY_TIME}"
AGENTS = f"/search?type=agent&limit=1000&{fleet.ANY_TIME}"
FORMATS = ("collection", "ndjson", "csv")
LONG_NAME = "a" * 2_000


@dataclass(frozen=True, kw_only=True)
class RawAnswer:
    """An answer as it was sent; ``body`` is decoded."""

    status: int
    headers: http.client.HTTPMessage
    sent: bytes
    body: bytes

    @property
    def encoding(self) -> str:
        return self.headers.get("content-encoding", "identity")


async def fetch(
    api: Api,
    path: str,
    encoding: str = "",
    *,
    method: str = "GET",
    version: int = 11,
    headers: Mapping[str, str] | None = None,
) -> RawAnswer:
    """Return the answer to a client with this Accept-Encoding and other headers."""

    def fetch_now() -> RawAnswer:
        connection = http.client.HTTPConnection("127.0.0.1", port_number(api.port), timeout=60)
        connection._http_vsn, connection._http_vsn_str = version, f"HTTP/1.{version % 10}"  # type: ignore[attr-defined]
        connection.putrequest(method, f"/api/v1{path}", skip_host=True, skip_accept_encoding=True)
        sent_headers = {"host": "localhost", "accept-encoding": encoding, **(headers or {})}
        for name, value in sent_headers.items():
            if value:
                connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        sent = response.read()
        connection.close()
        body = decode_whole(sent, response.headers.get("content-encoding", "")) if sent else b""
        return RawAnswer(status=response.status, headers=response.headers, sent=sent, body=body)

    return await deferToThread(fetch_now)


@pytest.fixture
def demo_api(api: Api, database: TestDatabase) -> Api:
    assert demo.load_fleet(database.dsn, datetime.now(UTC))
    return api


@pytest_twisted.ensureDeferred
async def test_an_answer_is_the_same_in_every_encoding(demo_api: Api) -> None:
    """Reports and searches, streamed or in one piece, in every format."""
    for path in (REPORT, f"{REPORT}&limit=50", AGENTS):
        for format_ in FORMATS:
            plain = await fetch(demo_api, f"{path}&format={format_}")
            assert plain.encoding == "identity"
            for encoding in ("gzip", "zstd"):
                coded = await fetch(demo_api, f"{path}&format={format_}", encoding)
                assert coded.encoding == encoding
                assert coded.body == plain.body
                assert len(coded.sent) < len(plain.sent) / 4
                for answer in (plain, coded):
                    assert answer.headers["vary"] == "Accept, Accept-Encoding"


@pytest_twisted.ensureDeferred
async def test_small_answers_are_sent_as_they_are(api: Api, database: TestDatabase) -> None:
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1)])
    for path in ("/heartbeat", "/agent?agentid=1", f"{AGENTS}&format=ndjson", "/nothing"):
        answer = await fetch(api, path, "gzip, zstd")
        assert answer.encoding == "identity" and 0 < len(answer.sent) < 1_024
        assert answer.headers["vary"] == "Accept, Accept-Encoding"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest_twisted.ensureDeferred
async def test_documents_and_errors_have_the_length_of_what_is_sent(
    api: Api, database: TestDatabase, encoding: str
) -> None:
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1, environment={"a": LONG_NAME})])
    for path, status in (("/agent?agentid=1", 200), ("/", 200), (f"/{LONG_NAME}", 404)):
        plain = await fetch(api, path)
        coded = await fetch(api, path, encoding)
        assert (plain.status, coded.status, coded.encoding) == (status, status, encoding)
        assert int(coded.headers["content-length"]) == len(coded.sent) < len(plain.sent)
        if status == 200:
            assert coded.body == plain.body
        else:
            assert json.loads(coded.body)["collection"]["error"]["code"]
        head = await fetch(api, path, encoding, method="HEAD")
        assert (head.status, head.encoding, head.sent) == (status, encoding, b"")
        if status == 200:
            assert head.headers["content-length"] == coded.headers["content-length"]


@pytest_twisted.ensureDeferred
async def test_a_client_of_http_1_0_gets_a_whole_encoded_answer(demo_api: Api) -> None:
    for encoding in ("", "gzip", "zstd"):
        answer = await fetch(demo_api, f"{REPORT}&limit=20", encoding, version=10)
        assert answer.encoding == (encoding or "identity")
        assert int(answer.headers["content-length"]) == len(answer.sent)
        assert answer.body == (await fetch(demo_api, f"{REPORT}&limit=20")).body


@pytest_twisted.ensureDeferred
async def test_pages_of_another_site_get_no_compressed_answer(demo_api: Api) -> None:
    """The length of one would tell who listens what is in it (BREACH)."""
    for header, value, encoding in (
        ("sec-fetch-site", "same-origin", "gzip"),
        ("sec-fetch-site", "cross-site", "identity"),
        ("origin", "https://evil.example", "identity"),
    ):
        answer = await fetch(demo_api, AGENTS, "gzip, zstd", headers={header: value})
        assert answer.encoding == encoding


@pytest_twisted.ensureDeferred
async def test_curl_gunzip_and_zstd_decode_answers(demo_api: Api) -> None:
    path = f"{REPORT}&format=csv"
    plain = (await fetch(demo_api, path)).body
    url = f"{demo_api.base}{path}"
    for accepted, decode in (
        ("", ""),
        ("--compressed", ""),
        ("-H 'Accept-Encoding: gzip'", f"| {find_program('gunzip')}"),
        ("-H 'Accept-Encoding: zstd'", f"| {find_program('zstd')} -d"),
    ):
        command = f"set -o pipefail; curl -sSf {accepted} '{url}' {decode}"
        shell = ["bash", "-c", command]
        done = await deferToThread(subprocess.run, shell, capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == plain
