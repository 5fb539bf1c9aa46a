"""The body of a request as it arrives, and the one place that decides whether it is too long."""

from __future__ import annotations

from io import BytesIO

from mig.errors import BodyTooLargeError, UnavailableError


class BufferBudget:
    """The bytes held of all bodies that are arriving, and their limit (docs/decisions/0022)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.total = 0

    def reserve(self, count: int) -> None:
        """Add ``count`` bytes to the total.

        :raises UnavailableError: when the total would exceed the limit.
        """
        if self.total + count > self._limit:
            raise UnavailableError("too many request bodies are being received at once")
        self.total += count

    def release(self, count: int) -> None:
        """Subtract ``count`` bytes from the total."""
        self.total -= count


class RequestBody:
    """The body of one request.

    :param limit: how many bytes it may have.
    :param budget: counts the bytes that are kept; without a budget, none are kept.
    :param content_length: the announced length; ``None`` when the body arrives in chunks.
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
        """Take the next piece of the body.

        :raises BodyTooLargeError: when the body is longer than its limit.
        :raises UnavailableError: when all bodies together exceed the budget.
        """
        self._check_length(self._received + len(data))
        if self._budget is not None:
            self._budget.reserve(len(data))
            self.content.write(data)
        self._received += len(data)

    def release(self) -> None:
        """Return the bytes to the budget; nothing may be appended afterwards."""
        if self._budget is not None:
            self._budget.release(self._received)
            self._budget = None
