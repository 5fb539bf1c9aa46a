"""A client may send a burst, and then as many requests in a second as the rate says."""

from __future__ import annotations

import json
from collections.abc import Hashable
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from mig.access.caller import Caller
from mig.errors import TooManyRequestsError
from mig.limits import Limits
from mig.model.permissions import ALL_PERMISSIONS, Permission
from mig.web.interfaces import Client
from mig.web.rates import RateLimiter, RequestLimiter
from tests.support.site_client import CREATE, FORM, SiteClient, build_post_head

ADDRESS = b"GET /api/v1/ip HTTP/1.1\r\nHost: localhost\r\n\r\n"
HERE = Client(address="127.0.0.1", group="127.0.0.1", is_loopback=True)
THERE = Client(address="192.0.2.1", group="192.0.2.1", is_loopback=False)
ELSEWHERE = Client(address="192.0.2.2", group="192.0.2.2", is_loopback=False)
ALICE = Caller(name="Alice", permissions=ALL_PERMISSIONS, investigator_id=1, key_id=7)
BOB = Caller(name="Bob", permissions=ALL_PERMISSIONS, investigator_id=2)


def make_limiter(clock: Clock, limits: Limits) -> RateLimiter:
    return RateLimiter(clock, "address", limits)


def count_accepted(limiter: RateLimiter, sender: Hashable, requests: int) -> int:
    accepted = 0
    for _ in range(requests):
        try:
            limiter.check(sender)
        except TooManyRequestsError:
            continue
        accepted += 1
    return accepted


def test_a_burst_is_accepted_and_then_the_rate() -> None:
    clock = Clock()
    limiter = make_limiter(clock, Limits())
    assert count_accepted(limiter, "a", 1000) == 200
    assert count_accepted(limiter, "b", 10) == 10, "others are not affected"
    clock.advance(1)
    assert count_accepted(limiter, "a", 1000) == 50
    clock.advance(1000)
    assert count_accepted(limiter, "a", 1000) == 200


@pytest.mark.parametrize("pause", [0.0004, 0.004, 0.0101, 0.019])
def test_a_client_that_never_waits_gets_no_more_than_the_rate(pause: float) -> None:
    clock = Clock()
    limiter = make_limiter(clock, Limits())
    accepted = 0
    while clock.seconds() < 20:
        accepted += count_accepted(limiter, "a", 1)
        clock.advance(pause)
    assert accepted == pytest.approx(min(200 + 50 * 20, 20 / pause), abs=2)


def test_a_client_that_waits_as_long_as_told_is_accepted() -> None:
    clock = Clock()
    limiter = make_limiter(clock, Limits(rate=0.5, burst=2))
    count_accepted(limiter, "a", 2)
    with pytest.raises(
        TooManyRequestsError, match=r"more than 2 requests at once and 0\.5 a"
    ) as told:
        limiter.check("a")
    assert dict(told.value.headers) == {
        b"retry-after": b"2",
        b"ratelimit-policy": b'"address";q=2;w=4',
        b"ratelimit": b'"address";r=0;t=2',
    }
    clock.advance(2)
    limiter.check("a")


@given(
    st.floats(0.1, 1000),
    st.integers(1, 100),
    st.lists(st.tuples(st.floats(0, 10), st.sampled_from("abc")), max_size=200),
)
def test_nobody_gets_more_than_burst_and_rate(
    rate: float, burst: int, requests: list[tuple[float, str]]
) -> None:
    """Nor less: a request is refused only when the client has used up both."""
    clock = Clock()
    limiter = make_limiter(clock, Limits(rate=rate, burst=burst))
    tokens = dict.fromkeys("abc", float(burst))
    seen = dict.fromkeys("abc", 0.0)
    for pause, client in requests:
        clock.advance(pause)
        now = clock.seconds()
        tokens[client] = min(burst, tokens[client] + (now - seen[client]) * rate)
        seen[client] = now
        if abs(tokens[client] - 1) < 0.6:
            continue  # within half a request, rounding may decide either way
        if tokens[client] > 1:
            limiter.check(client)
            tokens[client] -= 1
        else:
            with pytest.raises(TooManyRequestsError):
                limiter.check(client)


