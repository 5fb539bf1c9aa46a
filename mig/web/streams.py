"""All answers that are being streamed: how many there are, and what the suspended ones hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from mig.errors import UnavailableError
from mig.limits import Limits
from mig.web.request import Request

PAGE_DIVISOR = 8
"""A page may take this fraction of the first half of the memory, so that pages shrink as it fills.

The second half is for pages that were begun while the first one was still free.
"""


class Streams:
    """The answers that are being streamed, and what those without a connection hold of them.

    When there are too many, one more takes the place of a suspended stream of the client with the
    most streams, unless its own client has as many.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_client: dict[str, dict[Request, None]] = {}
        self._suspended: dict[Request, int] = {}  # in the order in which they were suspended

    @property
    def count(self) -> int:
        """How many answers are being streamed."""
        return sum(map(len, self._by_client.values()))

    @property
    def suspended_count(self) -> int:
        """How many of them have no connection to the database now."""
        return len(self._suspended)

    @property
    def held_bytes(self) -> int:
        """How much the suspended streams hold in pieces that are not small."""
        return sum(self._measure_held().values())

    def get_page_bytes(self) -> int:
        """Return how large the next page of a stream should be, which shrinks as memory fills.

        The size of a page can only be estimated: the smallest is half of what may always be held.
        """
        free = self._limits.suspended_bytes // 2 - self.held_bytes
        return max(free // PAGE_DIVISOR, self._limits.short_answer_bytes // 2)

    def can_suspend(self, size: int) -> bool:
        """Return whether a stream may hold ``size`` bytes without a connection."""
        fits = self.held_bytes + size <= self._limits.suspended_bytes
        return fits or size <= self._limits.short_answer_bytes

    def make_room(self, request: Request, size: int) -> bool:
        """Cut streams of the client that holds most, so that this one may hold ``size`` bytes.

        :returns: whether there is room now.
        """
        if size > self._limits.suspended_bytes:
            return False
        while not self.can_suspend(size):
            held = self._measure_held()
            totals = Counter({request.client_group: size})
            for each, bytes_held in held.items():
                totals[each.client_group] += bytes_held
            [(largest, _)] = totals.most_common(1)
            victims = [each for each in held if each.client_group == largest]
            if not victims:
                return False
            self._cut(victims[0])
        return True

    def _measure_held(self) -> dict[Request, int]:
        small = self._limits.short_answer_bytes
        return {request: size for request, size in self._suspended.items() if size > small}

    @contextmanager
    def count_stream(self, request: Request) -> Iterator[None]:
        """Count a streamed answer during the block.

        :raises UnavailableError: when there are too many.
        """
        client = request.client_group
        if self.count >= self._limits.total_streams:
            self._make_room(client)
        self._by_client.setdefault(client, {})[request] = None
        try:
            yield
        finally:
            self._remove(request, client)

    @contextmanager
    def count_suspended(self, request: Request, size: int) -> Iterator[None]:
        """Count a stream as suspended during the block, with ``size`` bytes that it holds."""
        self._suspended[request] = size
        try:
            yield
        finally:
            self._suspended.pop(request, None)

    def _make_room(self, client: str) -> None:
        own_count = len(self._by_client.get(client, ()))
        largest = max(self._by_client.values(), key=len)
        suspended = [request for request in self._suspended if request in largest]
        if not suspended or len(largest) <= own_count + 1:
            raise UnavailableError("too many answers are being sent at once")
        self._cut(suspended[0])

    def _cut(self, request: Request) -> None:
        self._suspended.pop(request, None)
        self._remove(request, request.client_group)
        request.abort("closed to make room")

    def _remove(self, request: Request, client: str) -> None:
        requests = self._by_client.get(client, {})
        requests.pop(request, None)
        if not requests:
            self._by_client.pop(client, None)
