"""Connections to PostgreSQL; the only module that knows txpostgres.

txpostgres cancels a statement by psycopg2's ``cancel()``, which blocks the process when the server
does not answer. Here nobody but the connection itself waits for a statement's own Deferred: who
asked gets another one, which can be cancelled and has a deadline.
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
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
OUTDATED_STATEMENT_ERRORS = (FeatureNotSupported, InvalidSqlStatementName)
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

    def __init__(self, reactor: Reactor, connection: _Connection) -> None:
        self._reactor = reactor
        self._connection = connection
        self._idle: Deferred[None] | None = None
        self._prepared: set[str] = set()

    @property
    def is_closed(self) -> bool:
        return bool(self._connection.closed)

    @property
    def is_busy(self) -> bool:
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

        :raises UnavailableError: when the server does not answer within *seconds*, is gone, or
            cancelled the statement.
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
        except BaseException:  # whether it is prepared now is not known
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
        read: Callable[[Rows], list[Record]],
    ) -> Deferred[list[Record]]:
        try:
            statement = self._connection.cursor().execute(sql, parameters or None)
        except psycopg2.Error:
            return fail(_translate_failure(Failure()))
        self._idle = Deferred()
        deadline = self._reactor.callLater(seconds, self.close)
        answer: Deferred[list[Record]] = Deferred()

        def finish(result: Cursor | Failure) -> None:
            if deadline.active():
                deadline.cancel()
            idle, self._idle = self._idle, None
            if isinstance(result, Failure) and result.check(*OUTDATED_STATEMENT_ERRORS):
                self.close()
            if not answer.called:
                _deliver_result(answer, result, read)
            if idle:
                idle.callback(None)

        statement.addBoth(finish)
        return answer

    def call_when_idle(self, callback: Callable[[], None]) -> None:
        """Call *callback* as soon as no statement is running."""
        if self._idle is None:
            callback()
        else:
            self._idle.addCallback(lambda _: callback())

    def close(self) -> None:
        self._connection.close()


def _deliver_result(
    answer: Deferred[list[Record]],
    result: Cursor | Failure,
    read: Callable[[Rows], list[Record]],
) -> None:
    """Hand over a statement's records, or what happened to it."""
    try:
        if isinstance(result, Failure):
            result.raiseException()
        # psycopg2's tuples are what a Row stands for
        records = read(cast(Rows, result.fetchall() if result.description else []))
    except Exception:  # the connection may have been closed since the rows came
        answer.errback(_translate_failure(Failure()))
    else:
        answer.callback(records)


def _translate_failure(failure: Failure) -> Failure:
    """What happened to a statement, in the words of this project."""
    if failure.check(CancelledError):
        return Failure(UnavailableError("the query took too long, or was stopped at the database"))
    if failure.check(LockNotAvailable, DeadlockDetected):
        message = "another change is going on at the database; try again"
        return Failure(LockTimeoutError(message, _summarize_failure(failure)))
    if failure.check(ReadOnlySqlTransaction):
        return Failure(
            UnavailableError("the database takes no changes", _summarize_failure(failure))
        )
    if failure.check(*OUTDATED_STATEMENT_ERRORS):
        return Failure(
            UnavailableError("the database has changed; try again", _summarize_failure(failure))
        )
    if failure.check(UniqueViolation):
        return Failure(DuplicateValueError("a value that must be unique is there already"))
    if failure.check(StringDataRightTruncation):
        return Failure(ValueTooLongError("a value is too long for its column in the database"))
    if failure.check(psycopg2.OperationalError, psycopg2.InterfaceError, ConnectionDone):
        return Failure(
            UnavailableError("the database cannot be reached", _summarize_failure(failure))
        )
    return failure


def _summarize_failure(failure: Failure) -> str:
    return " ".join(failure.getErrorMessage().split())


async def open_connection(reactor: Reactor, dsn: str, setup: str) -> Connection:
    """Return a new connection, after the statements *setup*.

    :raises UnavailableError: when the server cannot be reached.
    """
    raw = _Connection(reactor)
    try:
        resolved = await resolve_hosts(reactor, parse_dsn(dsn))
        attempt = raw.connect(make_dsn(None, **{**CONNECTION_PARAMETERS, **resolved}))
        late = reactor.callLater(CONNECT_TIMEOUT_SECONDS, raw.close)
        connected: Deferred[None] = Deferred()
        attempt.addBoth(_forward_result, connected)
        try:
            await connected
        finally:
            if late.active():
                late.cancel()
        connection = Connection(reactor, raw)
        await connection.execute(setup, seconds=CONNECT_TIMEOUT_SECONDS)
        return connection
    except BaseException as reason:
        if raw.pollable() is not None:
            raw.close()
        if isinstance(reason, psycopg2.Error | ConnectionDone):
            raise UnavailableError(
                "the database cannot be reached", _summarize_failure(Failure())
            ) from None
        raise


def _forward_result(result: object, to: Deferred[None]) -> None:
    if not to.called:
        if isinstance(result, Failure):
            to.errback(result)
        else:
            to.callback(None)
