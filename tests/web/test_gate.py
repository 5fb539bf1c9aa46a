"""What a client may rely on while the service still finds out who it is."""

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
from mig.access.permissions import Permission
from mig.errors import Forbidden
from mig.limits import Limits
from mig.service.listeners import bind
from mig.web.gate import Authenticate
from mig.web.request import Request
from tests.support.front import (
    BASE,
    CREATE,
    FORM,
    Front,
    LateAuthentication,
    Posts,
    a_site,
    answer_of,
    post,
    refusal_of,
)
from tests.support.reactor import Log, port_number, reactor, record_log, stop_listening

LIMITS = Limits()
BODY = b"action=1"
HEAD = post(CREATE, FORM, "Content-Length: 8")
EXPECTING = post(CREATE, FORM, "Content-Length: 8", "Expect: 100-continue")
CHUNKED = post(CREATE, FORM, "Transfer-Encoding: chunked")
HEARTBEAT = b"GET /api/v1/heartbeat HTTP/1.1\r\nHost: localhost\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
NOBODY = Caller(name="nobody", permissions=Permission(0))


@pytest.fixture
def late() -> LateAuthentication:
    return LateAuthentication()


@pytest.fixture
def front(late: LateAuthentication) -> Front:
    return Front(authenticate=late)


@pytest.fixture
def log() -> Iterator[Log]:
    """What is logged during the test."""
    with record_log() as log:
        yield log


# A request with a body


def test_a_body_in_the_same_segment_waits_and_is_then_read(
    front: Front, late: LateAuthentication
) -> None:
    assert not front.send(HEAD + BODY)
    assert (front.posts.ran, front.site.held_bytes) == (0, 0)
    late.accept()
    assert answer_of(front.answered()) == (200, {"action": "1"})
    assert front.site.held_bytes == 0


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_request_in_pieces_waits_and_is_then_read(
    front: Front, late: LateAuthentication, size: int
) -> None:
    request = CHUNKED + b"8\r\n" + BODY + b"\r\n0\r\n\r\n"
    for n in range(0, len(request), size):
        assert not front.send(request[n : n + size])
    late.accept()
    assert answer_of(front.answered()) == (200, {"action": "1"})


def test_a_body_is_asked_for_only_after_the_gate(front: Front, late: LateAuthentication) -> None:
    assert not front.send(EXPECTING)
    late.accept()
    assert front.answered() == CONTINUE
    assert answer_of(front.send(BODY)) == (200, {"action": "1"})


@pytest.mark.parametrize("body", [b"", BODY, BODY * 5_000])
def test_a_refused_client_is_not_asked_for_its_body(
    front: Front, late: LateAuthentication, body: bytes
) -> None:
    assert not front.send(EXPECTING + body)
    late.refuse(Forbidden("not you"))
    assert refusal_of(front.answered()) == (403, "not you")
    assert not front.send(HEARTBEAT * 9)
    assert front.transport.producerState == "producing"
    front.after(LIMITS.linger_seconds)
    assert front.transport.disconnected
    assert (front.posts.ran, front.site.held_bytes) == (0, 0)


@pytest.mark.parametrize("when", ["late", "in a coroutine", "at once"])
def test_who_lacks_the_permission_is_refused_before_the_body(when: str) -> None:
    async def in_a_coroutine(request: Request) -> Caller:
        return NOBODY

    def at_once(request: Request) -> Caller:
        return NOBODY

    late = LateAuthentication()
    ways: dict[str, Authenticate] = {
        "late": late,
        "in a coroutine": in_a_coroutine,
        "at once": at_once,
    }
    front = Front(authenticate=ways[when])
    answer = front.send(EXPECTING)
    if when == "late":
        late.accept(NOBODY)
        answer = front.answered()
    assert refusal_of(answer) == (403, "this needs the permission action_create")
    assert front.ended[0].caller == "nobody"
    assert front.posts.ran == 0


