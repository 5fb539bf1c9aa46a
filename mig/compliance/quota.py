"""What the reports of all clients keep, shared between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from mig.errors import InvalidInputError, UnavailableError
from mig.limits import Limits


class Quota:
    """How much reports may keep: a client as much as one report, all clients twice as much.

    :param advice: what a client is told whose report needs more, and the parameter that is named.
    :param busy: what a client is told when other reports need it.
    """

    def __init__(self, limit: int, advice: str, parameter: str, busy: str) -> None:
        self.limit = limit
        self._advice = advice
        self._parameter = parameter
        self._busy = busy
        self._by_client: Counter[str] = Counter()

    @contextmanager
    def open_share(self, client: str) -> Iterator[QuotaShare]:
        """Return the share of one report, which ends with the block."""
        share = QuotaShare(self, client)
        try:
            yield share
        finally:
            share.take(-share.taken)
            self._by_client += Counter()  # without those that are zero

    def take(self, share: QuotaShare, client: str, amount: int) -> None:
        """Count what a share has taken more.

        :raises InvalidInputError: when the report has too much.
        :raises UnavailableError: when the client, or all clients together, have too much.
        """
        self._by_client[client] += amount
        if amount <= 0:
            return
        if share.taken > self.limit:
            raise InvalidInputError(self._advice, self._parameter)
        if self._by_client[client] > self.limit or self._by_client.total() > 2 * self.limit:
            # it forgets in steps, during which no other report should be refused
            share.stop_counting()
            raise UnavailableError(self._busy)


class QuotaShare:
    """What one report has taken of a quota."""

    def __init__(self, quota: Quota, client: str) -> None:
        self._quota = quota
        self._client = client
        self._is_counted = True
        self.taken = 0

    def take(self, amount: int) -> None:
        """Take more, or give back a negative ``amount``.

        :raises RequestError: as :meth:`Quota.take` does.
        """
        self.taken += amount
        if self._is_counted:
            self._quota.take(self, self._client, amount)

    def stop_counting(self) -> None:
        """Give everything back at once, also what is forgotten later."""
        self._quota.take(self, self._client, -self.taken)
        self._is_counted = False


class SummaryQuota(Quota):
    """The bytes that all summaries keep."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(
            limits.summary_bytes,
            f"groupby must make groups that take at most {limits.summary_bytes} bytes, with a byte"
            " or more for each agent in each group; group by something that has fewer values, or"
            " ask for fewer agents, actions or checks",
            "groupby",
            "too many summaries run at once",
        )
