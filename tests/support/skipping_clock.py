"""A clock for code that pauses: its pauses are over at once, and written down."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock

from tests.support.reactor import reactor


class SkippingClock(Clock):
    """A clock that skips pauses, and moves by them; deadlines of *deadline_seconds* never come.

    ``pauses`` are the pauses, in seconds.
    """

    def __init__(self, deadline_seconds: float) -> None:
        super().__init__()
        self._deadline_seconds = deadline_seconds
        self.pauses: list[float] = []

    def callLater(
        self,
        delay: float,
        callable: Callable[..., object],  # noqa: A002 - a name of Twisted
        *args: object,
        **kw: object,
    ) -> IDelayedCall:
        call = super().callLater(delay, callable, *args, **kw)
        if delay < self._deadline_seconds:
            self.pauses.append(delay)
            reactor.callLater(0, self.advance, delay)
        return call
