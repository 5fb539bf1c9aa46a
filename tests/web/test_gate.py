"""A client may rely on this while the service finds out who it is."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from mig.access.caller import ANONYMOUS, Caller
from mig.errors import ForbiddenError
from mig.limits import Limits
from mig.model.permissions import Permission
from mig.web.gate import Authenticator
from mig.web.request import Request
from tests.support.reactor import (
    LogRecorder,
    listen_on,
    port_number,
    reactor,
    record_log,
    stop_listening,
)
from tests.support.site_client import (
    BASE,
    CREATE,
    FORM,
    EchoRoutes,
    PendingAuthenticator,
    SiteClient,
    build_post_head,
    make_echo_site,
    parse_answer,
    parse_refusal,
)

LIMITS = Limits()
BODY = b"action=1"
HEAD = build_post_head(CREATE, FORM, "Content-Length: 8")
EXPECTING = build_post_head(CREATE, FORM, "Content-Length: 8", "Expect: 100-continue")
CHUNKED = build_post_head(CREATE, FORM, "Transfer-Encoding: chunked")
HEARTBEAT = b"GET /api/v1/heartbeat HTTP/1.1\r\nHost: localhost\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
NOBODY = Caller(name="nobody", permissions=Permission(0))


@pytest.fixture
def authenticator() -> PendingAuthenticator:
    return PendingAuthenticator()


@pytest.fixture
def site_client(authenticator: PendingAuthenticator) -> SiteClient:
    return SiteClient(authenticate=authenticator)


@pytest.fixture
def log() -> Iterator[LogRecorder]:
    """What is logged during the test."""
    with record_log() as log:
        yield log


# A request with a body


def test_a_body_in_the_same_segment_waits_and_is_then_read(
    site_client: SiteClient, authenticator: PendingAuthenticator
) -> None:
    assert not site_client.send(HEAD + BODY)
    assert (site_client.echo_routes.call_count, site_client.site.buffered_bytes) == (0, 0)
    authenticator.accept_next()
    assert parse_answer(site_client.take_output()) == (200, {"action": "1"})
    assert site_client.site.buffered_bytes == 0


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_request_in_pieces_waits_and_is_then_read(
    site_client: SiteClient, authenticator: PendingAuthenticator, size: int
) -> None:
    request = CHUNKED + b"8\r\n" + BODY + b"\r\n0\r\n\r\n"
    for n in range(0, len(request), size):
        assert not site_client.send(request[n : n + size])
    authenticator.accept_next()
    assert parse_answer(site_client.take_output()) == (200, {"action": "1"})


def test_a_body_is_asked_for_only_after_the_gate(
    site_client: SiteClient, authenticator: PendingAuthenticator
) -> None:
    assert not site_client.send(EXPECTING)
    authenticator.accept_next()
    assert site_client.take_output() == CONTINUE
    assert parse_answer(site_client.send(BODY)) == (200, {"action": "1"})


@pytest.mark.parametrize("body", [b"", BODY, BODY * 5_000])
def test_a_refused_client_is_not_asked_for_its_body(
    site_client: SiteClient, authenticator: PendingAuthenticator, body: bytes
) -> None:
    assert not site_client.send(EXPECTING + body)
    authenticator.refuse_next(ForbiddenError("not you"))
    assert parse_refusal(site_client.take_output()) == (403, "not you")
    assert not site_client.send(HEARTBEAT * 9)
    assert site_client.transport.producerState == "producing"
    site_client.advance(LIMITS.linger_seconds)
    assert site_client.transport.disconnected
    assert (site_client.echo_routes.call_count, site_client.site.buffered_bytes) == (0, 0)


@pytest.mark.parametrize("when", ["late", "in a coroutine", "at once"])
def test_a_caller_without_permission_is_refused_before_the_body(when: str) -> None:
    async def in_a_coroutine(request: Request) -> Caller:
        return NOBODY

    def at_once(request: Request) -> Caller:
        return NOBODY

    authenticator = PendingAuthenticator()
    ways: dict[str, Authenticator] = {
        "late": authenticator,
        "in a coroutine": in_a_coroutine,
        "at once": at_once,
    }
    site_client = SiteClient(authenticate=ways[when])
    answer = site_client.send(EXPECTING)
    if when == "late":
        authenticator.accept_next(NOBODY)
        answer = site_client.take_output()
    assert parse_refusal(answer) == (403, "this request needs the permission action_create")
    assert site_client.ended[0].caller == "-"
    assert site_client.echo_routes.call_count == 0


def test_little_is_read_of_a_body_that_waits(
    site_client: SiteClient, authenticator: PendingAuthenticator
) -> None:
    body = b"action=" + b"a" * 100_000
    head = build_post_head(CREATE, FORM, f"Content-Length: {len(body)}")
    site_client.send(head + body[:16_384])
    assert site_client.transport.producerState == "producing"
    site_client.send(body[16_384:80_000])
    assert site_client.transport.producerState == "paused"
    site_client.channel.resumeProducing()  # called by the transport when its buffer is empty
    assert site_client.transport.producerState == "paused"
    authenticator.accept_next()
    assert site_client.transport.producerState == "producing"
    assert site_client.site.buffered_bytes == 80_000
    status, document = parse_answer(site_client.send(body[80_000:]))
    assert (status, len(document["action"])) == (200, 100_000)


def test_requests_that_arrive_while_one_waits_are_answered_in_order(
    site_client: SiteClient, authenticator: PendingAuthenticator
) -> None:
    numbered = [HEAD + b"action=%d" % n for n in range(4)]
    site_client.send(numbered[0] + numbered[1] + HEARTBEAT)
    site_client.send(numbered[2] + numbered[3])
    answers = b""
    for _ in range(5):
        assert len(authenticator.waiting) == 1
        authenticator.accept_next()
        answers += site_client.take_output()
    order = [answers.index(text) for text in (b'"0"', b'"1"', b"gatorz", b'"2"', b'"3"')]
    assert order == sorted(order)
    assert not authenticator.waiting and site_client.echo_routes.call_count == 4


@pytest.mark.parametrize("is_coroutine", [True, False])
def test_a_gate_that_answers_at_once_delays_nothing(is_coroutine: bool) -> None:
    async def in_a_coroutine(request: Request) -> Caller:
        return ANONYMOUS

    def at_once(request: Request) -> Caller:
        return ANONYMOUS

    site_client = SiteClient(authenticate=in_a_coroutine if is_coroutine else at_once)
    assert site_client.send(EXPECTING) == CONTINUE
    assert not site_client.advance(LIMITS.body_seconds - 1)
    assert parse_answer(site_client.send(BODY)) == (200, {"action": "1"})
    site_client.send(EXPECTING)
    assert not site_client.advance(LIMITS.body_seconds - 1)
    assert "the request's body must arrive" in parse_refusal(site_client.advance(1))[1]


# A request without a body


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
def test_a_request_without_a_body_waits_too(
    site_client: SiteClient, authenticator: PendingAuthenticator, expect: bytes
) -> None:
    assert not site_client.send(HEARTBEAT[:-2] + expect + b"\r\n")
    assert not site_client.send(HEARTBEAT)
    authenticator.accept_next()
    assert site_client.take_output().startswith(b"HTTP/1.1 200 ")
    authenticator.accept_next()
    assert site_client.take_output().startswith(b"HTTP/1.1 200 ")


def test_a_refused_request_without_a_body_keeps_its_connection(
    site_client: SiteClient, authenticator: PendingAuthenticator
) -> None:
    assert not site_client.send(HEARTBEAT + HEARTBEAT)
    authenticator.refuse_next(ForbiddenError("not you"))
    refusal = site_client.take_output()
    assert refusal.startswith(b"HTTP/1.1 403 ") and b"Connection: close" not in refusal
    authenticator.accept_next()
    assert site_client.take_output().startswith(b"HTTP/1.1 200 ")


# Any request

REQUESTS = [
    HEARTBEAT,
    HEARTBEAT.replace(b"GET", b"HEAD"),
    HEARTBEAT.replace(b"heartbeat", b"nothing"),
    HEARTBEAT[:-2] + b"Content-Length: 5\r\n\r\nGET /",
    HEAD + BODY,
    EXPECTING + BODY,
    CHUNKED + b"3\r\nact\r\n5\r\nion=1\r\n0\r\n\r\n",
    build_post_head(CREATE, FORM, "Content-Length: 0"),
]


def remove_ids_and_times(answers: bytes) -> bytes:
    return re.sub(rb'(X-Request-Id: |Date: |Content-Length: |"code":")[^"\r]*', rb"\1", answers)


@given(
    st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 3))),
)
def test_a_late_gate_changes_no_answer(
    requests: list[bytes], pieces: list[tuple[int, int]]
) -> None:
    sent = b"".join(requests)
    expected = SiteClient().send(sent)
    authenticator = PendingAuthenticator()
    site_client = SiteClient(authenticate=authenticator)
    answers = b""
    for size, accepted in [*pieces, (len(sent), 0)]:
        answers += site_client.send(sent[:size])
        sent = sent[size:]
        for _ in range(min(accepted, len(authenticator.waiting))):
            authenticator.accept_next()
    while authenticator.waiting:
        authenticator.accept_next()
    answers += site_client.take_output()
    assert remove_ids_and_times(answers) == remove_ids_and_times(expected)
    assert site_client.site.buffered_bytes == 0
    assert site_client.transport.producerState == "producing"


# The end of the gate


def test_a_gate_that_takes_too_long_is_answered_with_503(
    site_client: SiteClient, authenticator: PendingAuthenticator
) -> None:
    for request in (HEARTBEAT, EXPECTING):
        site_client.connect()
        assert not site_client.send(request)
        assert not site_client.advance(LIMITS.gate_seconds - 1)
        answer = site_client.advance(1)
        assert answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After" in answer
        assert answer.count(b"HTTP/1.1") == 1
    assert [waiting.called for waiting in authenticator.waiting] == [True, True]
    assert "longer than 10 seconds" in site_client.ended[0].outcome


def test_no_other_deadline_runs_while_the_gate_decides(
    authenticator: PendingAuthenticator,
) -> None:
    site_client = SiteClient(authenticate=authenticator, limits=Limits(gate_seconds=1_000))
    for request in (HEARTBEAT, HEAD + BODY[:4]):
        site_client.connect()
        site_client.send(request)
        assert not site_client.advance(900)
        assert not site_client.transport.disconnecting
        authenticator.accept_next()
    assert not site_client.advance(LIMITS.body_seconds - 1)
    assert parse_refusal(site_client.advance(1)) == (
        408,
        "the request's body must arrive within 60 seconds",
    )


@pytest.mark.parametrize("request_bytes", [HEARTBEAT, EXPECTING, HEAD + BODY])
def test_a_client_that_leaves_ends_its_gate(
    site_client: SiteClient,
    authenticator: PendingAuthenticator,
    request_bytes: bytes,
    log: LogRecorder,
) -> None:
    site_client.send(request_bytes)
    [waiting] = authenticator.waiting
    site_client.channel.connectionLost()
    assert waiting.called
    assert [event.outcome for event in site_client.ended] == ["client left"]
    assert not site_client.clock.getDelayedCalls()
    assert (
        site_client.take_output(),
        site_client.echo_routes.call_count,
        site_client.site.buffered_bytes,
    ) == (b"", 0, 0)
    assert not log.failures


@pytest.mark.parametrize("request_bytes", [HEARTBEAT, EXPECTING, HEAD + BODY])
def test_a_gate_that_fails_shows_an_id_and_nothing_else(
    site_client: SiteClient,
    authenticator: PendingAuthenticator,
    request_bytes: bytes,
    log: LogRecorder,
) -> None:
    site_client.send(request_bytes)
    authenticator.refuse_next(ValueError("a secret"))
    answer = site_client.take_output()
    status, document = parse_answer(answer)
    assert (status, len(log.failures)) == (500, 1)
    assert document["collection"]["error"]["code"] == site_client.ended[0].operation
    assert b"secret" not in answer and b"100 Continue" not in answer
    assert site_client.echo_routes.call_count == 0


# On a real socket


async def wait_until(condition: Callable[[], bool]) -> None:
    """Let the reactor run until *condition* is true, 20 seconds at the most."""
    deadline = reactor.seconds() + 20
    while not condition():
        assert reactor.seconds() < deadline, "it never came true"
        await deferLater(reactor, 0)


class Server:
    """The site of :mod:`tests.support.site_client` on a real socket."""

    def __init__(self) -> None:
        self.authenticator = PendingAuthenticator()
        self.echo_routes = EchoRoutes()
        site = make_echo_site(reactor, BASE, self.echo_routes, authenticate=self.authenticator)
        self.port = listen_on("tcp:0").start_accepting(reactor, site)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port_number(self.port)), timeout=20)

    async def wait_until_asked(self) -> None:
        """Wait until the gate is asked."""
        await wait_until(lambda: bool(self.authenticator.waiting))


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[Server]:
    running = Server()
    yield running
    await stop_listening(running.port)


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_its_search_is_noticed_at_once(server: Server) -> None:
    with server.connect() as client:
        client.sendall(HEARTBEAT.replace(b"heartbeat", b"search"))
        await server.wait_until_asked()
    [waiting] = server.authenticator.waiting
    await wait_until(lambda: bool(waiting.called))
    assert server.echo_routes.call_count == 0


@pytest_twisted.ensureDeferred
async def test_a_long_body_that_waited_is_read_whole(server: Server) -> None:
    body = b"action=" + b"a" * 900_000

    def exchange_bytes() -> bytes:
        with server.connect() as client:
            head = build_post_head(
                CREATE, FORM, f"Content-Length: {len(body)}", "Connection: close"
            )
            client.sendall(head + body)
            parts = []
            while part := client.recv(65536):
                parts.append(part)
            return b"".join(parts)

    answer = deferToThread(exchange_bytes)
    await server.wait_until_asked()
    server.authenticator.accept_next(ANONYMOUS)
    status, document = parse_answer(await answer)
    assert (status, len(document["action"])) == (200, 900_000)
