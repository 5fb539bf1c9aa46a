"""Fair queuing: a flow of many items gets no more than the others, and is refused first.

A *flow* is what shares: a tuple such as ``(request.client_group,)``, or ``(certificate,
client_group)`` when certificates share first and then, for each certificate, its clients. All
flows of one queue have the same length. Flows take turns at every level (round robin), and a queue
that is full drops the newest item of its longest flow.

:class:`FairQueue` holds items. :class:`FairSemaphore` bounds what runs at the same time, and has
such a queue for those who wait::

    slots = FairSemaphore(2, max_waiting=256, make_overload_error=make_error)

    await slots.acquire((request.client_group,))
    try:
        ...
    finally:
        slots.release()
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

Item = TypeVar("Item", bound=Hashable)

Flow = tuple[Hashable, ...]


class _Share(Generic[Item]):
    """What a flow, or all flows with the same beginning, have in the queue.

    ``parts`` are in the order of their turns. Only the shares of whole flows have ``items``.
    """

    __slots__ = ("items", "length", "parts")

    def __init__(self) -> None:
        self.length = 0
        self.parts: dict[Hashable, _Share[Item]] = {}
        self.items: dict[Item, None] = {}


class FairQueue(Generic[Item]):
    """A queue that flows share; each item is in it once.

    :param max_length: how many items it holds; ``None`` if what holds its items is bounded.
    """

    def __init__(self, max_length: int | None) -> None:
        self._max_length = max_length
        self._all: _Share[Item] = _Share()
        self._flows: dict[Item, Flow] = {}

    def __len__(self) -> int:
        """Return how many items wait."""
        return len(self._flows)

    def __contains__(self, item: object) -> bool:
        """Return whether the item waits."""
        return item in self._flows

    def push(self, item: Item, flow: Flow) -> Item | None:
        """Add an item at the end of its flow.

        :returns: the item that was dropped because the queue was full, which may be the new one.
        """
        self._flows[item] = flow
        share = self._all
        share.length += 1
        for key in flow:
            share = share.parts.setdefault(key, _Share())
            share.length += 1
        share.items[item] = None
        if self._max_length is None or len(self._flows) <= self._max_length:
            return None
        dropped = self._find_newest_of_longest(flow)
        self.remove(dropped)
        return dropped

    def has_item(self, may_pop: Callable[[Hashable], bool]) -> bool:
        """Return whether an item waits whose flow begins with a key that ``may_pop`` accepts."""
        return any(map(may_pop, self._all.parts))

    def pop(self, may_pop: Callable[[Hashable], bool] = lambda _: True) -> Item:
        """Remove and return the first item of the flow whose turn it is.

        :param may_pop: returns whether flows that begin with a key may have a turn.
        :raises IndexError: when no such flow waits.
        """
        share = self._all
        keys = [key for key in share.parts if may_pop(key)]
        if not self._flows or (share.parts and not keys):
            raise IndexError("nothing waits that may have a turn")
        while share.parts:
            part = share.parts.pop(keys[0])
            share.parts[keys[0]] = part  # at the end: the others come first now
            share = part
            keys = list(share.parts)
        item = next(iter(share.items))
        self.remove(item)
        return item

    def pop_flow(self, flow: Flow, max_count: int) -> list[Item]:
        """Remove and return the first items of one flow, at most ``max_count``."""
        share = self._find_share(flow)
        items = [] if share is None else list(share.items)[:max_count]
        for item in items:
            self.remove(item)
        return items

    def count_flow(self, flow: Flow) -> int:
        """Return how many items of a flow wait."""
        share = self._find_share(flow)
        return 0 if share is None else share.length

    def remove(self, item: Item) -> None:
        """Remove an item, wherever it waits.

        :raises KeyError: when it does not wait.
        """
        share = self._all
        share.length -= 1
        for key in self._flows.pop(item):
            part = share.parts[key]
            part.length -= 1
            if not part.length:
                del share.parts[key]
            share = part
        del share.items[item]

    def _find_share(self, flow: Flow) -> _Share[Item] | None:
        share: _Share[Item] | None = self._all
        for key in flow:
            share = None if share is None else share.parts.get(key)
        return share

    def _find_newest_of_longest(self, newcomer: Flow) -> Item:
        """Return the newest item of the longest flow; of equally long ones, the newcomer's.

        Otherwise two flows would drop each other's items by turns, and nothing would ever be done.
        """
        share = self._all
        own: Sequence[Hashable] = newcomer
        while share.parts:
            longest = max(part.length for part in share.parts.values())
            if own and share.parts[own[0]].length == longest:
                share, own = share.parts[own[0]], own[1:]
            else:
                share = next(part for part in share.parts.values() if part.length == longest)
                own = ()
        return next(reversed(share.items))


class FairSemaphore:
    """A bound on what runs at the same time; those who wait take turns by flow.

    :param max_running: how many may run.
    :param max_waiting: how many may wait.
    :param make_overload_error: makes the error of those who cannot wait.
    """

    def __init__(
        self, max_running: int, *, max_waiting: int, make_overload_error: Callable[[], Exception]
    ) -> None:
        self._free = max_running
        self._waiting: FairQueue[Deferred[None]] = FairQueue(max_waiting)
        self._make_overload_error = make_overload_error

    @property
    def waiting_count(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def acquire(self, flow: Flow) -> Deferred[None]:
        """Return a Deferred that fires when the caller may run; cancel it to give up.

        It fails with the overload error when too many wait, and this one is the newest of the flow
        that has most: at once, or later, when another flow needs the place.
        """
        turn: Deferred[None] = Deferred(self._waiting.remove)
        if self._free:
            self._free -= 1
            turn.callback(None)
            return turn
        dropped = self._waiting.push(turn, flow)
        if dropped is not None:
            dropped.errback(self._make_overload_error())
        return turn

    def release(self) -> None:
        """End a run, and start the next one in turn."""
        if self._waiting:
            self._waiting.pop().callback(None)
        else:
            self._free += 1