def test_little_is_read_of_a_body_that_waits(front: Front, late: LateAuthentication) -> None:
    body = b"action=" + b"a" * 100_000
    head = post(CREATE, FORM, f"Content-Length: {len(body)}")
    front.send(head + body[:16_384])
    assert front.transport.producerState == "producing"
    front.send(body[16_384:80_000])
    assert front.transport.producerState == "paused"
    front.channel.resumeProducing()  # the transport: what was to be written is
    assert front.transport.producerState == "paused"
    late.accept()
    assert front.transport.producerState == "producing"
    assert front.site.held_bytes == 80_000
    status, document = answer_of(front.send(body[80_000:]))
    assert (status, len(document["action"])) == (200, 100_000)


def test_requests_that_come_meanwhile_are_answered_in_order(
    front: Front, late: LateAuthentication
) -> None:
    numbered = [HEAD + b"action=%d" % n for n in range(4)]
    front.send(numbered[0] + numbered[1] + HEARTBEAT)
    front.send(numbered[2] + numbered[3])
    answers = b""
    for _ in range(5):
        assert len(late.waiting) == 1
        late.accept()
        answers += front.answered()
    order = [answers.index(text) for text in (b'"0"', b'"1"', b"gatorz", b'"2"', b'"3"')]
    assert order == sorted(order)
    assert not late.waiting and front.posts.ran == 4


@pytest.mark.parametrize("is_coroutine", [True, False])
def test_a_gate_that_answers_at_once_puts_nothing_off(is_coroutine: bool) -> None:
    async def in_a_coroutine(request: Request) -> Caller:
        return ANONYMOUS

    def at_once(request: Request) -> Caller:
        return ANONYMOUS

    front = Front(authenticate=in_a_coroutine if is_coroutine else at_once)
    assert front.send(EXPECTING) == CONTINUE
    assert not front.after(LIMITS.body_seconds - 1)
    assert answer_of(front.send(BODY)) == (200, {"action": "1"})
    front.send(EXPECTING)
    assert not front.after(LIMITS.body_seconds - 1)
    assert "the request's body must come" in refusal_of(front.after(1))[1]


# A request without a body


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
def test_a_request_without_a_body_waits_too(
    front: Front, late: LateAuthentication, expect: bytes
) -> None:
    assert not front.send(HEARTBEAT[:-2] + expect + b"\r\n")
    assert not front.send(HEARTBEAT)
    late.accept()
    assert front.answered().startswith(b"HTTP/1.1 200 ")
    late.accept()
    assert front.answered().startswith(b"HTTP/1.1 200 ")


def test_a_refused_reader_keeps_its_connection(front: Front, late: LateAuthentication) -> None:
    assert not front.send(HEARTBEAT + HEARTBEAT)
    late.refuse(Forbidden("not you"))
    refusal = front.answered()
    assert refusal.startswith(b"HTTP/1.1 403 ") and b"Connection: close" not in refusal
    late.accept()
    assert front.answered().startswith(b"HTTP/1.1 200 ")


# Any of them

REQUESTS = [
    HEARTBEAT,
    HEARTBEAT.replace(b"GET", b"HEAD"),
    HEARTBEAT.replace(b"heartbeat", b"nothing"),
    HEARTBEAT[:-2] + b"Content-Length: 5\r\n\r\nGET /",
    HEAD + BODY,
    EXPECTING + BODY,
    CHUNKED + b"3\r\nact\r\n5\r\nion=1\r\n0\r\n\r\n",
    post(CREATE, FORM, "Content-Length: 0"),
]


def everything_but_names_and_times(answers: bytes) -> bytes:
    return re.sub(rb'(X-Request-Id: |Date: |Content-Length: |"code":")[^"\r]*', rb"\1", answers)


@given(
    st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 3))),
)
def test_a_late_gate_changes_no_answer(
    requests: list[bytes], pieces: list[tuple[int, int]]
) -> None:
    sent = b"".join(requests)
    expected = Front().send(sent)
    late = LateAuthentication()
    front = Front(authenticate=late)
    answers = b""
    for size, accepted in [*pieces, (len(sent), 0)]:
        answers += front.send(sent[:size])
        sent = sent[size:]
        for _ in range(min(accepted, len(late.waiting))):
            late.accept()
    while late.waiting:
        late.accept()
    answers += front.answered()
    assert everything_but_names_and_times(answers) == everything_but_names_and_times(expected)
    assert front.site.held_bytes == 0
    assert front.transport.producerState == "producing"


# The end of the gate


