"""Connections to PostgreSQL, and streams of rows; the only module that knows txpostgres.

txpostgres cancels a statement by psycopg2's ``cancel()``, which blocks the process when the server
does not answer. Here nobody but the connection itself waits for a statement's own Deferred: who
asked gets another one, which can be cancelled and has a deadline. A statement that is no longer
wanted is cancelled by ``pg_cancel_backend`` from a reserved connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar, overload

import psycopg2
from psycopg2.errors import (
    DeadlockDetected,
    FeatureNotSupported,
    InvalidSqlStatementName,
    LockNotAvailable,
    ReadOnlySqlTransaction,
    StringDataRightTruncation,
    UniqueViolation,
)
from psycopg2.extensions import make_dsn, parse_dsn
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from txpostgres import txpostgres

from mig.database.resolver import resolve
from mig.errors import Locked, Taken, TooLong, Unavailable
from mig.model.row import Row
from mig.model.statement import Parameters, Statement

Record = TypeVar("Record")
Rows = list[Row]

CONNECT_SECONDS = 10.0
QUERY_SECONDS = 10.0
LOCK_SECONDS = 2.0
"""How long a small query waits for another's lock: it keeps a connection from all others."""

CANCEL_SECONDS = 2.0
BEGIN_SECONDS = 5.0
GRACE_SECONDS = 5.0
"""How much later than the server's own limit a server that does not answer is given up."""

