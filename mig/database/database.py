"""The interface to PostgreSQL: small queries, transactions, and streams of rows.

A statement that is no longer needed is cancelled by ``pg_cancel_backend`` from a reserved
connection: psycopg2's own ``cancel()`` blocks the process while the server does not answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar, overload

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from mig.database.connection import Connection, Rows, name_sql
from mig.database.control import ControlConnection
from mig.database.pool import Pool
from mig.database.restricted import RestrictedQueries
from mig.errors import PoolerError, UnavailableError
from mig.limits import Limits
from mig.model.statement import Guard, Parameters, Statement, select_ids
from mig.reactor import Reactor

Record = TypeVar("Record")

SERVER_SHARE = 0.8
"""The part of a small query's time after which the server ends it, and can still say so in time."""

ROLLBACK_TIMEOUT_SECONDS = 2.0
BEGIN_TIMEOUT_SECONDS = 5.0
LAST_STATEMENT_SECONDS = 0.05
"""How long a statement that nobody needs any more may go on before it is cancelled.

A page that was fetched ahead takes a few milliseconds; a cancelled one costs its connection.
"""
SERVER_GRACE_SECONDS = 5.0
"""How much longer than the server's own time limit a statement of a stream waits for its answer."""

# A pooler may hand out a session in which another client has prepared statements. A notice that is
# less than a warning would count as one: see Connection.check_commit.
# format_time expects times in ISO format and in UTC. With extra_float_digits = 1, the default since
# PostgreSQL 12, a float has the fewest digits that identify it, whatever the server's configuration
# says. Without jit the first row comes at once (docs/decisions/0001).
SESSION_SETTINGS = (
    "deallocate all; set client_min_messages = warning; set timezone = 'UTC';"
    " set datestyle = 'ISO'; set extra_float_digits = 1; set jit = off"
)
GROW_INPUT_BUFFER = "select repeat('x', 1000000)"
"""A query with a 1 MB answer, run once on each connection for streams.

libpq reads 16 KB at a time until a message does not fit, then enlarges its input buffer, which
never shrinks again. Later pages then arrive in few reads.
"""

BEGIN_SNAPSHOT = """
begin isolation level repeatable read read only;
select set_config('application_name', %s, true), set_config('statement_timeout', %s, true),
    set_config('idle_in_transaction_session_timeout', %s, true)
"""
ENABLE_DURABLE_COMMIT = """
select set_config('synchronous_commit', 'on', false)
where current_setting('synchronous_commit') = 'off'
"""
"""What is committed is on disk, even where the server's default prefers speed.

With a synchronous standby it is also on that one's disk (docs/decisions/0048).
"""

CHECK_ROUNDS = 10
_SELECT_BACKEND_PID = select_ids("select pg_backend_pid()::text")


class Snapshot:
    """A read-only transaction that sees one state of the database (:meth:`Database.snapshot`)."""

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds

    @property
    def is_busy(self) -> bool:
        """Whether a statement is running."""
        return self._connection.is_busy

    def query(
        self, statement: Statement[Record], parameters: Parameters = ()
    ) -> Deferred[list[Record]]:
        """Return all records of a statement."""
        return self._connection.execute(statement, parameters, seconds=self._seconds)

    async def declare_cursor(self, sql: str, parameters: Parameters = ()) -> None:
        """Open the transaction's cursor; :meth:`fetch` takes rows from it."""
        declare = f"declare rows no scroll cursor for {sql}"
        await self._connection.execute(declare, parameters, seconds=self._seconds)

    async def close_cursor(self) -> None:
        """Close the transaction's cursor, so that another one can be opened."""
        await self._connection.execute("close rows", seconds=self._seconds)

    def fetch(self, count: int) -> Deferred[Rows]:
        """Return the next ``count`` rows of the cursor; the statement starts at once."""
        fetch = f"fetch forward {count:d} from rows"
        return self._connection.execute(fetch, seconds=self._seconds)


class Transaction:
    """A transaction that writes (:meth:`Database.transaction`).

    Each statement sees what others have committed before it starts.
    """

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self.has_begun = False

    @overload
    def query(
        self, statement: Statement[Record], parameters: Parameters = ()
    ) -> Deferred[list[Record]]: ...
    @overload
    def query(self, statement: str, parameters: Parameters = ()) -> Deferred[Rows]: ...
    def query(self, statement: Statement[Any] | str, parameters: Parameters = ()) -> Deferred[Any]:
        """Return all records of a statement; the first statement begins the transaction."""
        # sent together with `begin`, the first statement costs one round trip less
        sql = statement if isinstance(statement, str) else statement.execute_sql
        begin = "" if self.has_begun else f"begin isolation level read committed; {name_sql()}"
        rows = self._execute(f"{begin}{sql}", parameters)
        self.has_begun = True
        return rows if isinstance(statement, str) else rows.addCallback(statement.read_records)

    async def commit(self, sql: str = "", parameters: Parameters = ()) -> None:
        """Commit the transaction, with the last statement ``sql`` if there is one.

        :raises UnavailableError: as :meth:`Connection.execute` and :meth:`Connection.check_commit`
            raise it.
        """
        if self.has_begun:
            self.has_begun = False
            await self._execute(f"{sql}; commit" if sql else "commit", parameters)
            self._connection.check_commit()

    def _execute(self, sql: str, parameters: Parameters) -> Deferred[Rows]:
        return self._connection.execute(sql, parameters, seconds=self._seconds)


