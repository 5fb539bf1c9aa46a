"""Requests are refused as early as possible, and slow clients have deadlines.

Deadlines are tested in memory under a clock that the test moves, the rest on a real socket.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator

import pytest
import pytest_twisted

from mig.limits import Limits
from mig.web.request import RequestEnded
from tests.support.echo_server import HEARTBEAT, Server
from tests.support.reactor import stop_listening
from tests.support.site_client import (
    CREATE,
    FORM,
    SiteClient,
    build_post_head,
    parse_answer,
    parse_refusal,
)

CHUNKED = "Transfer-Encoding: chunked"
LIMITS = Limits()
MAX_BYTES = LIMITS.action_body_bytes


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[Server]:
    running = Server()
    yield running
    await stop_listening(running.port)


@pytest.fixture
def site_client() -> SiteClient:
    return SiteClient()


def encode_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# Bodies that are too long


@pytest.mark.parametrize(
    ("path", "length", "max_bytes"),
    [
        (CREATE, 10**9, MAX_BYTES),
        (CREATE, MAX_BYTES + 1, MAX_BYTES),
        (CREATE, 10**30, MAX_BYTES),
        ("/api/v1/investigator/create/", 65_537, 65_536),
        ("/api/v1/investigator/update/", 65_537, 65_536),
    ],
)
@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)])
def test_a_body_announced_as_too_long_is_refused_before_it_is_sent(
    site_client: SiteClient, path: str, length: int, max_bytes: int, expect: tuple[str]
) -> None:
    answer = site_client.send(build_post_head(path, FORM, f"Content-Length: {length}", *expect))
    assert answer.startswith(b"HTTP/1.1 413 ") and b"100 Continue" not in answer
    assert f"at most {max_bytes} bytes" in parse_refusal(answer)[1]
    assert site_client.transport.disconnecting


@pytest.mark.parametrize("length", [MAX_BYTES, MAX_BYTES - 1])
def test_the_longest_allowed_body_is_accepted(site_client: SiteClient, length: int) -> None:
    head = build_post_head(CREATE, FORM, f"Content-Length: {length}", "Expect: 100-continue")
    assert site_client.send(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
    body = b"action=" + b"a" * (length - 7)
    status, document = parse_answer(site_client.send(body))
    assert status == 200 and len(document["action"]) == length - 7
    assert site_client.site.buffered_bytes == 0


def test_chunks_are_refused_when_they_are_too_long_together(site_client: SiteClient) -> None:
    assert not site_client.send(build_post_head(CREATE, FORM, CHUNKED))
    assert not site_client.send(encode_chunk(b"a" * MAX_BYTES))
    assert site_client.site.buffered_bytes == MAX_BYTES
    assert parse_refusal(site_client.send(encode_chunk(b"a") + encode_chunk(b"b")))[0] == 413
    assert site_client.site.buffered_bytes == 0
    assert site_client.echo_routes.call_count == 0


@pytest.mark.parametrize("size", [b"ffffffffffffffff", b"f" * 40])
def test_a_chunk_of_absurd_length_takes_no_memory(site_client: SiteClient, size: bytes) -> None:
    site_client.send(build_post_head(CREATE, FORM, CHUNKED) + size + b"\r\n" + b"a" * 1000)
    assert site_client.site.buffered_bytes <= 1000
    assert parse_refusal(site_client.advance(LIMITS.body_seconds))[0] == 408


@pytest_twisted.ensureDeferred
async def test_a_client_that_sends_40_mb_in_chunks_reads_why_it_is_refused(server: Server) -> None:
    pieces = [encode_chunk(b"GET / HTTP/1.1\r\n\r\n" * 10_000)] * 220
    answer = await server.exchange_bytes(build_post_head(CREATE, FORM, CHUNKED), *pieces)
    assert parse_refusal(answer)[0] == 413
    assert answer.count(b"HTTP/1.1") == 1
    assert server.echo_routes.call_count == server.site.buffered_bytes == 0


@pytest_twisted.ensureDeferred
async def test_nothing_after_a_refused_request_is_read_as_a_request(server: Server) -> None:
    answer = await server.exchange_bytes(
        build_post_head(CREATE, FORM, "Content-Length: 99999999") + HEARTBEAT * 9
    )
    assert parse_refusal(answer)[0] == 413
    assert answer.count(b"HTTP/1.1") == 1


def test_a_refused_client_that_keeps_sending_is_disconnected() -> None:
    site_client = SiteClient(limits=Limits(linger_bytes=1000))
    site_client.send(build_post_head(CREATE, FORM, "Content-Length: 99999999"))
    site_client.send(b"a" * 1000)
    assert not site_client.transport.disconnected
    site_client.send(b"a")
    assert site_client.transport.disconnected


def test_a_refused_client_that_does_not_close_is_disconnected(site_client: SiteClient) -> None:
    site_client.send(build_post_head(CREATE, FORM, "Content-Length: 99999999"))
    site_client.advance(LIMITS.linger_seconds - 1)
    assert not site_client.transport.disconnected
    site_client.advance(1)
    assert site_client.transport.disconnected


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
def test_the_body_of_a_request_that_needs_none_is_ignored(
    site_client: SiteClient, method: bytes
) -> None:
    head = method + b" /api/v1/heartbeat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    short = head % 8192 + b"GET /evil HTTP/1.1\r\n\r\n".ljust(8192, b"a")
    answer = site_client.send(short + HEARTBEAT)
    assert answer.count(b"HTTP/1.1 20") == 2 and answer.count(b"HTTP/1.1") == 2
    assert site_client.site.buffered_bytes == 0
    assert b" 413 " in site_client.send(head % 8193)


def test_a_body_is_never_written_to_a_file(
    site_client: SiteClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    body = b"action=" + b"a" * 900_000
    assert site_client.post_form("/action/create/", body, FORM)[0] == 200


# Faults in the headers


@pytest.mark.parametrize(
    ("head", "status", "message"),
    [
        (build_post_head(CREATE, FORM, host="evil.example"), 400, "the header Host must be"),
        (build_post_head("@evil", FORM), 400, "target must be a path"),
        (build_post_head("http://evil.example" + CREATE, FORM), 400, "the header Host must be"),
        (build_post_head("/api/v1/%ff", FORM), 400, "the path is not UTF-8"),
        (build_post_head("/api/v1/nothing", FORM), 404, "nothing at this path"),
        (build_post_head("/api/v1//action/create/", FORM), 404, "nothing at this path"),
        (build_post_head("/api/v1/heartbeat", FORM), 405, "the method POST is not allowed here"),
        (
            build_post_head(CREATE, FORM).replace(b"POST", b"PUT"),
            405,
            "allowed methods: GET, POST, HEAD, OPTIONS",
        ),
        (build_post_head(CREATE, FORM).replace(b"POST", b"post"), 400, "32 capital letters"),
        (
            build_post_head(CREATE),
            415,
            "must be application/x-www-form-urlencoded or multipart/form-data",
        ),
        (
            build_post_head(CREATE, "Content-Type: text/plain"),
            415,
            "or application/vnd.collection+json",
        ),
        (build_post_head(CREATE, "Content-Type: ;;"), 400, "Content-Type is not well formed"),
        (build_post_head(CREATE, FORM, FORM), 400, "Content-Type is given twice"),
        (build_post_head(CREATE, FORM + "; charset=utf-16"), 415, "must be utf-8"),
        (
            build_post_head(CREATE, FORM + "; charset=utf-8; charset=utf-16"),
            400,
            "parameter twice",
        ),
        (build_post_head(CREATE, "Content-Type: multipart/form-data"), 400, "must have a boundary"),
        (
            build_post_head(CREATE, FORM, "Content-Encoding: gzip"),
            415,
            "without a Content-Encoding",
        ),
        (
            build_post_head(CREATE, FORM, "Content-Encoding: identity, gzip"),
            415,
            "Content-Encoding",
        ),
        (build_post_head(CREATE, FORM, "Expect: payment"), 417, "must be 100-continue"),
        (
            build_post_head(CREATE, FORM, "Expect: 100-continue", "Expect: x"),
            417,
            "must be 100-continue",
        ),
    ],
)
def test_a_fault_in_the_headers_is_refused_before_the_body(
    site_client: SiteClient, head: bytes, status: int, message: str
) -> None:
    head = head[:-2] + b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    answer = site_client.send(head)
    assert b"100 Continue" not in answer
    refused, text = parse_refusal(answer)
    assert (refused, message in text) == (status, True), text
    assert not site_client.send(HEARTBEAT * 10)
    assert site_client.echo_routes.call_count == 0


def test_a_refused_method_is_answered_with_the_allowed_ones(site_client: SiteClient) -> None:
    answer = site_client.send(build_post_head("/api/v1/heartbeat", FORM, "Content-Length: 5"))
    assert b"\r\nAllow: GET, HEAD, OPTIONS\r\n" in answer


@pytest.mark.parametrize("path", [CREATE, CREATE.rstrip("/")])
def test_the_trailing_slash_of_a_path_is_optional(site_client: SiteClient, path: str) -> None:
    assert b" 200 " in site_client.send(
        build_post_head(path, FORM, "Content-Length: 8") + b"action=1"
    )


def test_a_method_cannot_be_overridden(site_client: SiteClient) -> None:
    override = b"X-HTTP-Method-Override: POST\r\n\r\n"
    answer = site_client.send(HEARTBEAT[:-2].replace(b"heartbeat", b"action/create/") + override)
    assert b" 200 " in answer and site_client.echo_routes.call_count == 0


FOREIGN = [
    ("Sec-Fetch-Site: cross-site",),
    ("Sec-Fetch-Site: same-site",),
    ("Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"),
    ("Origin: http://evil.example",),
    ("Origin: null",),
    ("Origin:",),
    ("Origin: http://mig.example:1664.evil.example",),
    ("Origin: http://mig.example",),
    ("Origin: ftp://mig.example:1664",),
    ("Origin: http://mig.example:1664", "Origin: http://evil.example"),
    ("Origin: http://mig.example:1664", "Sec-Fetch-Site: cross-site"),
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("path", ["action/create/", "investigator/create/", "investigator/update/"])
@pytest.mark.parametrize("length", [0, 8])
def test_a_page_of_another_site_cannot_post(
    site_client: SiteClient, path: str, headers: tuple[str], length: int
) -> None:
    head = build_post_head(f"/api/v1/{path}", FORM, f"Content-Length: {length}", *headers)
    status, message = parse_refusal(site_client.send(head))
    assert (status, "page of another site" in message) == (403, True)
    assert site_client.echo_routes.call_count == 0


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("mig.example:1664", ("Origin: http://mig.example:1664", "Sec-Fetch-Site: same-origin")),
        ("mig.example:1664", ("Origin: HTTP://MIG.example:1664",)),
        ("mig.example", ("Origin: https://mig.example",)),
        ("localhost:8080", ("Origin: http://localhost:8080",)),
        ("localhost:80", ("Origin: http://localhost",)),
        ("localhost:8080", ("Origin: http://mig.example:1664",)),
        ("mig.example:1664", ("Sec-Fetch-Site: none",)),
        ("mig.example:1664", ()),
    ],
)
def test_our_own_pages_and_programs_can_post(
    site_client: SiteClient, host: str, headers: tuple[str, ...]
) -> None:
    head = build_post_head(CREATE, FORM, "Content-Length: 8", *headers, host=host)
    assert parse_answer(site_client.send(head + b"action=1"))[0] == 200


def test_another_site_may_link_to_the_api(site_client: SiteClient) -> None:
    headers = b"Sec-Fetch-Site: cross-site\r\nOrigin: http://evil.example\r\n\r\n"
    assert b" 200 " in site_client.send(HEARTBEAT[:-2] + headers)


# Where a request ends


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 8", "Content-Length: 8"),
        ("Content-Length: 8, 8",),
        ("Content-Length: +8",),
        ("Content-Length: 0x8",),
        ("Content-Length: -8",),
        ("Content-Length: 8", CHUNKED),
        (CHUNKED, "Content-Length: 8"),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding: \vchunked",),
        ("Content-Length : 8",),
        ("no colon",),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_body_of_ambiguous_length_ends_the_connection(
    server: Server, lines: tuple[str]
) -> None:
    answer = await server.exchange_bytes(
        build_post_head(CREATE, FORM, *lines) + b"action=1" + HEARTBEAT * 2
    )
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert server.echo_routes.call_count == 0


@pytest.mark.parametrize(
    "lines",
    [
        ("X: a\r\n b",),
        ("X: a\r\n\tb",),
        ("X:\r\n a",),
        ("Transfer-Encoding:\r\n chunked",),
        ("\tX: a",),
        ("X: a\r\n ",),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_folded_header_ends_the_connection(server: Server, lines: tuple[str]) -> None:
    answer = await server.exchange_bytes(build_post_head(CREATE, FORM, *lines) + HEARTBEAT * 2)
    status, message = parse_refusal(answer)
    assert (status, "folded" in message) == (400, True)
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("line", [b"GET / http/1.1", b"GET  / HTTP/1.1", b"GET / HTTP/2.0", b" "])
def test_a_malformed_request_line_ends_the_connection(site_client: SiteClient, line: bytes) -> None:
    answer = site_client.send(line + b"\r\nHost: localhost\r\n\r\n" + HEARTBEAT)
    assert answer == b"HTTP/1.1 400 Bad Request\r\n\r\n"
    assert site_client.transport.disconnecting


@pytest.mark.parametrize("end", [b"", b" HTTP/1.1\r\n"])
def test_a_request_line_that_is_too_long_is_414(site_client: SiteClient, end: bytes) -> None:
    """Also before its end arrives, and whatever follows on the connection."""
    line = b"GET /api/v1/search?agentname=" + b"a" * 16_384 + end
    expected = (414, "the first line of a request must have at most 16384 bytes")
    assert parse_refusal(site_client.send(line)) == expected
    assert site_client.send(b"a" * 100_000 + HEARTBEAT) == b""


@pytest.mark.parametrize("headers", [[b"X: " + b"a" * 16_384], [b"X: " + b"a" * 400] * 41])
def test_headers_that_are_too_long_are_431(site_client: SiteClient, headers: list[bytes]) -> None:
    head = b"\r\n".join([b"GET /api/v1/heartbeat HTTP/1.1", b"Host: mig.example", *headers, b""])
    answer = site_client.send(head)
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert "at most 16384 bytes together" in parse_refusal(answer)[1]
    assert site_client.send(HEARTBEAT) == b""


def test_header_values_that_are_not_text_break_nothing(site_client: SiteClient) -> None:
    for name in ("Authorization", "Cookie", "X-Forwarded-For", "Accept", "Connection"):
        for value in ("\xff\x80\x01", "=;,=" * 3_000):
            head = build_post_head(CREATE, FORM, "Content-Length: 8", f"{name}: {value}")
            assert b" 200 " in site_client.send(head + b"action=1")


@pytest.mark.parametrize("pieces", [1, 7, 10_000])
@pytest_twisted.ensureDeferred
async def test_pipelined_requests_are_answered_in_order(server: Server, pieces: int) -> None:
    requests = b"".join(
        build_post_head(
            CREATE, FORM, "Content-Length: 9", *(["Connection: close"] if n == 9 else [])
        )
        + b"action=_%d" % n
        for n in range(10)
    )
    size = -(-len(requests) // pieces)
    answer = await server.exchange_bytes(
        *(requests[n : n + size] for n in range(0, len(requests), size))
    )
    assert [int(part[:1]) for part in answer.split(b'{"action": "_')[1:]] == list(range(10))
    assert server.echo_routes.call_count == 10


# Slow clients


def send_slowly(site_client: SiteClient, data: bytes, seconds: float, step: float = 0.9) -> bytes:
    """Send *data* byte by byte for *seconds*, and return the answer."""
    answer = b""
    for n in range(int(seconds / step)):
        answer += site_client.send(data[n : n + 1]) + site_client.advance(step)
    return answer


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 100,
        b"GET /api/v1/heartbeat HTTP/1.1\r\n" + b"X: a\r\n" * 100,
        HEARTBEAT + b"\r\nG" + b"a" * 100,
    ],
    ids=["first line", "headers", "second request"],
)
def test_headers_have_a_deadline(site_client: SiteClient, data: bytes) -> None:
    if data.startswith(HEARTBEAT):
        assert b" 200 " in site_client.send(HEARTBEAT)
        site_client.advance(50)
        data = data[len(HEARTBEAT) :]
    else:
        site_client.advance(50)
    site_client.send(data[:40])
    assert not send_slowly(site_client, data[40:], LIMITS.header_seconds - 1)
    status, message = parse_refusal(site_client.advance(2))
    assert (status, message) == (408, "the request's headers must arrive within 15 seconds")
    site_client.advance(LIMITS.linger_seconds)
    assert site_client.transport.disconnected


@pytest.mark.parametrize("header", ["Content-Length: 1000", CHUNKED])
def test_a_body_has_a_deadline(site_client: SiteClient, header: str) -> None:
    site_client.send(build_post_head(CREATE, FORM, header))
    data = encode_chunk(b"a" * 500) if header == CHUNKED else b"a" * 500
    assert not send_slowly(site_client, data, LIMITS.body_seconds - 1)
    status, message = parse_refusal(site_client.advance(2))
    assert (status, message) == (408, "the request's body must arrive within 60 seconds")
    assert site_client.echo_routes.call_count == site_client.site.buffered_bytes == 0


def test_a_long_body_has_more_time(site_client: SiteClient) -> None:
    """It is still bounded: each second of it needs another 16 KiB."""
    site_client.send(build_post_head(CREATE, FORM, f"Content-Length: {MAX_BYTES}"))
    site_client.send(b"a" * 10 * LIMITS.body_bytes_per_second)
    assert not site_client.advance(LIMITS.body_seconds)
    assert not site_client.advance(5)
    site_client.send(b"a" * LIMITS.body_bytes_per_second)
    assert not site_client.advance(5)
    assert not site_client.advance(0.5)
    assert parse_refusal(site_client.advance(0.5))[0] == 408


def test_a_body_that_never_comes_has_the_same_deadline(site_client: SiteClient) -> None:
    site_client.send(build_post_head(CREATE, FORM, "Content-Length: 1000"))
    assert not site_client.advance(LIMITS.body_seconds - 1)
    assert parse_refusal(site_client.advance(1))[0] == 408


def test_each_request_has_its_own_deadlines(site_client: SiteClient) -> None:
    request = build_post_head(CREATE, FORM, "Content-Length: 8") + b"action=1"
    for _ in range(5):
        assert not site_client.send(request[:20])
        site_client.advance(LIMITS.header_seconds - 1)
        assert not site_client.send(request[20:-1])
        site_client.advance(LIMITS.body_seconds - 1)
        assert b" 200 " in site_client.send(request[-1:])


def test_a_deadline_restarts_for_a_request_in_the_same_segment(site_client: SiteClient) -> None:
    site_client.send(HEARTBEAT[:20])
    site_client.advance(14)
    assert b" 200 " in site_client.send(HEARTBEAT[20:] + HEARTBEAT[:20])
    site_client.advance(14)
    assert b" 200 " in site_client.send(HEARTBEAT[20:])


def test_an_idle_connection_is_closed_without_an_answer(site_client: SiteClient) -> None:
    assert b" 200 " in site_client.send(HEARTBEAT)
    assert not site_client.advance(LIMITS.idle_seconds - 1)
    assert not site_client.transport.disconnecting
    assert not site_client.advance(1)
    assert site_client.transport.disconnecting


def test_a_client_that_leaves_leaves_nothing_behind(site_client: SiteClient) -> None:
    site_client.channel.connectionLost()
    for data in (b"GET", build_post_head(CREATE, FORM, "Content-Length: 9") + b"a", HEARTBEAT):
        site_client.connect()
        site_client.send(data)
        site_client.channel.connectionLost()
    assert not site_client.clock.getDelayedCalls()
    assert site_client.site.buffered_bytes == 0


def test_each_request_is_reported_once_when_it_has_ended(site_client: SiteClient) -> None:
    site_client.send(HEARTBEAT)
    site_client.clock.advance(2)
    site_client.send(build_post_head(CREATE, FORM, "Content-Length: 9"))
    site_client.clock.advance(3)
    site_client.channel.connectionLost()
    answered, abandoned = site_client.ended
    assert (answered.method, answered.uri) == (b"GET", b"/api/v1/heartbeat")
    assert (answered.route, answered.caller) == ("/heartbeat", "-")
    assert (answered.client, answered.status, answered.outcome) == ("127.0.0.1", 200, "complete")
    assert (answered.rows, answered.sent_bytes > 100) == (0, True)
    assert (abandoned.route, abandoned.outcome, abandoned.seconds) == (
        "/action/create/",
        "client left",
        3,
    )
    assert int(abandoned.operation) != int(answered.operation)


def test_a_refused_request_is_reported(site_client: SiteClient) -> None:
    site_client.send(build_post_head(CREATE, FORM, "Content-Length: 99999999"))
    site_client.connect()
    site_client.send(b"GET \xff\x1b")
    site_client.advance(LIMITS.header_seconds)
    too_large, too_slow = site_client.ended
    assert (too_large.status, too_large.caller) == (413, None)
    assert too_large.outcome.startswith("refused: the body")
    assert (too_slow.method, too_slow.uri, too_slow.route) == (b"-", b"/", None)
    assert too_slow.status == 408


def test_a_failing_observer_prevents_no_answer() -> None:
    def fail(event: RequestEnded) -> None:
        raise ValueError(event.operation)

    site_client = SiteClient(observers=[fail])
    assert site_client.send(HEARTBEAT).count(b" 200 ") == 1
    assert len(site_client.ended) == 1
