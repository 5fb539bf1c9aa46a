"""A pool: a bounded number of connections, and a fair, bounded queue of those who wait for one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from twisted.internet.defer import CancelledError, Deferred

from mig.database.connection import Connection, open_connection
from mig.errors import UnavailableError
from mig.fair_queue import FairQueue
from mig.limits import Limits
from mig.reactor import Reactor


@dataclass(eq=False, kw_only=True)
class _Waiter:
    client: str
    turn: Deferred[None]


class Pool:
    """At most ``size`` connections, opened when needed, and a bounded queue for them.

    Clients, which are named by texts, take turns. One that has its share of the connections comes
    after those that have not.

    :param setup: the SQL that runs on each new connection.
    :param wait_seconds: how long to wait for a connection.
    """

    def __init__(
        self,
        reactor: Reactor,
        dsn: str,
        *,
        size: int,
        setup: str,
        wait_seconds: float,
        limits: Limits,
    ) -> None:
        self._reactor = reactor
        self._dsn = dsn
        self._limits = limits
        self._size = size
        self._share = max(1, int(size * limits.client_share))
        self._setup = setup
        self._wait_seconds = wait_seconds
        self._impatient: FairQueue[_Waiter] = FairQueue(limits.waiting_queries)
        self._patient: FairQueue[_Waiter] = FairQueue(limits.total_streams)
        self._queues = [self._impatient, self._patient]
        self._free: list[Connection] = []
        self._users: dict[Connection, str] = {}
        self._used = 0  # also counts connections that are being opened
        self._used_by_client: Counter[Hashable] = Counter()
        self._stopped = False
        self._unused: list[Deferred[None]] = []
        self.on_wait: Callable[[float], None] | None = None
        """Called with the seconds that a request has waited for a connection."""

    @property
    def used_count(self) -> int:
        """How many connections are in use, or being opened."""
        return self._used

    @property
    def free_count(self) -> int:
        """How many open connections nobody uses."""
        return len(self._free)

    @property
    def waiting_count(self) -> int:
        """How many requests wait for a connection."""
        return sum(map(len, self._queues))

    def is_available(self) -> bool:
        """Return whether a connection is free or may be opened."""
        return self._used < self._size  # then nobody waits: see _grant_turns

    def is_wanted(self) -> bool:
        """Return whether someone waits for a connection."""
        return any(map(len, self._queues))

    def is_overdrawn(self, client: str) -> bool:
        """Return whether ``client`` has more than its share while another one waits for its own."""
        is_over_share = self._used_by_client[client] > self._share
        return is_over_share and any(
            queue.has_item(self._is_within_share) for queue in self._queues
        )

    async def acquire(self, client: str = "", *, is_patient: bool = False) -> Connection:
        """Return a connection; give it back by :meth:`release` or :meth:`discard`.

        :param is_patient: whether to wait as long as it takes, until the caller is cancelled.
        :raises UnavailableError: when none is free in time, too many requests wait already, or
            none can be opened.
        """
        started = self._reactor.seconds()
        if self.is_available():
            self._occupy(client)
        else:
            await self._wait_for_turn(client, is_patient)
        if self.on_wait is not None:
            self.on_wait(self._reactor.seconds() - started)
        try:
            connection = self._take_free() or await open_connection(
                self._reactor, self._dsn, self._setup, self._limits
            )
        except BaseException:
            self._vacate(client)
            raise
        self._users[connection] = client
        return connection

    def release(self, connection: Connection) -> None:
        """Take a connection back, once its statement has ended."""
        connection.call_when_idle(lambda: self._give_back(connection))

    def discard(self, connection: Connection) -> None:
        """Close a connection that must not be used again."""
        connection.close()
        self._vacate(self._users.pop(connection))

    def wait_until_unused(self) -> Deferred[None]:
        """Wait until no connection is in use."""
        waiting: Deferred[None] = Deferred()
        if self._used:
            self._unused.append(waiting)
        else:
            waiting.callback(None)
        return waiting

    def stop(self) -> None:
        """Close the free connections now, and the others when they are released."""
        self._stopped = True
        while self._free:
            self._free.pop().close()

    def _take_free(self) -> Connection | None:
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed:
                return connection
        return None

    def _give_back(self, connection: Connection) -> None:
        if not (connection.is_closed or connection.has_grown or self._stopped):
            self._free.append(connection)
            self._vacate(self._users.pop(connection))
        else:
            self.discard(connection)

    def _is_within_share(self, client: Hashable) -> bool:
        return self._used_by_client[client] < self._share

    def _occupy(self, client: str) -> None:
        self._used += 1
        self._used_by_client[client] += 1

    def _vacate(self, client: str) -> None:
        self._used -= 1
        self._used_by_client[client] -= 1
        if not self._used_by_client[client]:
            del self._used_by_client[client]
        self._grant_turns()
        if not self._used:
            unused, self._unused = self._unused, []
            for waiting in unused:
                if not waiting.called:  # it may have timed out
                    waiting.callback(None)

    def _grant_turns(self) -> None:
        """Let those who wait take the free connections."""
        while self.is_available() and self.is_wanted():
            waiter = self._pop_waiter()
            self._occupy(waiter.client)
            waiter.turn.callback(None)

    def _pop_waiter(self) -> _Waiter:
        """Remove who is next: first those within their client's share; the queues take turns."""
        self._queues.reverse()
        for queue in self._queues:
            if queue.has_item(self._is_within_share):
                return queue.pop(self._is_within_share)
        return next(queue.pop() for queue in self._queues if queue)

    async def _wait_for_turn(self, client: str, is_patient: bool) -> None:
        waiter = _Waiter(client=client, turn=Deferred())
        queue = self._patient if is_patient else self._impatient
        if not is_patient:
            waiter.turn.addTimeout(self._wait_seconds, self._reactor)
        dropped = queue.push(waiter, (client,))
        if dropped is not None:
            message = "too many requests are waiting for the database"
            dropped.turn.errback(UnavailableError(message))
        try:
            await waiter.turn
        except BaseException as reason:
            if waiter in queue:
                queue.remove(waiter)
            if isinstance(reason, CancelledError | UnavailableError):
                raise
            raise UnavailableError("all connections to the database are in use") from None
