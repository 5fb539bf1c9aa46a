"""Who has to wait after wrong credentials."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from mig.access.failures import FailureCounter
from mig.errors import TooManyRequestsError
from mig.limits import Limits

HOME, OFFICE = "192.0.2.1", "198.51.100.1"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counter(clock: Clock) -> FailureCounter:
    return FailureCounter(clock, Limits())


def fail_often(counter: FailureCounter, group: str, key: str | None, count: int = 20) -> None:
    for _ in range(count):
        counter.check(group, key)
        counter.record_failure(group, key)


def test_a_client_waits_after_twenty_failures_in_a_minute(
    counter: FailureCounter, clock: Clock
) -> None:
    fail_often(counter, OFFICE, "7", 10)
    clock.advance(10)
    fail_often(counter, OFFICE, None, 10)
    for key in ("7", "8", None):
        with pytest.raises(TooManyRequestsError) as refused:
            counter.check(OFFICE, key)
        assert refused.value.headers == ((b"retry-after", b"50"),)
    clock.advance(50)
    fail_often(counter, OFFICE, "7")


def test_failures_of_one_address_never_keep_another_one_waiting(counter: FailureCounter) -> None:
    fail_often(counter, OFFICE, "7")
    counter.check(HOME, "7")
    fail_often(counter, HOME, "7")


def test_a_key_that_succeeded_waits_only_for_its_own_failures(
    counter: FailureCounter, clock: Clock
) -> None:
    counter.record_success(OFFICE, "7")
    fail_often(counter, OFFICE, "8")
    fail_often(counter, OFFICE, "7", 20)
    with pytest.raises(TooManyRequestsError):
        counter.check(OFFICE, "7")
    clock.advance(60)
    fail_often(counter, OFFICE, "8")
    counter.check(OFFICE, "7")
    clock.advance(3_540)
    fail_often(counter, OFFICE, "8")
    with pytest.raises(TooManyRequestsError):
        counter.check(OFFICE, "7")


def test_a_success_of_one_address_says_nothing_about_another(counter: FailureCounter) -> None:
    counter.record_success(HOME, "7")
    fail_often(counter, OFFICE, "8")
    with pytest.raises(TooManyRequestsError):
        counter.check(OFFICE, "7")


def test_the_memory_of_failures_is_bounded(clock: Clock) -> None:
    counter = FailureCounter(clock, Limits(counted_failures=10))
    for n in range(1_000):
        counter.record_failure(str(n), str(n))
        counter.record_success(str(n), "other")
    assert len(counter._groups) == len(counter._pairs) == 10
