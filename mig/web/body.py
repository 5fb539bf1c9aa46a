"""The body of a request as it arrives, and the one place that decides whether it is too long."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

from mig.errors import BodyTooLargeError
from mig.web.budget import BodyBudget


class RequestBody:
    """The body of one request.

    :param limit: how many bytes it may have.
    :param limit_advice: what a client with a longer body can do, for the message.
    :param budget: counts the bytes that are kept; without a budget, none are kept.
    :param content_length: the announced length; ``None`` when the body arrives in chunks.
    :param client: who sends it; clients share the budget fairly.
    :raises BodyTooLargeError: when the announced length is above the limit.
    """

    def __init__(
        self,
        limit: int,
        limit_advice: str,
        budget: BodyBudget | None,
        content_length: int | None,
        client: str,
    ) -> None:
        self.content = BytesIO()
        self.client = client
        self.size = 0
        self.received = 0
        self.is_complete = False
        self.send_refusal: Callable[[Exception], None] | None = None
        self._limit = limit
        self._limit_advice = limit_advice
        self._budget = budget
        if content_length is not None:
            self._check_length(content_length)

    def _check_length(self, length: int) -> None:
        if length > self._limit:
            raise BodyTooLargeError(self._limit, self._limit_advice)

    def append(self, data: bytes) -> None:
        """Take the next piece of the body.

        :raises BodyTooLargeError: when the body is longer than its limit.
        :raises UnavailableError: when the budget has no room for it.
        """
        self._check_length(self.received + len(data))
        if self._budget is not None:
            self._budget.reserve(self, len(data))
            self.content.write(data)
        self.received += len(data)

    def refuse(self, error: Exception) -> None:
        """Forget an incomplete body, and answer its client with ``error``."""
        self.content.truncate(0)
        if self.send_refusal is not None:
            self.send_refusal(error)

    def release(self) -> None:
        """Return the bytes to the budget; nothing may be appended afterwards."""
        if self._budget is not None:
            self._budget.release(self)
            self._budget = None
