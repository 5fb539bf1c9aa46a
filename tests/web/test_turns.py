"""Clients take turns while the service is busy."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from mig.web.turns import SLICE_SECONDS, FairScheduler, Job
from tests.support.site_client import SiteClient

HEARTBEAT = b"GET /api/v1/heartbeat HTTP/1.1\r\nHost: localhost\r\n\r\n"


def spend(clock: Clock, seconds: float = 1) -> None:
    """Move a clock, and run nothing that has become due."""
    clock.rightNow += seconds


class Service:
    """A scheduler whose jobs take as long as the test says."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.started: list[str] = []
        self.scheduler = FairScheduler(self.clock)

    def start(self, name: str, seconds: float = 2 * SLICE_SECONDS) -> Job:
        """Start a job; the first letter of its name is its flow."""

        def job() -> None:
            self.started.append(name)
            spend(self.clock, seconds)

        self.scheduler.start(job, (name[0],))
        return job

    def run_slice(self) -> None:
        """Let the reactor come round once; ``advance`` would run all slices."""
        call: Any = self.clock.getDelayedCalls()[0]
        run = call.func
        call.cancel()
        run()


def test_a_job_starts_at_once_while_there_is_time() -> None:
    service = Service()
    for name in ("a1", "a2", "b1"):
        service.start(name, 0.6 * SLICE_SECONDS)
    assert service.started == ["a1", "a2"]
    spend(service.clock, SLICE_SECONDS)
    service.run_slice()
    assert service.started == ["a1", "a2", "b1"]
    service.start("a3")
    assert service.started[-1] == "a3"
    assert not service.clock.getDelayedCalls()


def test_a_client_with_few_jobs_does_not_wait_for_one_with_many() -> None:
    service = Service()
    for number in range(50):
        service.start(f"a{number}")
    service.start("b")
    service.start("c")
    for _ in range(3):
        service.run_slice()
    assert service.started == ["a0", "a1", "b", "c"]


def test_other_events_come_between_two_slices() -> None:
    service = Service()
    service.start("a")
    for number in range(10):
        service.start(f"b{number}", 0.6 * SLICE_SECONDS)
    service.run_slice()
    assert service.started == ["a", "b0", "b1"]
    service.run_slice()
    assert service.started == ["a", "b0", "b1", "b2", "b3"]


def test_a_cancelled_job_does_not_start() -> None:
    service = Service()
    first, cancelled = service.start("a1"), service.start("a2")
    service.start("a3")
    service.scheduler.cancel(cancelled)
    service.scheduler.cancel(first)
    service.run_slice()
    assert service.started == ["a1", "a3"]


def test_a_job_that_fails_does_not_stop_the_others() -> None:
    service = Service()
    service.start("a")

    def fail() -> None:
        raise ValueError("a fault of the test")

    service.scheduler.start(fail, ("b",))
    service.start("c")
    with pytest.raises(ValueError, match="a fault of the test"):
        service.run_slice()
    service.run_slice()
    assert service.started == ["a", "c"]


def test_a_request_of_a_client_that_has_left_is_not_handled() -> None:
    site_client = SiteClient()
    site_client.site.scheduler.start(lambda: spend(site_client.clock), ("other",))
    leaving = site_client.channel
    assert not site_client.send(HEARTBEAT)
    site_client.connect()
    assert not site_client.send(HEARTBEAT)
    leaving.connectionLost()
    assert b" 200 " in site_client.advance(0)
    assert [event.outcome for event in site_client.ended] == ["client left", "complete"]