CONNECTION: dict[str, Any] = {
    "client_encoding": "utf8",
    "application_name": "mig-api",
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
SETTINGS = "set timezone = 'UTC'; set datestyle = 'ISO'; set extra_float_digits = 1; set jit = off"
LARGE_INPUT_BUFFER = "select repeat('x', 4000000)"
"""libpq reads 16 KB at a time until some message was larger; it never shrinks again."""

BEGIN = (
    "begin isolation level repeatable read read only;"
    " select set_config('application_name', %s, true), set_config('statement_timeout', %s, true),"
    " set_config('idle_in_transaction_session_timeout', %s, true)"
)
DURABLE = (
    "select set_config('synchronous_commit', 'on', false)"
    " where current_setting('synchronous_commit') = 'off'"
)
"""What is committed is on disk, also where the server would rather be fast."""

OUTDATED = (FeatureNotSupported, InvalidSqlStatementName)
"""What happens to a prepared statement when the tables, or the session, are no longer the same."""


class _Connection(txpostgres.Connection):
    def doRead(self) -> None:
        """An idle connection has something to read: a notice, or that the server is gone."""
        try:
            super().doRead()
        except psycopg2.Error:
            self.close()


class Connection:
    """One connection; one statement at a time."""

    def __init__(self, reactor: Any, connection: _Connection) -> None:
        self._reactor = reactor
        self._connection = connection
        self._idle: Deferred[None] | None = None
        self._prepared: set[str] = set()

    @property
    def closed(self) -> bool:
        return bool(self._connection.closed)

    @property
    def busy(self) -> bool:
        """A statement is running (perhaps one that nobody waits for)."""
        return self._idle is not None

    @property
    def backend_pid(self) -> int:
        return int(self._connection.get_backend_pid())

    @overload
    def execute(
        self, statement: Statement[Record], parameters: Parameters = (), *, seconds: float
    ) -> Deferred[list[Record]]: ...
    @overload
    def execute(
        self, statement: str, parameters: Parameters = (), *, seconds: float
    ) -> Deferred[Rows]: ...
    def execute(
        self, statement: Statement[Any] | str, parameters: Parameters = (), *, seconds: float
    ) -> Deferred[Any]:
        """Start a statement; its records. Cancelling the Deferred does not stop the statement.

        Of SQL that is no :class:`Statement` the rows cannot be read.

        :raises Unavailable: when the server does not answer within *seconds*, is gone, or
            cancelled the statement.
        """
        if isinstance(statement, str):
            return self._execute(statement, parameters, seconds)
        if not statement.name or statement.name in self._prepared:
            rows = self._execute(statement.execute, parameters, seconds)
        else:
            rows = Deferred.fromCoroutine(self._prepare(statement, parameters, seconds))
        return rows.addCallback(statement.records)

    async def _prepare(
        self, statement: Statement[Any], parameters: Parameters, seconds: float
    ) -> Rows:
        try:
            await self._execute(statement.prepare, (), seconds)
        except BaseException:  # whether it is prepared now is not known
            self.close()
            raise
        self._prepared.add(statement.name)
        return await self._execute(statement.execute, parameters, seconds)

    def _execute(self, sql: str, parameters: Parameters, seconds: float) -> Deferred[Rows]:
        try:
            statement = self._connection.cursor().execute(sql, parameters or None)
        except psycopg2.Error:
            return fail(_explained(Failure()))
        self._idle = Deferred()
        deadline = self._reactor.callLater(seconds, self.close)
        answer: Deferred[Rows] = Deferred()

        def finished(result: Any) -> None:
            if deadline.active():
                deadline.cancel()
            idle, self._idle = self._idle, None
            if isinstance(result, Failure) and result.check(*OUTDATED):
                self.close()
            if not answer.called:
                _answer(answer, result)
            if idle:
                idle.callback(None)

        statement.addBoth(finished)
        return answer

    def when_idle(self, call: Any) -> None:
        """Call *call* as soon as no statement is running."""
        if self._idle is None:
            call()
        else:
            self._idle.addCallback(lambda _: call())

    def close(self) -> None:
        self._connection.close()


def _answer(answer: Deferred[Rows], result: Any) -> None:
    """Hand over a statement's rows, or what happened to it."""
    try:
        if isinstance(result, Failure):
            result.raiseException()
        rows: Rows = result.fetchall() if result.description else []
    except Exception:  # the connection may have been closed since the rows came
        answer.errback(_explained(Failure()))
    else:
        answer.callback(rows)


def _explained(failure: Failure) -> Failure:
    """What happened to a statement, in the words of this project."""
    if failure.check(CancelledError):
        return Failure(Unavailable("the query took too long, or was stopped at the database"))
    if failure.check(LockNotAvailable, DeadlockDetected):
        message = "another change is going on at the database; try again"
        return Failure(Locked(message, _one_line(failure)))
    if failure.check(ReadOnlySqlTransaction):
        return Failure(Unavailable("the database takes no changes", _one_line(failure)))
    if failure.check(*OUTDATED):
        return Failure(Unavailable("the database has changed; try again", _one_line(failure)))
    if failure.check(UniqueViolation):
        return Failure(Taken("a value that must be unique is there already"))
    if failure.check(StringDataRightTruncation):
        return Failure(TooLong("a value is too long for its column in the database"))
    if failure.check(psycopg2.OperationalError, psycopg2.InterfaceError, ConnectionDone):
        return Failure(Unavailable("the database cannot be reached", _one_line(failure)))
    return failure


def _one_line(failure: Failure) -> str:
    return " ".join(failure.getErrorMessage().split())


class Pool:
    """At most *size* connections, opened when needed; a bounded queue waits for them."""

    def __init__(
        self,
        reactor: Any,
        dsn: str,
        *,
        size: int,
        setup: str,
        waiting: int = 256,
        wait_seconds: float = 10.0,
    ) -> None:
        self._reactor = reactor
        self._dsn = dsn
        self._size = size
        self._setup = setup
        self._waiting = waiting
        self._wait_seconds = wait_seconds
        self._free: list[Connection] = []
        self._open = 0
        self._waiters: deque[Deferred[None]] = deque()
        self._stopped = False

    async def acquire(self) -> Connection:
        """A connection, to be given back by :meth:`release` or :meth:`discard`.

        :raises Unavailable: when there is none in time, too many wait, or none can be opened.
        """
        while True:
            while self._free:
                connection = self._free.pop()
                if not connection.closed:
                    return connection
                self._open -= 1
            if self._open < self._size:
                break
            await self._wait()
        self._open += 1
        try:
            return await self._connect()
        except BaseException:
            self._open -= 1
            self._wake()
            raise

    def release(self, connection: Connection) -> None:
        """Take a connection back, once its statement has ended."""
        connection.when_idle(lambda: self._give_back(connection))

    def discard(self, connection: Connection) -> None:
        """Close a connection that must not be used again."""
        connection.close()
        self._open -= 1
        self._wake()

    def stop(self) -> None:
        """Close what is free now, and everything else as it comes back."""
        self._stopped = True
        while self._free:
            self.discard(self._free.pop())

    def _give_back(self, connection: Connection) -> None:
        if connection.closed or self._stopped:
            self.discard(connection)
        else:
            self._free.append(connection)
            self._wake()

    def _wake(self) -> None:
        if self._waiters:
            self._waiters.popleft().callback(None)

    async def _wait(self) -> None:
        if len(self._waiters) >= self._waiting:
            raise Unavailable("too many requests wait for the database")
        waiter: Deferred[None] = Deferred()
        waiter.addTimeout(self._wait_seconds, self._reactor)
        self._waiters.append(waiter)
        try:
            await waiter
        except BaseException as reason:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            if isinstance(reason, CancelledError):
                raise
            raise Unavailable("all connections to the database are in use") from None

    async def _connect(self) -> Connection:
        raw = _Connection(self._reactor)
        try:
            resolved = await resolve(self._reactor, parse_dsn(self._dsn))
            dsn = make_dsn(None, **{**CONNECTION, **resolved})
            attempt = raw.connect(dsn)
            late = self._reactor.callLater(CONNECT_SECONDS, raw.close)
            connected: Deferred[None] = Deferred()
            attempt.addBoth(_pass_on, connected)
            try:
                await connected
            finally:
                if late.active():
                    late.cancel()
            connection = Connection(self._reactor, raw)
            await connection.execute(self._setup, seconds=CONNECT_SECONDS)
            return connection
        except BaseException as reason:
            if raw.pollable() is not None:
                raw.close()
            if isinstance(reason, psycopg2.Error | ConnectionDone):
                raise Unavailable("the database cannot be reached", _one_line(Failure())) from None
            raise


def _pass_on(result: Any, to: Deferred[None]) -> None:
    if not to.called:
        if isinstance(result, Failure):
            to.errback(result)
        else:
            to.callback(None)


class Snapshot:
    """A read-only transaction that sees one state; see :meth:`Database.snapshot`."""

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds

    def query(
        self, statement: Statement[Record], parameters: Parameters = ()
    ) -> Deferred[list[Record]]:
        """All records of a statement."""
        return self._connection.execute(statement, parameters, seconds=self._seconds)

    async def declare(self, sql: str, parameters: Parameters = ()) -> None:
        """Open the transaction's cursor; :meth:`fetch` takes rows from it."""
        declare = f"declare rows no scroll cursor for {sql}"
        await self._connection.execute(declare, parameters, seconds=self._seconds)

    def fetch(self, count: int) -> Deferred[Rows]:
        """The next *count* rows of the cursor; the statement starts at once."""
        fetch = f"fetch forward {count:d} from rows"
        return self._connection.execute(fetch, seconds=self._seconds)


class Transaction:
    """A transaction that writes; see :meth:`Database.transaction`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.begun = False

    @overload
    def query(
        self, statement: Statement[Record], parameters: Parameters = ()
    ) -> Deferred[list[Record]]: ...
    @overload
    def query(self, statement: str, parameters: Parameters = ()) -> Deferred[Rows]: ...
    def query(self, statement: Statement[Any] | str, parameters: Parameters = ()) -> Deferred[Any]:
        """All records of a statement; the first one begins the transaction."""
        sql = statement if isinstance(statement, str) else statement.execute
        rows = self._execute(sql if self.begun else f"begin; {sql}", parameters)
        self.begun = True
        return rows if isinstance(statement, str) else rows.addCallback(statement.records)

    async def commit(self, sql: str = "", parameters: Parameters = ()) -> None:
        """Make the transaction durable, with a last statement if there is one."""
        if self.begun:
            self.begun = False
            await self._execute(f"{sql}; commit" if sql else "commit", parameters)

    def _execute(self, sql: str, parameters: Parameters) -> Deferred[Rows]:
        return self._connection.execute(sql, parameters, seconds=QUERY_SECONDS + GRACE_SECONDS)


class Database:
    """What the service asks PostgreSQL through: small queries, and streams of rows.

    :param dsn: a libpq connection string or URL.
    :param connections: how many connections small queries share.
    :param streams: how many streams run at once, each on a connection of its own.
    """

    log = Logger()

    def __init__(self, reactor: Any, dsn: str, *, connections: int = 8, streams: int = 8) -> None:
        limit = (
            f"{SETTINGS}; set statement_timeout = {QUERY_SECONDS * 1000:.0f};"
            f" set lock_timeout = {LOCK_SECONDS * 1000:.0f}"
        )
        self.reactor = reactor
        self._queries = Pool(reactor, dsn, size=connections, setup=f"{limit}; {DURABLE}")
        self._streams = Pool(reactor, dsn, size=streams, setup=f"{SETTINGS}; {LARGE_INPUT_BUFFER}")
        self._control = Pool(reactor, dsn, size=1, setup=limit)

    @overload
    async def query(
        self, statement: Statement[Record], parameters: Parameters = ()
    ) -> list[Record]: ...
    @overload
    async def query(self, statement: str, parameters: Parameters = ()) -> Rows: ...
    async def query(self, statement: Statement[Any] | str, parameters: Parameters = ()) -> Any:
        """All records of one statement, in a transaction of its own."""
        connection = await self._queries.acquire()
        seconds = QUERY_SECONDS + GRACE_SECONDS
        try:
            return await connection.execute(statement, parameters, seconds=seconds)
        finally:
            self._queries.release(connection)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Connection]:
        """A connection of one's own, without a limit on statements.

        It is closed at the end: what was set or locked in it goes with it.

        :raises Unavailable: when the database cannot be reached.
        """
        connection = await self._streams.acquire()
        try:
            yield connection
        finally:
            self._streams.discard(connection)

    @asynccontextmanager
    async def snapshot(
        self, application_name: str, *, statement_seconds: float = 60.0, idle_seconds: float = 300.0
    ) -> AsyncIterator[Snapshot]:
        """A read-only transaction on a stream's connection.

        *application_name* is what an administrator sees in ``pg_stat_activity``. Whoever leaves
        the block while a statement runs has it cancelled at the database.
        """
        connection = await self._streams.acquire()
        snapshot = Snapshot(connection, statement_seconds + GRACE_SECONDS)
        try:
            limits = (f"{statement_seconds * 1000:.0f}", f"{idle_seconds * 1000:.0f}")
            await connection.execute(BEGIN, (application_name, *limits), seconds=BEGIN_SECONDS)
            yield snapshot
        finally:
            await self._end(self._streams, connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction that is on disk when the block is left, or never was when it raises.

        Only a commit whose answer did not come leaves that open: then it raises, too.
        """
        connection = await self._queries.acquire()
        transaction = Transaction(connection)
        try:
            yield transaction
            await transaction.commit()
        except BaseException:
            await self._end(self._queries, connection)
            raise
        self._queries.release(connection)

    async def _end(self, pool: Pool, connection: Connection) -> None:
        if connection.busy:
            await self._cancel(connection.backend_pid)
            pool.discard(connection)
            return
        try:
            if not connection.closed:
                await connection.execute("rollback", seconds=CANCEL_SECONDS)
        except Unavailable:
            connection.close()
        finally:
            pool.release(connection)

    async def _cancel(self, backend_pid: int) -> None:
        try:
            control = await self._control.acquire()
        except Unavailable as reason:
            self.log.warn("could not cancel a query at the database: {reason}", reason=reason)
            return
        try:
            await control.execute(
                "select pg_cancel_backend(%s)", (backend_pid,), seconds=CANCEL_SECONDS
            )
        except Unavailable as reason:
            self.log.warn("could not cancel a query at the database: {reason}", reason=reason)
        finally:
            self._control.release(control)

    def stop(self) -> None:
        """Close all connections that are not in use."""
        for pool in (self._queries, self._streams, self._control):
            pool.stop()
