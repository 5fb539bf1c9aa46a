"""The state of the service and of its parts."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock

from mig.api.health import CHECK_SECONDS, MAX_AGE_SECONDS, HealthMonitor, Part, Readiness
from mig.errors import UnavailableError

Result = TypeVar("Result")


class FakePart:
    """A part whose checks wait until the test answers them."""

    def __init__(self) -> None:
        self.checks: list[Deferred[None]] = []

    def check(self) -> Awaitable[None]:
        self.checks.append(Deferred())
        return self.checks[-1]


def start(monitor: HealthMonitor) -> Deferred[Readiness]:
    return Deferred.fromCoroutine(monitor.check())


def get_result(waiting: Deferred[Result]) -> Result:
    results: list[Result] = []
    waiting.addCallback(results.append)
    assert len(results) == 1, "there is no result yet"
    return results[0]


@pytest.mark.parametrize(("is_essential", "status"), [(True, "failing"), (False, "degraded")])
def test_the_service_fails_with_an_essential_part_only(is_essential: bool, status: str) -> None:
    async def fail() -> None:
        raise UnavailableError("the database cannot be reached", "connection refused")

    monitor = HealthMonitor(
        Clock(),
        [
            Part(name="good", check=lambda: succeed(None), is_essential=True),
            Part(name="bad", check=fail, is_essential=is_essential),
        ],
    )
    readiness = get_result(start(monitor))
    assert readiness.status == status
    assert readiness.parts["good"].state == "ok"
    assert readiness.parts["good"].reason is None
    assert readiness.parts["bad"].state == "failing"
    assert readiness.parts["bad"].reason == "the database cannot be reached: connection refused"


def test_a_part_is_checked_once_for_all_who_ask() -> None:
    """And not again while its state is new."""
    clock, part = Clock(), FakePart()
    monitor = HealthMonitor(clock, [Part(name="p", check=part.check, is_essential=True)])
    waiting = [start(monitor) for _ in range(10)]
    waiting[3].addErrback(lambda failure: failure.trap(CancelledError))
    waiting[3].cancel()
    assert len(part.checks) == 1
    part.checks[0].callback(None)
    for each in (*waiting[:3], *waiting[4:]):
        assert get_result(each).status == "ok"
    clock.advance(MAX_AGE_SECONDS)
    assert get_result(start(monitor)).parts["p"].age == MAX_AGE_SECONDS
    clock.advance(0.1)
    start(monitor)
    assert len(part.checks) == 2


def test_a_part_that_does_not_answer_fails_in_time() -> None:
    """No state is older than 5 s when it is served."""
    clock, part = Clock(), FakePart()
    monitor = HealthMonitor(clock, [Part(name="p", check=part.check, is_essential=True)])
    waiting = start(monitor)
    clock.advance(CHECK_SECONDS)
    readiness = get_result(waiting)
    assert readiness.parts["p"].reason == f"no answer within {CHECK_SECONDS:g} s"
    assert MAX_AGE_SECONDS + CHECK_SECONDS <= 5


def test_a_part_that_works_again_is_ok_again() -> None:
    clock, part = Clock(), FakePart()
    monitor = HealthMonitor(clock, [Part(name="p", check=part.check, is_essential=True)])
    waiting = start(monitor)
    part.checks[0].errback(RuntimeError())
    assert get_result(waiting).parts["p"].reason == "RuntimeError"
    clock.advance(MAX_AGE_SECONDS + 1)
    waiting = start(monitor)
    part.checks[1].callback(None)
    assert get_result(waiting).status == "ok"