def test_a_gate_has_an_end(front: Front, late: LateAuthentication) -> None:
    for request in (HEARTBEAT, EXPECTING):
        front.connect()
        assert not front.send(request)
        assert not front.after(LIMITS.gate_seconds - 1)
        answer = front.after(1)
        assert answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After" in answer
        assert answer.count(b"HTTP/1.1") == 1
    assert [waiting.called for waiting in late.waiting] == [True, True]
    assert "more than 10 seconds" in front.ended[0].outcome


def test_no_other_deadline_passes_while_the_gate_is_asked(late: LateAuthentication) -> None:
    front = Front(authenticate=late, limits=Limits(gate_seconds=1_000))
    for request in (HEARTBEAT, HEAD + BODY[:4]):
        front.connect()
        front.send(request)
        assert not front.after(900)
        assert not front.transport.disconnecting
        late.accept()
    assert not front.after(LIMITS.body_seconds - 1)
    assert refusal_of(front.after(1)) == (
        408,
        "the request's body must come within 60 seconds",
    )


@pytest.mark.parametrize("request_bytes", [HEARTBEAT, EXPECTING, HEAD + BODY])
def test_a_client_that_leaves_ends_its_gate(
    front: Front, late: LateAuthentication, request_bytes: bytes, log: Log
) -> None:
    front.send(request_bytes)
    [waiting] = late.waiting
    front.channel.connectionLost()
    assert waiting.called
    assert [event.outcome for event in front.ended] == ["client left"]
    assert not front.clock.getDelayedCalls()
    assert (front.answered(), front.posts.ran, front.site.held_bytes) == (b"", 0, 0)
    assert not log.failures


@pytest.mark.parametrize("request_bytes", [HEARTBEAT, EXPECTING, HEAD + BODY])
def test_a_gate_that_fails_shows_an_id_and_nothing_else(
    front: Front, late: LateAuthentication, request_bytes: bytes, log: Log
) -> None:
    front.send(request_bytes)
    late.refuse(ValueError("a secret"))
    answer = front.answered()
    status, document = answer_of(answer)
    assert (status, len(log.failures)) == (500, 1)
    assert document["collection"]["error"]["code"] == front.ended[0].operation
    assert b"secret" not in answer and b"100 Continue" not in answer
    assert front.posts.ran == 0


# On a real socket


async def eventually(holds: Callable[[], bool]) -> None:
    """Let the reactor run until *holds* does, 20 seconds at the most."""
    deadline = reactor.seconds() + 20
    while not holds():
        assert reactor.seconds() < deadline, "it never came true"
        await deferLater(reactor, 0)


class Server:
    """The site of :mod:`tests.support.front` on a real socket."""

    def __init__(self) -> None:
        self.late = LateAuthentication()
        self.posts = Posts()
        site = a_site(reactor, BASE, self.posts, authenticate=self.late)
        self.port = bind("tcp:0").accept(reactor, site)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port_number(self.port)), timeout=20)

    async def asked(self) -> None:
        """Come back when the gate was asked."""
        await eventually(lambda: bool(self.late.waiting))


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[Server]:
    running = Server()
    yield running
    await stop_listening(running.port)


@pytest.mark.parametrize("request_bytes", [HEARTBEAT, EXPECTING, HEAD + BODY])
@pytest_twisted.ensureDeferred
async def test_that_a_client_has_left_is_seen_at_once(server: Server, request_bytes: bytes) -> None:
    with server.connect() as client:
        client.sendall(request_bytes)
        await server.asked()
    [waiting] = server.late.waiting
    await eventually(lambda: bool(waiting.called))
    assert server.posts.ran == 0


@pytest_twisted.ensureDeferred
async def test_a_long_body_that_waited_is_read_whole(server: Server) -> None:
    body = b"action=" + b"a" * 900_000

    def talk() -> bytes:
        with server.connect() as client:
            head = post(CREATE, FORM, f"Content-Length: {len(body)}", "Connection: close")
            client.sendall(head + body)
            parts = []
            while part := client.recv(65536):
                parts.append(part)
            return b"".join(parts)

    answer = deferToThread(talk)
    await server.asked()
    server.late.accept(ANONYMOUS)
    status, document = answer_of(await answer)
    assert (status, len(document["action"])) == (200, 900_000)
