"""A fair queue shares its turns and its places between those who wait."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mig.errors import UnavailableError
from mig.fair_queue import FairQueue, FairSemaphore, Flow

FLOWS = st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"))
ARRIVALS = st.lists(FLOWS, max_size=60)


def count_flows(items: list[tuple[int, Flow]], level: int = 2) -> Counter[Flow]:
    return Counter(flow[:level] for _, flow in items)


class ModelQueue:
    """A short description of a fair queue, which remembers when each flow had its last turn."""

    def __init__(self, max_length: int) -> None:
        self.queue: FairQueue[tuple[int, Flow]] = FairQueue(max_length)
        self.waiting: list[tuple[int, Flow]] = []
        self._max_length = max_length
        self._next_number = 0

    def push(self, flow: Flow) -> None:
        """Add an item; check that the item dropped is the newest of a flow that has most."""
        item = (self._next_number, flow)
        self._next_number += 1
        self.waiting.append(item)
        dropped = self.queue.push(item, flow)
        assert (dropped is not None) == (len(self.waiting) > self._max_length)
        if dropped is None:
            return
        certificates, flows = count_flows(self.waiting, 1), count_flows(self.waiting)
        first, second = dropped[1]
        assert certificates[(first,)] == max(certificates.values())
        assert flows[first, second] == max(n for (a, _), n in flows.items() if a == first)
        assert dropped == max(one for one in self.waiting if one[1] == dropped[1])
        self.waiting.remove(dropped)

    def pop(self) -> tuple[int, Flow]:
        """Take an item; check that it is the oldest of its flow."""
        item = self.queue.pop()
        assert item == min(one for one in self.waiting if one[1] == item[1])
        self.waiting.remove(item)
        return item


@given(ARRIVALS, st.integers(0, 20))
def test_a_full_queue_drops_the_newest_of_the_longest_flow(
    arrivals: list[Flow], max_length: int
) -> None:
    model = ModelQueue(max_length)
    for flow in arrivals:
        model.push(flow)
    assert len(model.queue) == len(model.waiting) <= max_length


@given(ARRIVALS)
def test_those_who_wait_get_equal_numbers_of_turns(arrivals: list[Flow]) -> None:
    model = ModelQueue(100)
    for flow in arrivals:
        model.push(flow)
    served: Counter[Flow] = Counter()
    by_first: Counter[Flow] = Counter()
    while model.waiting:
        waiting = count_flows(model.waiting)
        firsts = count_flows(model.waiting, 1)
        _, flow = model.pop()
        served[flow] += 1
        by_first[flow[:1]] += 1
        # nobody who still waits has been served less often than the one served now, but one turn
        assert all(by_first[flow[:1]] <= by_first[first] + 1 for first in firsts)
        assert all(served[flow] <= served[other] + 1 for other in waiting if other[:1] == flow[:1])
    assert not model.queue


@given(st.lists(st.one_of(FLOWS, st.none(), st.integers(0, 100)), max_size=80))
def test_a_queue_holds_what_was_pushed_until_it_is_taken(steps: list[Flow | int | None]) -> None:
    """A step is a flow to push to, ``None`` to pop, or which of the waiting items to remove."""
    model = ModelQueue(12)
    for step in steps:
        if isinstance(step, tuple):
            model.push(step)
        elif not model.waiting:
            with pytest.raises(IndexError):
                model.queue.pop()
        elif step is None:
            model.pop()
        else:
            removed = model.waiting.pop(step % len(model.waiting))
            model.queue.remove(removed)
        assert len(model.queue) == len(model.waiting)
        assert all(item in model.queue for item in model.waiting)
        for flow, count in count_flows(model.waiting).items():
            assert model.queue.count_flow(flow) == count
    for flow in list(count_flows(model.waiting)):
        expected = [item for item in model.waiting if item[1] == flow]
        assert model.queue.pop_flow(flow, 3) == expected[:3]
        assert model.queue.pop_flow(flow, 100) == expected[3:]
    assert not len(model.queue)


def test_a_flow_that_waits_is_served_within_one_round() -> None:
    queue: FairQueue[str] = FairQueue(256)
    for number in range(256):
        queue.push(f"flood {number}", ("alice", "192.0.2.1"))
    assert queue.push("alice's own", ("alice", "192.0.2.2")) == "flood 255"
    assert queue.push("bob's", ("bob", "192.0.2.2")) == "flood 254"
    assert {queue.pop() for _ in range(4)} == {"flood 0", "bob's", "alice's own", "flood 1"}


def make_semaphore(max_running: int, max_waiting: int) -> FairSemaphore:
    return FairSemaphore(
        max_running,
        max_waiting=max_waiting,
        make_overload_error=lambda: UnavailableError("too many wait"),
    )


class Waiters:
    """Those who acquire a semaphore; the first letter of a name is its flow."""

    def __init__(self, semaphore: FairSemaphore) -> None:
        self._semaphore = semaphore
        self.started: list[str] = []
        self.refused: list[str] = []

    def acquire(self, name: str) -> None:
        def start(_: None) -> None:
            self.started.append(name)

        def refuse(failure: Failure) -> None:
            failure.trap(UnavailableError)
            self.refused.append(name)

        self._semaphore.acquire((name[0],)).addCallbacks(start, refuse)


def test_a_semaphore_bounds_what_runs_and_serves_flows_by_turns() -> None:
    semaphore = make_semaphore(2, 10)
    waiters = Waiters(semaphore)
    for name in ("a1", "a2", "a3", "a4", "b1", "c1", "a5"):
        waiters.acquire(name)
    assert waiters.started == ["a1", "a2"]
    for _ in range(5):
        semaphore.release()
    assert waiters.started == ["a1", "a2", "a3", "b1", "c1", "a4", "a5"]
    for _ in range(2):
        semaphore.release()
    assert all(semaphore.acquire(("a",)).called for _ in range(2))
    assert not semaphore.acquire(("a",)).called


def test_a_semaphore_refuses_the_newest_of_the_longest_flow() -> None:
    semaphore = make_semaphore(1, 3)
    waiters = Waiters(semaphore)
    for name in ("a0", "a1", "a2", "a3", "b1", "b2"):
        waiters.acquire(name)
    assert (waiters.started, waiters.refused) == (["a0"], ["a3", "b2"])
    assert semaphore.waiting_count == 3


def test_who_gives_up_is_not_served() -> None:
    semaphore = make_semaphore(1, 3)
    semaphore.acquire(("a",))
    leaving, staying = semaphore.acquire(("a",)), semaphore.acquire(("a",))
    failures: list[Failure] = []
    leaving.addErrback(failures.append)
    leaving.cancel()
    semaphore.release()
    assert staying.called and len(failures) == 1
    semaphore.release()
    turn: Deferred[None] = semaphore.acquire(("a",))
    assert turn.called


def test_flows_that_may_have_no_turn_are_passed_over() -> None:
    queue: FairQueue[str] = FairQueue(10)
    for item in ("a1", "a2", "b1"):
        queue.push(item, (item[0],))
    assert queue.has_item(lambda key: key == "b")
    assert queue.pop(lambda key: key == "b") == "b1"
    assert not queue.has_item(lambda key: key == "b")
    with pytest.raises(IndexError):
        queue.pop(lambda key: key == "b")
    assert [queue.pop(), queue.pop()] == ["a1", "a2"]