class Database:
    """A database of PostgreSQL, with a pool of connections for each use.

    :param dsn: a libpq connection string or URL.
    :param limits: how many connections small queries and streams have.
    """

    log = Logger()

    def __init__(self, reactor: Reactor, dsn: str, *, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self._limits = limits
        self._query_seconds = limits.query_seconds
        server_milliseconds = self._query_seconds * SERVER_SHARE * 1000
        setup = (
            f"{SESSION_SETTINGS}; set statement_timeout = {server_milliseconds:.0f};"
            f" set lock_timeout = {limits.lock_wait_seconds * 1000:.0f}"
        )
        self.reactor = reactor

        def make_pool(
            size: int, setup: str, wait_seconds: float = limits.connection_wait_seconds
        ) -> Pool:
            return Pool(
                reactor, dsn, size=size, setup=setup, wait_seconds=wait_seconds, limits=limits
            )

        self._queries = make_pool(limits.query_connections, f"{setup}; {ENABLE_DURABLE_COMMIT}")
        self._streams = make_pool(
            limits.stream_connections,
            f"{SESSION_SETTINGS}; {GROW_INPUT_BUFFER}",
            limits.stream_wait_seconds,
        )
        self._short_searches = make_pool(limits.short_connections, SESSION_SETTINGS)
        self._short_query_seconds = limits.short_query_seconds
        self._control_pool = make_pool(1, setup)
        self.control = ControlConnection(self._control_pool)
        self._restricted = RestrictedQueries(
            reactor, dsn, SESSION_SETTINGS, limits, self.control.start_cancelling
        )

    @overload
    async def query(
        self, statement: Statement[Record], parameters: Parameters = ()
    ) -> list[Record]: ...
    @overload
    async def query(self, statement: str, parameters: Parameters = ()) -> Rows: ...
    async def query(self, statement: Statement[Any] | str, parameters: Parameters = ()) -> Any:
        """Return all records of one statement, which runs in a transaction of its own.

        :raises UnavailableError: when no connection is free in time or can be opened, and as
            :meth:`Connection.execute` and :meth:`Connection.check_commit` raise it.
        """
        connection = await self._queries.acquire()
        try:
            records = await connection.execute(
                statement, parameters, seconds=self._query_seconds, prefix=name_sql()
            )
            if isinstance(statement, Statement) and statement.writes:
                connection.check_commit()
            return records
        finally:
            self._release(connection)

    async def query_guarded(
        self, guard: Guard, statement: Statement[Record], parameters: Mapping[str, object]
    ) -> list[Record]:
        """Return all records of a prepared statement, if the condition of ``guard`` holds.

        :raises GuardFailedError: when it does not.
        :raises UnavailableError: as :meth:`query` raises it.
        """
        connection = await self._queries.acquire()
        try:
            return await connection.execute_guarded(
                guard, statement, parameters, seconds=self._query_seconds, prefix=name_sql()
            )
        finally:
            self._release(connection)

    async def query_restricted(self, statement: Statement[Record], *, client: str) -> list[Record]:
        """Return all records of a statement in which a client has written SQL.

        It has a connection of its own, in a read-only transaction of a role that may read little.

        :raises StatementError: as :meth:`RestrictedQueries.query` raises it, like the others.
        :raises QueryCancelledError: when it takes too long.
        :raises UnavailableError: when it cannot run now.
        """
        return await self._restricted.query(statement, client)

    async def check_sessions(self) -> None:
        """Check that each connection has a session of its own.

        :raises PoolerError: when a pooler gives the same session to several connections.
        :raises UnavailableError: when the database cannot be reached.
        """
        first = await self._queries.acquire()
        try:
            second = await self._control_pool.acquire()
            try:
                await self._compare_sessions(first, second)
            finally:
                self._control_pool.release(second)
        finally:
            self._queries.release(first)

    async def _compare_sessions(self, *connections: Connection) -> None:
        # A pooler that others use at the same time may give us two sessions by chance, but not
        # always the same two.
        for _ in range(CHECK_ROUNDS):
            pids = set()
            for connection in connections:
                (backend,) = await connection.execute(
                    _SELECT_BACKEND_PID, seconds=self._query_seconds
                )
                if int(backend.id) != connection.backend_pid or backend.id in pids:
                    raise PoolerError
                pids.add(backend.id)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Connection]:
        """Lend a connection whose statements have no time limit at the server.

        It is closed at the end, which also drops its settings and locks.

        :raises UnavailableError: when the database cannot be reached.
        """
        connection = await self._streams.acquire()
        try:
            yield connection
        finally:
            self._streams.discard(connection)

    def can_stream(self) -> bool:
        """Return whether a connection for streams is free."""
        return self._streams.is_available()

    def is_stream_wanted(self) -> bool:
        """Return whether someone waits for a connection for streams."""
        return self._streams.is_wanted()

    def is_stream_overdrawn(self, client: str) -> bool:
        """Return whether a stream to ``client`` must give its connection to another client."""
        return self._streams.is_overdrawn(client)

    def snapshot(
        self,
        application_name: str,
        *,
        client: str = "",
        is_patient: bool = False,
        statement_timeout_seconds: float | None = None,
        idle_timeout_seconds: float = 300.0,
    ) -> AbstractAsyncContextManager[Snapshot]:
        """Run a read-only transaction on a connection for streams.

        An administrator sees ``application_name`` in ``pg_stat_activity``. A statement that is
        still running when the block ends is cancelled at the database.

        :param client: whose share of the connections is used.
        :param is_patient: whether to wait for a connection as long as it takes.
        :param statement_timeout_seconds: by default ``fetch_seconds`` of the limits.
        :raises UnavailableError: when no connection is free in time or can be opened.
        """
        return self._run_snapshot(
            self._streams,
            application_name,
            client,
            is_patient,
            statement_timeout_seconds or self._limits.fetch_seconds,
            idle_timeout_seconds,
        )

    def short_snapshot(
        self, application_name: str, *, client: str
    ) -> AbstractAsyncContextManager[Snapshot]:
        """Run a read-only transaction that ends before its answer is sent.

        It has connections of its own, and its statements have little time.

        :raises UnavailableError: as by :meth:`snapshot`.
        """
        seconds = self._short_query_seconds
        return self._run_snapshot(
            self._short_searches, application_name, client, False, seconds, SERVER_GRACE_SECONDS
        )

    @asynccontextmanager
    async def _run_snapshot(
        self,
        pool: Pool,
        application_name: str,
        client: str,
        is_patient: bool,
        statement_timeout_seconds: float,
        idle_timeout_seconds: float,
    ) -> AsyncIterator[Snapshot]:
        connection = await pool.acquire(client, is_patient=is_patient)
        snapshot = Snapshot(connection, statement_timeout_seconds + SERVER_GRACE_SECONDS)
        try:
            limits = (
                f"{statement_timeout_seconds * 1000:.0f}",
                f"{idle_timeout_seconds * 1000:.0f}",
            )
            await connection.execute(
                BEGIN_SNAPSHOT, (application_name, *limits), seconds=BEGIN_TIMEOUT_SECONDS
            )
            yield snapshot
        finally:
            await self._end_transaction(pool, connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Run a transaction that is on disk when the block ends, and rolled back when it raises.

        Only a commit whose answer is lost leaves that open; it raises, too.

        :raises UnavailableError: when no connection is free in time or can be opened.
        """
        connection = await self._queries.acquire()
        transaction = Transaction(connection, self._query_seconds)
        try:
            yield transaction
            await transaction.commit()
        except BaseException:
            await self._end_transaction(self._queries, connection)
            self._cancel_silent(connection)
            raise
        self._queries.release(connection)

    async def _end_transaction(self, pool: Pool, connection: Connection) -> None:
        if connection.is_busy:
            await self._wait_until_idle(connection)
        if connection.is_busy:
            await self.control.cancel_statement(connection.backend_pid)
            pool.discard(connection)
            return
        try:
            if not connection.is_closed:
                await connection.execute("rollback", seconds=ROLLBACK_TIMEOUT_SECONDS)
        except UnavailableError:
            connection.close()
        finally:
            pool.release(connection)

    async def _wait_until_idle(self, connection: Connection) -> None:
        """Wait for a statement that may be about to end."""
        idle: Deferred[None] = Deferred()
        connection.call_when_idle(lambda: None if idle.called else idle.callback(None))
        await idle.addTimeout(LAST_STATEMENT_SECONDS, self.reactor, _go_on)

    def _release(self, connection: Connection) -> None:
        self._queries.release(connection)
        connection.call_when_idle(lambda: self._cancel_silent(connection))

    def _cancel_silent(self, connection: Connection) -> None:
        """Cancel at the database what was given up without an answer.

        A commit that waits for a synchronous standby has no time limit at the server and does not
        notice that its client has gone, so these would use up the server's connections.
        """
        if connection.is_silent:
            self.control.start_cancelling(connection.backend_pid)

    async def wait_until_unused(self, seconds: float) -> None:
        """Wait until no connection is in use, for ``seconds`` at most.

        So what was running for clients that were cut is cancelled at the database, too.
        """
        unused = [pool.wait_until_unused() for pool in self.pools.values()]
        waiting = DeferredList(unused, consumeErrors=True)
        await waiting.addTimeout(seconds, self.reactor, _go_on)

    def stop(self) -> None:
        """Close all connections that are not in use."""
        for pool in self.pools.values():
            pool.stop()

    @property
    def pools(self) -> dict[str, Pool]:
        """All pools, by the use of their connections."""
        return {
            "queries": self._queries,
            "streams": self._streams,
            "short": self._short_searches,
            "control": self._control_pool,
        }


def _go_on(result: object, seconds: float) -> None:
    """Wait no longer."""