def test_it_remembers_a_bounded_number_of_clients() -> None:
    limiter = make_limiter(Clock(), Limits(rate=1, burst=1, limited_clients=100))
    for n in range(105):
        limiter.check(n)
    limiter.check(0)
    with pytest.raises(TooManyRequestsError):
        limiter.check(100)
    assert len(limiter._due) == 100


def test_it_forgets_a_client_that_may_send_a_burst_again() -> None:
    clock = Clock()
    limiter = make_limiter(clock, Limits(rate=1, burst=1))
    for n in range(100):
        limiter.check(n)
    clock.advance(1)
    for n in range(20):
        limiter.check(f"new {n}")
    assert len(limiter._due) == 20


def test_a_request_makes_it_forget_few_clients_at_a_time() -> None:
    """Otherwise one request would take as long as all that came before."""
    clock = Clock()
    limiter = make_limiter(clock, Limits(rate=1, burst=1))
    for n in range(1000):
        limiter.check(n)
    clock.advance(1)
    limiter.check("new")
    assert len(limiter._due) > 900


def test_a_changed_limit_counts_at_once_for_clients_that_wait() -> None:
    clock, limits = Clock(), Limits(rate=0.1, burst=1000)
    limiter = make_limiter(clock, limits)
    assert count_accepted(limiter, "a", 1000) == 1000
    limits.change(Limits(rate=10, burst=5))
    assert count_accepted(limiter, "a", 10) == 0
    clock.advance(1)
    assert count_accepted(limiter, "a", 10) == 5


def test_an_address_and_an_investigator_are_limited_each_on_its_own() -> None:
    """All keys and tokens of an investigator count together, from all addresses."""
    limiter = RequestLimiter(Clock(), Limits(burst=2))
    other_key = Caller(name="Alice", permissions=ALL_PERMISSIONS, investigator_id=1, key_id=8)
    for client, caller in ((THERE, ALICE), (ELSEWHERE, other_key)):
        limiter.check_address(client)
        limiter.check_caller(client, caller)
    with pytest.raises(TooManyRequestsError) as told:
        limiter.check_caller(ELSEWHERE, ALICE)
    assert dict(told.value.headers)[b"ratelimit-policy"] == b'"caller";q=2;w=1'
    limiter.check_caller(ELSEWHERE, BOB)
    limiter.check_address(THERE)
    with pytest.raises(TooManyRequestsError):
        limiter.check_address(THERE)


def test_long_answers_are_limited_by_address_and_by_investigator() -> None:
    limiter = RequestLimiter(Clock(), Limits(streams=2))
    with ExitStack() as streams:
        streams.enter_context(limiter.count_stream(THERE, ALICE))
        with limiter.count_stream(ELSEWHERE, ALICE):
            with (
                pytest.raises(TooManyRequestsError) as told,
                limiter.count_stream(ELSEWHERE, ALICE),
            ):
                pass
            assert dict(told.value.headers) == {
                b"retry-after": b"5",
                b"ratelimit-policy": b'"caller-streams";q=2;qu="concurrent-requests"',
                b"ratelimit": b'"caller-streams";r=0;t=5',
            }
            with limiter.count_stream(ELSEWHERE, BOB):
                with pytest.raises(TooManyRequestsError, match="one address"):
                    streams.enter_context(limiter.count_stream(ELSEWHERE, None))
                streams.enter_context(limiter.count_stream(THERE, None))
    assert not limiter._streams, "what has ended takes no memory"
    with limiter.count_stream(THERE, ALICE), limiter.count_stream(THERE, ALICE):
        pass


def test_a_client_on_this_host_is_exempt_unless_it_is_not() -> None:
    limits = Limits(burst=1, streams=1)
    limiter = RequestLimiter(Clock(), limits)
    for _ in range(3):
        limiter.check_address(HERE)
        limiter.check_caller(HERE, ALICE)
    with limiter.count_stream(HERE, ALICE), limiter.count_stream(HERE, ALICE):
        pass
    limits.change(Limits(burst=1, streams=1, loopback=True))
    limiter.check_address(HERE)
    limiter.check_caller(HERE, ALICE)
    with pytest.raises(TooManyRequestsError):
        limiter.check_address(HERE)
    with pytest.raises(TooManyRequestsError):
        limiter.check_caller(HERE, ALICE)
    with (
        limiter.count_stream(HERE, ALICE),
        pytest.raises(TooManyRequestsError),
        limiter.count_stream(HERE, ALICE),
    ):
        pass


