"""A request's body while it comes: the one place that decides whether it is too long."""

from __future__ import annotations

from io import BytesIO

from mig.errors import BodyTooLargeError, UnavailableError


class BufferBudget:
    """Counts what is held of all bodies that are being received, up to a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.total = 0

    def reserve(self, count: int) -> None:
        """Count *count* bytes more.

        :raises UnavailableError: when too much is held already.
        """
        if self.total + count > self._limit:
            raise UnavailableError("too many requests are being sent at once")
        self.total += count

    def release(self, count: int) -> None:
        """Count *count* bytes less."""
        self.total -= count


class RequestBody:
    """The body of one request.

    :param limit: how many bytes it may have.
    :param budget: where the bytes that are kept are counted; without it none is kept.
    :param content_length: the length that the headers say; ``None`` when it comes in chunks.
    :raises BodyTooLargeError: when the announced length is above the limit.
    """

    def __init__(self, limit: int, budget: BufferBudget | None, content_length: int | None) -> None:
        self.content = BytesIO()
        self._limit = limit
        self._budget = budget
        self._received = 0
        if content_length is not None:
            self._check_length(content_length)

    def _check_length(self, length: int) -> None:
        if length > self._limit:
            raise BodyTooLargeError(self._limit)

    def append(self, data: bytes) -> None:
        """Take the next piece.

        :raises BodyTooLargeError: when there is more than the limit.
        :raises UnavailableError: when too much is held of all bodies together.
        """
        self._check_length(self._received + len(data))
        if self._budget is not None:
            self._budget.reserve(len(data))
            self.content.write(data)
        self._received += len(data)

    def release(self) -> None:
        """Count the bytes as held no longer; nothing may be added afterwards."""
        if self._budget is not None:
            self._budget.release(self._received)
            self._budget = None
