"""When complete requests are handled: clients take turns while the service is busy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mig.fair_queue import FairQueue, Flow

Job = Callable[[], None]

SLICE_SECONDS: Final = 0.005
"""After jobs of so much time, those that wait take turns and the reactor serves other events."""


class FairScheduler:
    """Starts jobs at once, or by turns of their flows when jobs take most of the reactor's time.

    The reactor reads from all connections that are ready before it comes to other events. If every
    request were handled as soon as it is read, whoever has most connections would have most of the
    reactor (docs/decisions/0051).

    :param clock: the reactor: it measures jobs, and comes to other events between two slices of
        them.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: FairQueue[Job] = FairQueue(None)  # each connection has one
        self._credit = SLICE_SECONDS
        self._last_end = clock.seconds()
        self._next_slice: IDelayedCall | None = None

    def start(self, job: Job, flow: Flow) -> None:
        """Start a job now or later."""
        if self._next_slice is None and self._renew_credit() > 0:
            self._run(job)
            return
        self._waiting.push(job, flow)
        self._schedule_slice()

    def cancel(self, job: Job) -> None:
        """Do not start a job that still waits; any other is ignored."""
        if job in self._waiting:
            self._waiting.remove(job)

    def _renew_credit(self) -> float:
        """Add the time since the last job, which was for other events; return how much is left."""
        idle = self._clock.seconds() - self._last_end
        self._credit = min(SLICE_SECONDS, self._credit + idle)
        return self._credit

    def _run(self, job: Job) -> None:
        self._renew_credit()
        begin = self._clock.seconds()
        try:
            job()
        finally:
            self._last_end = self._clock.seconds()
            self._credit = max(-SLICE_SECONDS, self._credit - (self._last_end - begin))

    def _schedule_slice(self) -> None:
        if self._next_slice is None and self._waiting:
            self._next_slice = self._clock.callLater(0, self._run_slice)

    def _run_slice(self) -> None:
        """Start jobs for a slice of time, and go on after the reactor's other events."""
        self._next_slice = None
        end = self._clock.seconds() + SLICE_SECONDS
        try:
            while self._waiting and self._clock.seconds() < end:
                self._run(self._waiting.pop())
        finally:
            self._schedule_slice()
