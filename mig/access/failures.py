"""Who has sent wrong credentials too often, and has to wait before more of theirs are checked.

Failures count for each client group, and for each pair of a group and a key: never for a key alone,
or anyone could lock its owner out. Behind a proxy or NAT many clients share a group, so a pair that
has succeeded lately is refused for its own failures only (docs/decisions/0061).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final, TypeVar

from twisted.internet.interfaces import IReactorTime

from mig.access.lru import LruCache
from mig.errors import TooManyCredentialsError
from mig.limits import Limits

WINDOW_SECONDS: Final = 60.0
"""How long failures count, from the first one on."""

PROVEN_SECONDS: Final = 3_600.0
"""How long a pair is known after its last success."""


CountKey = TypeVar("CountKey", str, tuple[str, str])


@dataclass(kw_only=True, slots=True)
class _Count:
    """The failures since ``start``, and when the last success was, if it was lately."""

    start: float
    failures: int = 0
    success: float | None = None


class FailureCounter:
    """The failures of the last minute, by client group and by pair of group and key.

    ``key`` is the id of an API key or the issuer of a signature, as the credential names it; it is
    ``None`` when the credential names none.

    :param clock: must be monotonic.
    :param limits: ``failures_per_minute``, and ``counted_failures`` for what is remembered.
    """

    def __init__(self, clock: IReactorTime, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self._groups: LruCache[str, _Count] = LruCache(limits.counted_failures)
        self._pairs: LruCache[tuple[str, str], _Count] = LruCache(limits.counted_failures)

    def check(self, group: str, key: str | None) -> None:
        """Refuse work for a client that has failed too often.

        :raises TooManyCredentialsError: saying how long the client has to wait.
        """
        now = self._clock.seconds()
        pair = None if key is None else self._pairs.get((group, key))
        is_proven = (
            pair is not None and pair.success is not None and now - pair.success < PROVEN_SECONDS
        )
        count = pair if is_proven else self._groups.get(group)
        if count is None or count.failures < self._limits.failures_per_minute:
            return
        seconds = count.start + WINDOW_SECONDS - now
        if seconds > 0:
            raise TooManyCredentialsError(
                f"{count.failures} requests of your address had wrong credentials in a minute;"
                f" wait {ceil(seconds)} s",
                seconds,
            )

    def record_failure(self, group: str, key: str | None) -> None:
        """Count a failure."""
        now = self._clock.seconds()
        _add_failure(self._groups, group, now)
        if key is not None:
            _add_failure(self._pairs, (group, key), now)

    def record_success(self, group: str, key: str) -> None:
        """Take note that a pair has succeeded after its credential was checked."""
        now = self._clock.seconds()
        count = self._pairs.get((group, key))
        if count is None:
            count = _Count(start=now)
            self._pairs.put((group, key), count)
        count.success = now


def _add_failure(counts: LruCache[CountKey, _Count], key: CountKey, now: float) -> None:
    count = counts.get(key)
    if count is None:
        count = _Count(start=now)
        counts.put(key, count)
    if now - count.start >= WINDOW_SECONDS:
        count.start, count.failures = now, 0
    count.failures += 1
