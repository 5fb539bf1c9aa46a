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
    request were handled as soon as it is read, the client with most connections would have most of
    the reactor (docs/decisions/0051).

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
        if self._next_slice is None:
            now = self._clock.seconds()
            if self._credit + now - self._last_end > 0:
                self._run(job, now)
                return
        self._waiting.push(job, flow)
        self._schedule_slice()

    def cancel(self, job: Job) -> None:
        """Do not start a job that still waits; any other is ignored."""
        if job in self._waiting:
            self._waiting.remove(job)

    def _run(self, job: Job, begin: float) -> None:
        """Run a job, and use up credit, of which all time without a job gives more."""
        credit = min(SLICE_SECONDS, self._credit + begin - self._last_end)
        try:
            job()
        finally:
            self._last_end = self._clock.seconds()
            self._credit = max(-SLICE_SECONDS, credit - (self._last_end - begin))

    def _schedule_slice(self) -> None:
        if self._next_slice is None and self._waiting:
            self._next_slice = self._clock.callLater(0, self._run_slice)

    def _run_slice(self) -> None:
        """Start jobs for a slice of time, and go on after the reactor's other events."""
        self._next_slice = None
        now = self._clock.seconds()
        end = now + SLICE_SECONDS
        try:
            while self._waiting and now < end:
                self._run(self._waiting.pop(), now)
                now = self._last_end
        finally:
            self._schedule_slice()
