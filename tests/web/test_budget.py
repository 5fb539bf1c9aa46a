"""The memory for bodies is shared fairly between clients."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mig.errors import UnavailableError
from mig.limits import Limits
from mig.web.budget import BodyBudget
from tests.support.site_client import CREATE, FORM, SiteClient, build_post_head, parse_refusal

LIMITS = Limits(
    action_body_bytes=40,
    key_body_bytes=40,
    total_body_bytes=100,
    reserved_body_bytes=20,
    small_body_bytes=5,
)


class FakeBody:
    """A body that records why it was refused."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.size = 0
        self.is_complete = False
        self.errors: list[Exception] = []

    def refuse(self, error: Exception) -> None:
        self.errors.append(error)


class Bodies:
    """Bodies that share a budget."""

    def __init__(self) -> None:
        self.budget = BodyBudget(LIMITS)
        self.held: list[FakeBody] = []

    def add(self, client: str, size: int, *, is_complete: bool = False) -> FakeBody:
        body = FakeBody(client)
        self.grow(body, size)
        body.is_complete = is_complete
        return body

    def grow(self, body: FakeBody, count: int) -> bool:
        """Return whether the body got room for *count* more bytes."""
        if body not in self.held:
            self.held.append(body)
        try:
            self.budget.reserve(body, count)
        except UnavailableError:
            self.held.remove(body)
            return False
        finally:
            self.held = [each for each in self.held if not each.errors]
        return True

    def release(self, body: FakeBody) -> None:
        self.budget.release(body)
        self.held.remove(body)

    def count(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for body in self.held:
            counts[body.client] += body.size
        return counts


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "grow", "grow", "complete", "release"]),
        st.sampled_from("abc"),
        st.integers(1, 40),
    ),
    max_size=60,
)


@given(STEPS)
def test_the_limits_hold_and_only_the_largest_is_refused(
    steps: list[tuple[str, str, int]],
) -> None:
    bodies = Bodies()
    for step, client, number in steps:
        incomplete = [body for body in bodies.held if not body.is_complete]
        if step == "begin":
            grow_and_check(bodies, FakeBody(client), min(number, 40))
        elif step == "grow" and incomplete:
            body = incomplete[number % len(incomplete)]
            grow_and_check(bodies, body, min(number, 40 - body.size))
        elif step == "complete" and incomplete:
            incomplete[number % len(incomplete)].is_complete = True
        elif step == "release" and bodies.held:
            bodies.release(bodies.held[number % len(bodies.held)])


def grow_and_check(bodies: Bodies, body: FakeBody, count: int) -> None:
    sizes = {each: each.size for each in [*bodies.held, body]}
    sizes[body] += count
    before = [*sizes]
    bodies.grow(body, count)
    counts = bodies.count()
    assert bodies.budget.total == sum(counts.values()) <= 100
    assert all(total <= 50 for total in counts.values())
    assert sum(max(0, each.size - 5) for each in bodies.held) <= 80
    for refused in before:
        if refused in bodies.held:
            continue
        assert not refused.is_complete
        assert refused.size == 0
        larger = [
            each
            for each in before
            if each in bodies.held
            and each.client == refused.client
            and not each.is_complete
            and each.size > sizes[refused]
        ]
        assert not larger
        # a client that held less than another, of which something could be refused, lost nothing
        total = sum(size for each, size in sizes.items() if each.client == refused.client)
        for other in {each.client for each in bodies.held if not each.is_complete}:
            kept = [each for each in bodies.held if each.client == other and not each.is_complete]
            if other != refused.client and max(each.size for each in kept) > 5:
                assert counts[other] <= max(total, 50)


def test_a_small_body_makes_the_largest_of_a_flood_give_way() -> None:
    bodies = Bodies()
    flood = [bodies.add("flood", 25), bodies.add("flood", 20), bodies.add("other", 40)]
    bob = bodies.add("bob", 30)
    assert [bool(body.errors) for body in flood] == [True, False, False]
    assert (bob.size, bodies.budget.total) == (30, 90)


def test_a_client_may_have_half() -> None:
    bodies = Bodies()
    first, second = bodies.add("a", 30), bodies.add("a", 20)
    assert not bodies.grow(FakeBody("a"), 31)
    assert bodies.grow(second, 1)
    assert first.errors
    assert bodies.budget.total == 21


def test_small_bodies_have_room_beside_large_ones_that_are_handled() -> None:
    bodies = Bodies()
    for client in "ab":
        bodies.add(client, 40, is_complete=True)
    assert not bodies.grow(FakeBody("bob"), 16)
    assert all(bodies.grow(FakeBody("bob"), 5) for _ in range(4))


def test_the_longest_body_fits_into_the_share_of_a_client() -> None:
    """This also holds when the operator allows longer bodies than all memory for bodies."""
    longest = 2 * Limits().total_body_bytes
    budget = BodyBudget(Limits(action_body_bytes=longest))
    first, second = FakeBody("a"), FakeBody("b")
    budget.reserve(first, longest)
    budget.reserve(second, longest)
    assert not first.errors


@pytest.mark.parametrize("is_complete", [False, True])
def test_a_released_body_is_not_counted(is_complete: bool) -> None:
    bodies = Bodies()
    body = bodies.add("a", 40, is_complete=is_complete)
    bodies.budget.release(body)
    bodies.budget.release(body)
    assert bodies.budget.total == 0
    assert all(bodies.grow(FakeBody("a"), 10) for _ in range(5))


# Bodies on connections


def test_a_refused_body_is_answered_and_forgotten() -> None:
    site_client = SiteClient(limits=LIMITS)
    flooding, flood = site_client.channel, site_client.transport
    site_client.send(build_post_head(CREATE, FORM, "Content-Length: 40") + b"a" * 39)
    site_client.connect("192.0.2.1")
    other, transport = site_client.channel, site_client.transport
    site_client.send(build_post_head(CREATE, FORM, "Content-Length: 40") + b"a" * 35)
    site_client.connect("192.0.2.2")
    assert b" 200 " in site_client.send(
        build_post_head(CREATE, FORM, "Content-Length: 27") + b"action=" + b"a" * 20
    )
    answer = flood.value()
    assert parse_refusal(answer)[0] == 503
    assert b"Retry-After" in answer
    assert not transport.value()
    assert site_client.site.buffered_bytes == 35
    flooding.dataReceived(b"a")
    flooding.connectionLost()
    other.connectionLost()
    assert site_client.site.buffered_bytes == 0
    assert [event.status for event in site_client.ended] == [503, 200, 200]
