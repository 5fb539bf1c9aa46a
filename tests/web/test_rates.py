"""A client may send a burst, and then as many requests in a second as the rate says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from mig.errors import TooManyRequestsError
from mig.web import rates
from mig.web.rates import RateLimiter


def count_accepted(limiter: RateLimiter, client: str, requests: int) -> int:
    accepted = 0
    for _ in range(requests):
        try:
            limiter.check(client)
        except TooManyRequestsError:
            continue
        accepted += 1
    return accepted


def test_a_burst_is_accepted_and_then_the_rate() -> None:
    clock = Clock()
    limiter = RateLimiter(clock, "default", rate=50, burst=200)
    assert count_accepted(limiter, "a", 1000) == 200
    assert count_accepted(limiter, "b", 10) == 10, "others are not affected"
    clock.advance(1)
    assert count_accepted(limiter, "a", 1000) == 50
    clock.advance(1000)
    assert count_accepted(limiter, "a", 1000) == 200


def test_who_waits_as_long_as_told_is_accepted() -> None:
    clock = Clock()
    limiter = RateLimiter(clock, "default", rate=0.5, burst=2)
    count_accepted(limiter, "a", 2)
    with pytest.raises(TooManyRequestsError) as caught:
        limiter.check("a")
    assert dict(caught.value.headers) == {
        b"retry-after": b"2",
        b"ratelimit-policy": b'"default";q=2;w=4',
        b"ratelimit": b'"default";r=0;t=2',
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
    limiter = RateLimiter(clock, "default", rate=rate, burst=burst)
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
    limiter = RateLimiter(Clock(), "default", rate=1, burst=1)
    for n in range(rates.MAX_CLIENTS + 5):
        limiter.check(n)
    limiter.check(0)
    with pytest.raises(TooManyRequestsError):
        limiter.check(rates.MAX_CLIENTS)


def test_it_forgets_a_client_that_may_send_a_burst_again() -> None:
    clock = Clock()
    limiter = RateLimiter(clock, "default", rate=1, burst=1)
    for n in range(100):
        limiter.check(n)
    clock.advance(1)
    limiter.check("last")
    assert len(limiter._due) == 1
