"""The open connections, and which of them is closed when there are too many.

docs/decisions/0050 has the reasons for the order.
"""

from __future__ import annotations

from enum import IntEnum
from itertools import count
from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

MAX_ENDING: Final = 32
"""How many connections may wait for their clients to close them while there are too many."""

REPORT_SECONDS: Final = 60
"""There is at most one line in the log for so many seconds."""


class Activity(IntEnum):
    """What happens on a connection; the values are indexes."""

    IDLE = 0
    """No byte of a request has arrived."""
    RECEIVING = 1
    """A request has begun, and is not complete."""
    HANDLING = 2
    """A request is being handled, or its answer sent."""
    ENDING = 3
    """The connection is being closed."""


class EvictableConnection(Protocol):
    """A connection that can be closed to make room for another one."""

    def evict(self, activity: Activity) -> None:
        """Close an idle connection in order, and reset one with any other ``activity``."""

    def cut(self, outcome: str) -> None:
        """Reset the connection; its requests end with ``outcome``."""


class _Address:
    """The open connections of one address, by activity, each in the order of its begin.

    ``count`` is how many are not ending.
    """

    __slots__ = ("by_activity", "count")

    def __init__(self) -> None:
        self.count = 0
        self.by_activity: list[dict[EvictableConnection, int]] = [{} for _ in Activity]

    def rank(self, activity: Activity) -> tuple[int, int]:
        """Return how early the address must give up its oldest connection with an activity."""
        return self.count, -next(iter(self.by_activity[activity].values()))


class _Entry:
    __slots__ = ("activity", "address", "has_been_used", "name")

    def __init__(self, name: str, address: _Address) -> None:
        self.name = name
        self.address = address
        self.activity = Activity.IDLE
        self.has_been_used = False


