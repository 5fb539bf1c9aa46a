"""A request's body while it comes: the one place that decides whether it is too long."""

from __future__ import annotations

from io import BytesIO

from mig.errors import TooLarge, Unavailable


class HeldBytes:
    """Counts what is held of all bodies that are being received, up to a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.total = 0

    def take(self, count: int) -> None:
        """Count *count* bytes more.

        :raises Unavailable: when too much is held already.
        """
        if self.total + count > self._limit:
            raise Unavailable("too many requests are being sent at once")
        self.total += count

    def release(self, count: int) -> None:
        """Count *count* bytes less."""
        self.total -= count


class Body:
    """The body of one request.

    :param limit: how many bytes it may have.
    :param held: where the bytes that are kept are counted; without it none is kept.
    :param announced: the length that the headers say; ``None`` when it comes in chunks.
    :raises TooLarge: when the announced length is above the limit.
    """

    def __init__(self, limit: int, held: HeldBytes | None, announced: int | None) -> None:
        self.content = BytesIO()
        self._limit = limit
        self._held = held
        self._received = 0
        if announced is not None:
            self._check(announced)

    def _check(self, length: int) -> None:
        if length > self._limit:
            raise TooLarge(self._limit)

    def add(self, data: bytes) -> None:
        """Take the next piece.

        :raises TooLarge: when there is more than the limit.
        :raises Unavailable: when too much is held of all bodies together.
        """
        self._check(self._received + len(data))
        if self._held is not None:
            self._held.take(len(data))
            self.content.write(data)
        self._received += len(data)

    def release(self) -> None:
        """Count the bytes as held no longer; nothing may be added afterwards."""
        if self._held is not None:
            self._held.release(self._received)
            self._held = None
