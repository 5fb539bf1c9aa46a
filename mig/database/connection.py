"""Connections to PostgreSQL; the only module that imports txpostgres.

Cancelling a Deferred of txpostgres calls psycopg2's ``cancel()``, which blocks the process while
the server does not answer. So only the connection itself waits for that Deferred. A caller gets
another one, which can be cancelled and has a deadline (docs/decisions/0005).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

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
from twisted.python.failure import Failure
from txpostgres import txpostgres
from txpostgres.txpostgres import Cursor

from mig.database.resolver import resolve_hosts
from mig.errors import DuplicateValueError, LockTimeoutError, UnavailableError, ValueTooLongError
from mig.model.row import Row
from mig.model.statement import Parameters, Statement
from mig.reactor import Reactor

Record = TypeVar("Record")
Rows = list[Row]

CONNECT_TIMEOUT_SECONDS = 10.0
CONNECTION_PARAMETERS: dict[str, str | int] = {
    "client_encoding": "utf8",
    "application_name": "mig-api",
    # a server that has vanished is noticed within a minute, not after the hours of TCP's defaults
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # in milliseconds
}
OUTDATED_STATEMENT_ERRORS = (FeatureNotSupported, InvalidSqlStatementName)
"""Errors of a prepared statement whose tables have changed, or that the session has lost."""


class _Connection(txpostgres.Connection):
    def doRead(self) -> None:
        """Read from an idle connection, and close it when the server has gone."""
        # txpostgres 1.7.0 lets this error reach the reactor (docs/twisted-internals.md)
        try:
            super().doRead()
        except psycopg2.Error:
            self.close()


class Connection:
    """A connection, which runs one statement at a time."""

    def __init__(self, reactor: Reactor, connection: _Connection) -> None:
        self._reactor = reactor
        self._connection = connection
        self._running: Deferred[None] | None = None
        self._prepared: set[str] = set()

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed."""
        return bool(self._connection.closed)

    @property
    def is_busy(self) -> bool:
        """Whether a statement is running, even one that nobody waits for."""
        return self._running is not None

    @property
    def backend_pid(self) -> int:
        """The process id of the server process behind this connection."""
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
        """Start a statement and return its records.

        The rows of SQL that is not a :class:`Statement` are opaque. Cancelling the Deferred does
        not stop the statement.

        :raises UnavailableError: when the server does not answer within ``seconds``, has gone,
            cancelled the statement, or is read-only, and when a prepared statement is outdated.
        :raises LockTimeoutError: when the statement gave up on a lock.
        :raises DuplicateValueError: when a value that must be unique exists already.
        :raises ValueTooLongError: when a value does not fit into its column.
        """
        if isinstance(statement, str):
            return self._execute(statement, parameters, seconds, list)
        if not statement.name or statement.name in self._prepared:
            return self._execute(statement.execute_sql, parameters, seconds, statement.read_records)
        return Deferred.fromCoroutine(self._prepare_and_execute(statement, parameters, seconds))

    async def _prepare_and_execute(
        self, statement: Statement[Record], parameters: Parameters, seconds: float
    ) -> list[Record]:
        try:
            await self._execute(statement.prepare_sql, (), seconds, list)
        except BaseException:  # also when cancelled: the server may have prepared it or not
            self.close()
            raise
        self._prepared.add(statement.name)
        return await self._execute(
            statement.execute_sql, parameters, seconds, statement.read_records
        )

    def _execute(
        self,
        sql: str,
        parameters: Parameters,
        seconds: float,
        read_records: Callable[[Rows], list[Record]],
    ) -> Deferred[list[Record]]:
        try:
            # None rather than (): with any parameters psycopg2 interprets each % in the SQL
            statement = self._connection.cursor().execute(sql, parameters or None)
        except psycopg2.Error:
            return fail(_translate_failure(Failure()))
        self._running = Deferred()
        # closing is the only way to end a statement on which the server is silent
        deadline = self._reactor.callLater(seconds, self.close)
        answer: Deferred[list[Record]] = Deferred()

        def finish(result: Cursor | Failure) -> None:
            if deadline.active():
                deadline.cancel()
            running, self._running = self._running, None
            if isinstance(result, Failure) and result.check(*OUTDATED_STATEMENT_ERRORS):
                self.close()
            if not answer.called:
                _deliver_result(answer, result, read_records)
            if running:
                running.callback(None)

        statement.addBoth(finish)
        return answer

    def call_when_idle(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` as soon as no statement is running."""
        if self._running is None:
            callback()
        else:
            self._running.addCallback(lambda _: callback())

    def close(self) -> None:
        """Close the connection; a running statement fails."""
        self._connection.close()


def _deliver_result(
    answer: Deferred[list[Record]],
    result: Cursor | Failure,
    read_records: Callable[[Rows], list[Record]],
) -> None:
    """Pass a statement's records, or its failure, to the Deferred ``answer``."""
    try:
        if isinstance(result, Failure):
            result.raiseException()
        # a Row is a tuple of psycopg2 under an opaque type
        records = read_records(cast(Rows, result.fetchall() if result.description else []))
    except Exception:  # fetchall fails when the connection was closed since the rows arrived
        answer.errback(_translate_failure(Failure()))
    else:
        answer.callback(records)


def _translate_failure(failure: Failure) -> Failure:
    """Return the error of this project for the failure of a statement."""
    if failure.check(CancelledError):  # txpostgres maps psycopg2's QueryCanceledError to it
        return Failure(UnavailableError("the query took too long or was cancelled at the database"))
    if failure.check(LockNotAvailable, DeadlockDetected):
        message = "another transaction holds a lock that this one needs; try again"
        return Failure(LockTimeoutError(message, _summarize_failure(failure)))
    if failure.check(ReadOnlySqlTransaction):
        return Failure(UnavailableError("the database is read-only", _summarize_failure(failure)))
    if failure.check(*OUTDATED_STATEMENT_ERRORS):
        return Failure(
            UnavailableError("the database has changed; try again", _summarize_failure(failure))
        )
    if failure.check(UniqueViolation):
        return Failure(DuplicateValueError("a value that must be unique exists already"))
    if failure.check(StringDataRightTruncation):
        return Failure(ValueTooLongError("a value is too long for its column in the database"))
    # PostgreSQL's message describes the installation: it is for the log (docs/decisions/0007)
    if failure.check(psycopg2.OperationalError, psycopg2.InterfaceError, ConnectionDone):
        return Failure(
            UnavailableError("the database cannot be reached", _summarize_failure(failure))
        )
    return failure


def _summarize_failure(failure: Failure) -> str:
    """Return the message of a failure in one line."""
    return " ".join(failure.getErrorMessage().split())


async def open_connection(reactor: Reactor, dsn: str, setup: str) -> Connection:
    """Return a new connection on which the statements ``setup`` have run.

    :raises UnavailableError: when the server cannot be reached.
    """
    raw = _Connection(reactor)
    try:
        resolved = await resolve_hosts(reactor, parse_dsn(dsn))
        attempt = raw.connect(make_dsn(None, **{**CONNECTION_PARAMETERS, **resolved}))
        timeout = reactor.callLater(CONNECT_TIMEOUT_SECONDS, raw.close)
        connected: Deferred[None] = Deferred()
        # a caller that is cancelled cancels this Deferred, not txpostgres' (docs/decisions/0005)
        attempt.addBoth(_forward_result, connected)
        try:
            await connected
        finally:
            if timeout.active():
                timeout.cancel()
        connection = Connection(reactor, raw)
        await connection.execute(setup, seconds=CONNECT_TIMEOUT_SECONDS)
        return connection
    except BaseException as reason:
        if raw.pollable() is not None:  # None until connect() has a connection of psycopg2
            raw.close()
        if isinstance(reason, psycopg2.Error | ConnectionDone):
            raise UnavailableError(
                "the database cannot be reached", _summarize_failure(Failure())
            ) from None
        raise


def _forward_result(result: object, target: Deferred[None]) -> None:
    if not target.called:
        if isinstance(result, Failure):
            target.errback(result)
        else:
            target.callback(None)
