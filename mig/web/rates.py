"""Rates: how many requests in a second each client may send, with a burst."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from math import ceil
from typing import Final

from twisted.internet.interfaces import IReactorTime

from mig.errors import TooManyRequestsError

MAX_CLIENTS: Final = 10_000
"""How many clients a limiter remembers: more than that must send at once to be forgotten."""


class RateLimiter:
    """Refuses requests of a client that sends more than ``rate`` a second after ``burst`` at once.

    It is the generic cell rate algorithm (ITU-T I.371): for each client it keeps one time, at which
    all of its requests would have been sent at the allowed rate.

    :param clock: a clock that nobody sets.
    :param name: the name of the limit for clients.
    """

    def __init__(self, clock: IReactorTime, name: str, *, rate: float, burst: int) -> None:
        self._clock = clock
        self._name = name
        self._seconds_per_request = 1 / rate
        self._burst = burst
        self._tolerance = burst / rate
        self._due: OrderedDict[Hashable, float] = OrderedDict()

    def check(self, client: Hashable) -> None:
        """Count a request of ``client``.

        :raises TooManyRequestsError: when it is too early; then it does not count.
        """
        now = self._clock.seconds()
        due = max(now, self._due.pop(client, now)) + self._seconds_per_request
        excess = due - now - self._tolerance
        # rounding must not refuse the last request of a burst
        if excess > self._seconds_per_request / 2:
            self._due[client] = due - self._seconds_per_request
            raise self._make_error(excess)
        self._due[client] = due
        while len(self._due) > MAX_CLIENTS or self._due[next(iter(self._due))] <= now:
            self._due.popitem(last=False)

    def _make_error(self, seconds: float) -> TooManyRequestsError:
        window = ceil(self._tolerance)
        return TooManyRequestsError(
            f"more than {self._burst} requests at once and"
            f" {1 / self._seconds_per_request:g} a second",
            seconds,
            # draft-ietf-httpapi-ratelimit-headers-10, 3 and 4
            (
                (b"ratelimit-policy", f'"{self._name}";q={self._burst};w={window}'.encode()),
                (b"ratelimit", f'"{self._name}";r=0;t={ceil(seconds)}'.encode()),
            ),
        )