class ConnectionLimiter:
    """Keeps the number of open connections below a limit, and shares them between addresses.

    :param clock: measures the time between two lines in the log.
    :param limit: how many connections may be open.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, limit: int) -> None:
        self._clock = clock
        self._limit = limit
        self._entries: dict[EvictableConnection, _Entry] = {}
        self._addresses: dict[str, _Address] = {}
        self._ending_count = 0
        self._numbers = count()
        self._evicted = 0
        self._turned_away = 0
        self._report: IDelayedCall | None = None
        self._all_closed: Deferred[None] | None = None

    def __len__(self) -> int:
        """Return how many connections are open."""
        return len(self._entries)

    def add(self, connection: EvictableConnection, name: str) -> None:
        """Count a new connection from the address ``name``; it is idle."""
        address = self._addresses.setdefault(name, _Address())
        address.count += 1
        address.by_activity[Activity.IDLE][connection] = next(self._numbers)
        self._entries[connection] = _Entry(name, address)

    def set_activity(self, connection: EvictableConnection, activity: Activity) -> None:
        """Record what happens on a connection from now on; a lost one is ignored."""
        entry = self._entries.get(connection)
        if entry is None:
            return
        by_activity = entry.address.by_activity
        del by_activity[entry.activity][connection]
        by_activity[activity][connection] = next(self._numbers)
        entry.has_been_used = True  # also by a request that was answered at once
        if activity is not entry.activity:
            self._count_ending(entry, -1)
            entry.activity = activity
            self._count_ending(entry, 1)

    def remove(self, connection: EvictableConnection) -> None:
        """Forget a connection that is lost; an unknown one is ignored."""
        entry = self._entries.pop(connection, None)
        if entry is None:
            return
        del entry.address.by_activity[entry.activity][connection]
        self._count_ending(entry, -1)
        if not any(entry.address.by_activity):
            del self._addresses[entry.name]
        if not self._entries and self._all_closed is not None:
            waiting, self._all_closed = self._all_closed, None
            if not waiting.called:  # it may have timed out
                waiting.callback(None)

    def _count_ending(self, entry: _Entry, number: int) -> None:
        """Add a number to those that are ending, or to those of the address that are not."""
        if entry.activity is Activity.ENDING:
            self._ending_count += number
        else:
            entry.address.count += number

    def make_room(self, address: str) -> bool:
        """Return whether a new connection from ``address`` may be accepted.

        When there are too many, another one is evicted for it if that is fair.
        """
        if self._ending_count > MAX_ENDING:
            self._evict_oldest(Activity.ENDING)
        if len(self._entries) - self._ending_count < self._limit:
            return True
        if (
            self._evict_unhandled(address)
            or self._evict_oldest(Activity.IDLE)
            or self._evict_newest_handled(address)
        ):
            return True
        self.report_turned_away()
        return False

    def report_turned_away(self) -> None:
        """Count a connection that was not accepted."""
        self._turned_away += 1
        self._schedule_report()

    def handle_exhaustion(self) -> None:
        """Make room after a new connection has found no descriptor, whatever the limit is."""
        self.report_turned_away()
        if not self._evict_oldest(Activity.IDLE):
            self._evict_oldest(Activity.RECEIVING)

    def count_handled(self) -> int:
        """Return on how many connections a request is being handled, or its answer sent."""
        return sum(len(each.by_activity[Activity.HANDLING]) for each in self._addresses.values())

    def close_idle(self, *, used_only: bool) -> None:
        """Close connections on which no byte of a request has arrived.

        :param used_only: whether to close only those that have had a request before.
        """
        for connection, entry in list(self._entries.items()):
            if entry.activity is Activity.IDLE and (entry.has_been_used or not used_only):
                connection.evict(Activity.IDLE)
                self.set_activity(connection, Activity.ENDING)

    def cut_all(self, outcome: str) -> None:
        """Reset every connection; requests that have not ended end with ``outcome``."""
        for connection in list(self._entries):
            connection.cut(outcome)

    def wait_until_closed(self) -> Deferred[None]:
        """Wait until no connection is open; only one caller may."""
        waiting: Deferred[None] = Deferred()
        if self._entries:
            self._all_closed = waiting
        else:
            waiting.callback(None)
        return waiting

    def stop(self) -> None:
        """Write no more lines."""
        if self._report is not None:
            self._report.cancel()
            self._report = None

    def _count_open(self, address: str) -> int:
        return self._addresses[address].count if address in self._addresses else 0

    def _evict_unhandled(self, newcomer: str) -> bool:
        """Evict an idle connection, or else one whose request is incomplete, of one address.

        It is the address that has most, among the newcomer's own and those that have more.
        """
        own, own_count = self._addresses.get(newcomer), self._count_open(newcomer)
        candidates = [
            (each, activity)
            for each in self._addresses.values()
            if each is own or each.count > own_count
            for activity in (Activity.IDLE, Activity.RECEIVING)
            if each.by_activity[activity]
        ]
        if not candidates:
            return False

        def rank(candidate: tuple[_Address, Activity]) -> tuple[int, bool, bool, tuple[int, int]]:
            each, activity = candidate
            return each.count, each is own, activity is Activity.IDLE, each.rank(activity)

        self._evict(*max(candidates, key=rank))
        return True

    def _evict_oldest(self, activity: Activity) -> bool:
        """Evict the oldest connection with an activity, of the address that has most."""
        having = [each for each in self._addresses.values() if each.by_activity[activity]]
        if having:
            self._evict(max(having, key=lambda each: each.rank(activity)), activity)
        return bool(having)

    def _evict_newest_handled(self, newcomer: str) -> bool:
        """Cut the newest request of the address that has most, if it keeps more than the other."""
        having = [each for each in self._addresses.values() if each.by_activity[Activity.HANDLING]]
        largest = max(having, key=lambda each: each.count, default=None)
        if largest is None or largest.count <= self._count_open(newcomer) + 1:
            return False
        self._close(next(reversed(largest.by_activity[Activity.HANDLING])))
        return True

    def _evict(self, address: _Address, activity: Activity) -> None:
        """Close the connection of an address that has had an activity longest."""
        self._close(next(iter(address.by_activity[activity])))

    def _close(self, connection: EvictableConnection) -> None:
        activity = self._entries[connection].activity
        self._evicted += activity is not Activity.ENDING  # it was counted, or has been refused
        self._schedule_report()
        connection.evict(activity)
        self.set_activity(connection, Activity.ENDING)

    def _schedule_report(self) -> None:
        if self._report is None:
            self._log.warn(
                "the limit of {limit} open connections is reached; the idle ones of the address"
                " with most are closed",
                limit=self._limit,
            )
            self._report = self._clock.callLater(REPORT_SECONDS, self._write_report)

    def _write_report(self) -> None:
        """Write what was done in the last minute; end when it was nothing."""
        self._report = None
        evicted, self._evicted = self._evicted, 0
        turned_away, self._turned_away = self._turned_away, 0
        if evicted or turned_away:
            self._log.warn(
                "of at most {limit} connections, {evicted} were closed to make room and"
                " {turned_away} were turned away in the last {seconds} s",
                limit=self._limit,
                evicted=evicted,
                turned_away=turned_away,
                seconds=REPORT_SECONDS,
            )
            self._report = self._clock.callLater(REPORT_SECONDS, self._write_report)
