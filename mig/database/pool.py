"""A pool: a bounded number of connections, and a bounded queue of those who wait for one."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import CancelledError, Deferred

from mig.database.connection import Connection, open_connection
from mig.errors import UnavailableError
from mig.limits import Limits
from mig.reactor import Reactor


class Pool:
    """At most ``size`` connections, opened when needed, and a bounded queue for them.

    ``setup`` is the SQL that runs on each new connection.
    """

    def __init__(
        self,
        reactor: Reactor,
        dsn: str,
        *,
        size: int,
        setup: str,
        limits: Limits,
    ) -> None:
        self._reactor = reactor
        self._dsn = dsn
        self._size = size
        self._setup = setup
        self._limits = limits
        self._free: list[Connection] = []
        self._open = 0
        self._waiters: deque[Deferred[None]] = deque()
        self._stopped = False

    async def acquire(self) -> Connection:
        """Return a connection; give it back by :meth:`release` or :meth:`discard`.

        :raises UnavailableError: when none is free in time, too many requests wait already, or
            none can be opened.
        """
        while True:
            while self._free:
                connection = self._free.pop()
                if not connection.is_closed:
                    return connection
                self._open -= 1
            if self._open < self._size:
                break
            await self._wait_for_connection()
        self._open += 1  # before opening: while this waits, others must not open one too many
        try:
            return await open_connection(self._reactor, self._dsn, self._setup)
        except BaseException:
            self._open -= 1
            self._wake_waiter()
            raise

    def release(self, connection: Connection) -> None:
        """Take a connection back, once its statement has ended."""
        connection.call_when_idle(lambda: self._give_back(connection))

    def discard(self, connection: Connection) -> None:
        """Close a connection that must not be used again."""
        connection.close()
        self._open -= 1
        self._wake_waiter()

    def stop(self) -> None:
        """Close the free connections now, and the others when they are released."""
        self._stopped = True
        while self._free:
            self.discard(self._free.pop())

    def _give_back(self, connection: Connection) -> None:
        if connection.is_closed or self._stopped:
            self.discard(connection)
        else:
            self._free.append(connection)
            self._wake_waiter()

    def _wake_waiter(self) -> None:
        if self._waiters:
            self._waiters.popleft().callback(None)

    async def _wait_for_connection(self) -> None:
        if len(self._waiters) >= self._limits.waiting_queries:
            raise UnavailableError("too many requests are waiting for the database")
        waiter: Deferred[None] = Deferred()
        waiter.addTimeout(self._limits.connection_wait_seconds, self._reactor)
        self._waiters.append(waiter)
        try:
            await waiter
        except BaseException as reason:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            if isinstance(reason, CancelledError):
                raise
            raise UnavailableError("all connections to the database are in use") from None