# At the gate


def read_status(answer: bytes) -> int:
    return int(answer.split()[1])


def test_addresses_of_one_network_of_64_bits_share_a_limit() -> None:
    site_client = SiteClient(limits=Limits(burst=2))
    for host, status in (("2001:db8::1", 200), ("2001:db8::2", 200), ("2001:db8::3", 429)):
        site_client.connect(host)
        assert read_status(site_client.send(ADDRESS)) == status
    for host in ("2001:db8:0:1::1", "192.0.2.1"):
        site_client.connect(host)
        assert read_status(site_client.send(ADDRESS)) == 200


def test_a_refusal_for_too_many_requests_says_what_is_accepted() -> None:
    site_client = SiteClient(limits=Limits(rate=2, burst=1))
    site_client.connect("192.0.2.1")
    site_client.send(ADDRESS)
    head, _, body = site_client.send(ADDRESS).partition(b"\r\n\r\n")
    headers = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert headers[b"content-type"] == b"application/vnd.collection+json"
    assert headers[b"retry-after"] == b"1"
    assert headers[b"ratelimit-policy"] == b'"address";q=1;w=1'
    assert headers[b"ratelimit"] == b'"address";r=0;t=1'
    error = json.loads(body)["collection"]["error"]
    assert error["title"] == "Too Many Requests"
    assert error["message"] == (
        "more than 1 requests at once and 2 a second of one address are not accepted;"
        " Retry-After says when the next one is"
    )
    site_client.clock.advance(1)
    assert read_status(site_client.send(ADDRESS)) == 200


def test_the_path_is_checked_before_the_rate_and_the_body_after_it() -> None:
    """A body that is refused for the rate is never asked for, nor are credentials checked."""

    def fail(request: object) -> Caller:
        raise AssertionError("credentials are checked")

    site_client = SiteClient(limits=Limits(burst=1), authenticate=fail)
    missing = b"GET /api/v1/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"
    wrong = b"DELETE /api/v1/ip HTTP/1.1\r\nHost: localhost\r\n\r\n"
    options = b"OPTIONS /api/v1/ip HTTP/1.1\r\nHost: localhost\r\n\r\n"
    too_long = build_post_head(CREATE, FORM, "Content-Length: 99999999", "Expect: 100-continue")
    site_client.connect("192.0.2.1")
    assert read_status(site_client.send(missing)) == 404
    assert read_status(site_client.send(too_long)) == 413
    site_client.connect("192.0.2.1")
    for request, status in ((missing, 404), (wrong, 405), (options, 429), (too_long, 429)):
        assert read_status(site_client.send(request)) == status


def test_a_caller_is_limited_after_their_permission_is_checked() -> None:
    """What they may not do does not count, and nothing of their body is kept."""
    nobody = Caller(name="Alice", permissions=Permission(0), investigator_id=1)
    callers = iter([nobody, ALICE, ALICE, BOB])
    site_client = SiteClient(limits=Limits(burst=1), authenticate=lambda _: next(callers))
    request = build_post_head(CREATE, FORM, "Content-Length: 8") + b"action=1"
    for n, status in enumerate((403, 200, 429, 200)):
        site_client.connect(f"192.0.2.{n + 1}")
        assert read_status(site_client.send(request)) == status
    assert (site_client.echo_routes.call_count, site_client.site.buffered_bytes) == (2, 0)


@pytest.mark.parametrize("path", ["/api/v1/heartbeat", "/api/v1/readyz"])
def test_a_health_check_is_answered_whatever_else_its_address_sends(path: str) -> None:
    """The load balancer's checks come from the same address as all requests that it forwards."""
    site_client = SiteClient(limits=Limits(burst=1))
    check = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    site_client.connect("192.0.2.1")
    for request, status in ((check, 200), (ADDRESS, 200), (ADDRESS, 429), (check, 200)):
        assert read_status(site_client.send(request)) == status
