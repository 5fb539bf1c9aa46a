"""Who has sent too many requests, or has too many long answers: each client address and caller."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from math import ceil
from typing import Final

from twisted.internet.interfaces import IReactorTime

from mig.errors import RETRY_AFTER_SECONDS, TooManyRequestsError
from mig.limits import Limits
from mig.web.interfaces import Caller, Client

ADDRESS: Final = "address"
CALLER: Final = "caller"
MAX_FORGOTTEN: Final = 10
"""How many senders one request makes a limiter forget at most; it adds one."""


class RateLimiter:
    """Refuses what comes faster than ``rate`` a second after ``burst`` at once.

    It is the generic cell rate algorithm (ITU-T I.371): for each sender it keeps one time, at which
    all of its requests would have been sent at the allowed rate.

    :param clock: a clock that nobody sets.
    :param name: the name of the limit for clients.
    """

    def __init__(self, clock: IReactorTime, name: str, limits: Limits) -> None:
        self._clock = clock
        self._name = name
        self._limits = limits
        self._due: OrderedDict[Hashable, float] = OrderedDict()

    def check(self, sender: Hashable) -> None:
        """Count a request of ``sender``.

        :raises TooManyRequestsError: when it is too early; then it does not count.
        """
        limits = self._limits
        interval = 1 / limits.rate
        tolerance = limits.burst * interval
        now = self._clock.seconds()
        # never later than these limits allow: they may have been others before
        before = min(max(now, self._due.pop(sender, now)), now + tolerance + interval)
        due = before + interval
        excess = due - now - tolerance
        # rounding must not refuse the last request of a burst
        if excess > interval / 2:
            self._due[sender] = before
            raise self._make_error(excess, tolerance)
        self._due[sender] = due
        self._forget_oldest(now)

    def _forget_oldest(self, now: float) -> None:
        """Forget senders who are too many, or who may send a burst again.

        It forgets a few at a time: a whole large table would keep the reactor busy.
        """
        for _ in range(MAX_FORGOTTEN):
            oldest, due = next(iter(self._due.items()))
            if len(self._due) <= self._limits.limited_clients and due > now:
                break
            del self._due[oldest]

    def _make_error(self, seconds: float, tolerance: float) -> TooManyRequestsError:
        limits = self._limits
        return TooManyRequestsError(
            f"more than {limits.burst} requests at once and {limits.rate:g} a second of one"
            f" {self._name} are not accepted; Retry-After says when the next one is",
            seconds,
            _describe_limit(
                self._name, f"q={limits.burst};w={ceil(tolerance)}", f"t={ceil(seconds)}"
            ),
        )


class RequestLimiter:
    """The limits of each client address, and of each caller.

    A caller is an investigator, with all their credentials. A client on this host is exempt, unless
    ``loopback`` is on (docs/decisions/0100).
    """

    def __init__(self, clock: IReactorTime, limits: Limits) -> None:
        self._limits = limits
        self._addresses = RateLimiter(clock, ADDRESS, limits)
        self._callers = RateLimiter(clock, CALLER, limits)
        self._streams: Counter[tuple[str, Hashable]] = Counter()

    def check_address(self, client: Client) -> None:
        """Count a request of a client.

        :raises TooManyRequestsError: when its address sends too many.
        """
        if not self._is_exempt(client):
            self._addresses.check(client.group)

    def check_caller(self, client: Client, caller: Caller) -> None:
        """Count a request of a caller.

        :raises TooManyRequestsError: when they send too many.
        """
        if caller.identity is not None and not self._is_exempt(client):
            self._callers.check(caller.identity)

    @contextmanager
    def count_stream(self, client: Client, caller: Caller | None) -> Iterator[None]:
        """Count a long answer during the block.

        :raises TooManyRequestsError: when the address or the caller has too many.
        """
        if self._is_exempt(client):
            yield
            return
        holders: list[tuple[str, Hashable]] = [(ADDRESS, client.group)]
        if caller is not None and caller.identity is not None:
            holders.append((CALLER, caller.identity))
        for holder in holders:
            if self._streams[holder] >= self._limits.streams:
                raise self._make_error(holder[0])
        self._streams.update(holders)
        try:
            yield
        finally:
            self._streams.subtract(holders)
            for holder in holders:
                if self._streams[holder] <= 0:
                    del self._streams[holder]

    def _make_error(self, name: str) -> TooManyRequestsError:
        count = self._limits.streams
        return TooManyRequestsError(
            f"more than {count} reports and large searches of one {name} at the same time are not"
            " accepted; wait until one has ended",
            RETRY_AFTER_SECONDS,
            _describe_limit(
                f"{name}-streams",
                f'q={count};qu="concurrent-requests"',
                f"t={RETRY_AFTER_SECONDS}",
            ),
        )

    def _is_exempt(self, client: Client) -> bool:
        return client.is_loopback and not self._limits.loopback


def _describe_limit(name: str, quota: str, reset: str) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that describe a limit (draft-ietf-httpapi-ratelimit-headers-10, 3 and 4).

    :param quota: the parameters of the policy.
    :param reset: the parameters that say when the next request is accepted.
    """
    return (
        (b"ratelimit-policy", f'"{name}";{quota}'.encode()),
        (b"ratelimit", f'"{name}";r=0;{reset}'.encode()),
    )
