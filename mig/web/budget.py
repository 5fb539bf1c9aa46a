"""The memory that bodies may take, and its fair division between clients (docs/decisions/0051)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from mig.errors import UnavailableError
from mig.limits import Limits


class Body(Protocol):
    """A body that takes memory."""

    size: int
    """How much of it is held, in bytes; only the budget changes it."""
    is_complete: bool
    """Whether all of it has arrived."""

    @property
    def client(self) -> str:
        """Who sends it."""

    def refuse(self, error: Exception) -> None:
        """Forget what is held, and answer the client with ``error``."""


class _Share:
    """What one client holds."""

    def __init__(self) -> None:
        self.total = 0
        self.bodies: dict[Body, None] = {}

    def count_beyond(self, size: int) -> int:
        """Return how many bytes the bodies have, apart from the first ``size`` of each."""
        return sum(max(0, body.size - size) for body in self.bodies)

    def list_refusable(self, size: int) -> list[Body]:
        """Return the incomplete bodies of more than ``size`` bytes."""
        return [body for body in self.bodies if not body.is_complete and body.size > size]


class BodyBudget:
    """The bytes held of all bodies, and their limits.

    One client may have half of ``total_body_bytes``. The first ``small_body_bytes`` of each body
    may take all of it, and what is beyond leaves ``reserved_body_bytes`` free for them. Where there
    is no room, the largest incomplete body of the client that holds most is refused; that may be
    the one that needs the room. Bodies that have arrived are handled in any case.
    """

    def __init__(self, limits: Limits) -> None:
        self.total = 0
        self._large_total = 0
        self._small = limits.small_body_bytes
        # a client's half must have room for the longest body
        longest = max(limits.action_body_bytes, limits.key_body_bytes)
        self._limit = max(limits.total_body_bytes, 2 * longest + limits.reserved_body_bytes)
        self._large_limit = self._limit - limits.reserved_body_bytes
        self._shares: dict[str, _Share] = {}

    def reserve(self, body: Body, count: int) -> None:
        """Make room for ``count`` more bytes of an incomplete body, and count them.

        :raises UnavailableError: when it is this body that is refused; nothing of it is counted
            any more.
        """
        share = self._shares.setdefault(body.client, _Share())
        share.bodies[body] = None
        self._count(body, share, count)
        while (refused := self._choose_refused(body, share)) is not None:
            self.release(refused)
            error = UnavailableError("too many request bodies are being received at once")
            if refused is body:
                raise error
            refused.refuse(error)

    def release(self, body: Body) -> None:
        """Count the bytes of a body no longer; one that is not counted is ignored."""
        share = self._shares.get(body.client)
        if share is None or body not in share.bodies:
            return
        self._count(body, share, -body.size)
        del share.bodies[body]
        if not share.bodies:
            del self._shares[body.client]

    def _count(self, body: Body, share: _Share, count: int) -> None:
        self._large_total -= max(0, body.size - self._small)
        body.size += count
        self._large_total += max(0, body.size - self._small)
        share.total += count
        self.total += count

    def _choose_refused(self, body: Body, share: _Share) -> Body | None:
        """Return the body to refuse, or ``None`` when ``body`` and all others have room."""
        if share.total > self._limit // 2:
            return self._find_largest([share], 0, body)
        if self.total > self._limit:
            return self._find_largest(self._shares.values(), 0, body)
        if self._large_total > self._large_limit:
            return self._find_largest(self._shares.values(), self._small, body)
        return None

    def _find_largest(self, shares: Collection[_Share], size: int, newest: Body) -> Body:
        """Return the largest incomplete body of the client that has most beyond ``size``."""
        refusable = [(share, share.list_refusable(size)) for share in shares]
        _, bodies = max(
            ((share, bodies) for share, bodies in refusable if bodies),
            key=lambda pair: pair[0].count_beyond(size),
        )
        return max(bodies, key=lambda body: (body.size, body is newest))
