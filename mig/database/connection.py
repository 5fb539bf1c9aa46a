"""Connections to PostgreSQL, and the statements on them.

Cancelling a Deferred of txpostgres calls psycopg2's ``cancel()``, which blocks the process while
the server does not answer. So only the connection itself waits for that Deferred. A caller gets
another one, which can be cancelled and has a deadline (docs/decisions/0005).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast, overload

import psycopg2
from psycopg2.extensions import parse_dsn
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from txpostgres.txpostgres import Cursor

from mig.database.driver import UNREACHABLE, DriverConnection, connect, make_silence_error
from mig.database.failures import (
    STALE_CONNECTION_ERRORS,
    join_lines,
    translate_failure,
    translate_guarded_failure,
    translate_restricted_failure,
)
from mig.database.resolver import list_servers
from mig.errors import UnavailableError
from mig.limits import Limits
from mig.model.row import Row, make_row_reader
from mig.model.statement import Guard, Parameters, Statement
from mig.reactor import Reactor
from mig.tracing import get_application_name

Record = TypeVar("Record")
Rows = list[Row]
FailureTranslator = Callable[[Failure, str], Failure]

LARGE_BYTES = 1_048_576
"""A statement or a row after which a connection is not used again."""

MIN_CONNECT_SECONDS = 1.0
"""The least time for each server of a connection string; they share ``connect_seconds``."""


class _BackendRow(NamedTuple):
    pid: int


def name_sql() -> str:
    """Return SQL that gives the running request's name to its transaction; empty without a trace.

    Statements that are sent together are one transaction, at whose end the name is what it was
    before: no connection of a pool keeps it (docs/decisions/0104).
    """
    name = get_application_name()
    return f"set local application_name = '{name}'; " if name else ""


def _is_large(statement: bytes | None, rows: Sequence[tuple[object, ...]]) -> bool:
    """Return whether a statement, or the first row of its answer, is large."""
    first = rows[0] if rows else ()
    row_length = sum(len(value) for value in first if isinstance(value, str))
    return max(len(statement or b""), row_length) > LARGE_BYTES


class Connection:
    """A connection, which runs one statement at a time.

    ``backend_pid`` is the process id of the server process behind it.
    """

    def __init__(self, reactor: Reactor, connection: DriverConnection) -> None:
        self.backend_pid = 0
        self._reactor = reactor
        self._connection = connection
        self._running: Deferred[None] | None = None
        self._silent_seconds = 0.0
        self._warning = ""
        self._prepared: set[str] = set()
        self.has_grown = False

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed."""
        return bool(self._connection.closed)

    @property
    def is_busy(self) -> bool:
        """Whether a statement is running, even one that nobody waits for."""
        return self._running is not None

    @property
    def is_silent(self) -> bool:
        """Whether the connection was closed because the server did not answer in time."""
        return self._silent_seconds > 0

    @overload
    def execute(
        self,
        statement: Statement[Record],
        parameters: Parameters = (),
        *,
        seconds: float,
        prefix: str = "",
    ) -> Deferred[list[Record]]: ...
    @overload
    def execute(
        self, statement: str, parameters: Parameters = (), *, seconds: float, prefix: str = ""
    ) -> Deferred[Rows]: ...
    def execute(
        self,
        statement: Statement[Any] | str,
        parameters: Parameters = (),
        *,
        seconds: float,
        prefix: str = "",
    ) -> Deferred[Any]:
        """Start a statement and return its records.

        The rows of SQL that is not a :class:`Statement` are opaque. Cancelling the Deferred does
        not stop the statement.

        :param prefix: SQL that is sent with the statement and runs before it.

        :raises UnavailableError: when the server does not answer within ``seconds``, has gone,
            ended the statement, or is read-only, and when a prepared statement is outdated.
        :raises QueryCancelledError: when the server cancelled the statement.
        :raises LockTimeoutError: when the statement gave up on a lock.
        :raises DuplicateValueError: when a value that must be unique exists already.
        :raises ValueTooLongError: when a value does not fit into its column.
        """
        if isinstance(statement, str):
            return self._execute(prefix + statement, parameters, seconds, list)
        sql = prefix + statement.execute_sql
        if not statement.name or statement.name in self._prepared:
            return self._execute(sql, parameters, seconds, statement.read_records)
        return Deferred.fromCoroutine(
            self._prepare_and_execute(statement, sql, parameters, seconds)
        )

    def execute_guarded(
        self,
        guard: Guard,
        statement: Statement[Record],
        parameters: Mapping[str, object],
        *,
        seconds: float,
        prefix: str = "",
    ) -> Deferred[list[Record]]:
        """Start a prepared statement with the condition of ``guard``, and return its records.

        :raises GuardFailedError: when the condition does not hold.
        :raises UnavailableError: as by :meth:`execute`, like the other errors.
        """
        guarded = guard.add_to(statement)

        def execute() -> Deferred[list[Record]]:
            sql = prefix + guard.format_execute(statement, guarded)
            return self._execute(
                sql, parameters, seconds, statement.read_records, translate_guarded_failure
            )

        if guarded.name in self._prepared:
            return execute()
        prepared = Deferred.fromCoroutine(self._prepare(guarded, seconds))
        return prepared.addCallback(lambda _: execute())

    def execute_restricted(
        self, statement: Statement[Record], *, seconds: float
    ) -> Deferred[list[Record]]:
        """Start a statement with SQL of a client, and return its records.

        :raises StatementError: when PostgreSQL refuses it.
        :raises QueryCancelledError: when the server cancelled it.
        :raises UnavailableError: when the server does not answer in time or has gone.
        """
        return self._execute(
            statement.execute_sql,
            (),
            seconds,
            statement.read_records,
            translate_restricted_failure,
        )

    async def _prepare_and_execute(
        self, statement: Statement[Record], sql: str, parameters: Parameters, seconds: float
    ) -> list[Record]:
        await self._prepare(statement, seconds)
        return await self._execute(sql, parameters, seconds, statement.read_records)

    async def _prepare(self, statement: Statement[Any], seconds: float) -> None:
        try:
            await self._execute(statement.prepare_sql, (), seconds, list)
        except BaseException:  # also when cancelled: the server may have prepared it or not
            self.close()
            raise
        self._prepared.add(statement.name)

    def _execute(
        self,
        sql: str,
        parameters: Parameters,
        seconds: float,
        read_records: Callable[[Rows], list[Record]],
        translate: FailureTranslator = translate_failure,
    ) -> Deferred[list[Record]]:
        try:
            # None rather than (): with any parameters psycopg2 interprets each % in the SQL
            statement = self._connection.cursor().execute(sql, parameters or None)
        except psycopg2.Error:
            return fail(self._explain_failure(Failure(), translate))
        self._running = Deferred()
        deadline = self._reactor.callLater(seconds, self._end_silence, seconds)
        answer: Deferred[list[Record]] = Deferred()

        def finish(result: Cursor | Failure) -> None:
            if deadline.active():
                deadline.cancel()
            running, self._running = self._running, None
            if isinstance(result, Failure) and result.check(*STALE_CONNECTION_ERRORS):
                self.close()
            if not isinstance(result, Failure):
                self._warning = self._connection.take_notices()
            if not answer.called:
                self._deliver_result(answer, result, read_records, translate)
            if running:
                running.callback(None)

        statement.addBoth(finish)
        return answer

    def check_commit(self) -> None:
        """Check that the server has committed the last statement without a warning.

        When the wait for a synchronous standby is cancelled, the server warns and has committed
        only on its own disk. The text is in the server's language, so any warning counts.

        :raises UnavailableError: when there is a warning, which is its detail.
        """
        if self._warning:
            raise UnavailableError(
                "the database did not confirm that this is stored; send it again",
                join_lines(self._warning),
            )

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
        self,
        answer: Deferred[list[Record]],
        result: Cursor | Failure,
        read_records: Callable[[Rows], list[Record]],
        translate: FailureTranslator,
    ) -> None:
        """Pass a statement's records, or its failure, to the Deferred ``answer``."""
        try:
            if isinstance(result, Failure):
                result.raiseException()
            # a Row is a tuple of psycopg2 under an opaque type
            rows = result.fetchall() if result.description else []
            self.has_grown = self.has_grown or _is_large(result.query, rows)
            records = read_records(cast(Rows, rows))
        except Exception:  # fetchall fails when the connection was closed since the rows arrived
            answer.errback(self._explain_failure(Failure(), translate))
        else:
            answer.callback(records)

    def _end_silence(self, seconds: float) -> None:
        # closing is the only way to end a statement on which the server is silent
        self._silent_seconds = seconds
        self.close()

    def _explain_failure(self, failure: Failure, translate: FailureTranslator) -> Failure:
        """Return the error of this project for the failure of a statement."""
        if self._silent_seconds:
            return Failure(make_silence_error(self._silent_seconds))
        if self._connection.end_reason:  # the statement found the connection closed
            return Failure(UnavailableError(UNREACHABLE, self._connection.end_reason))
        return translate(failure, self._connection.take_notices())


async def open_connection(
    reactor: Reactor, dsn: str, setup: str, limits: Limits | None = None
) -> Connection:
    """Return a new connection, to the first server that accepts it, on which ``setup`` has run.

    :param limits: ``connect_seconds``.
    :raises UnavailableError: when none of the servers that ``dsn`` names accepts it.
    """
    servers = await list_servers(reactor, parse_dsn(dsn))
    all_seconds = (limits or Limits()).connect_seconds
    seconds = max(all_seconds / len(servers), MIN_CONNECT_SECONDS)
    reasons = []
    for server in servers:
        try:
            return await _open_connection(reactor, server, setup, seconds, all_seconds)
        except UnavailableError as reason:
            if len(servers) == 1:
                raise
            name = ":".join(server[part] for part in ("host", "port") if part in server)
            reasons.append(f"{name}: {reason.detail}")
    raise UnavailableError(UNREACHABLE, "; ".join(reasons))


async def _open_connection(
    reactor: Reactor, server: dict[str, str], setup: str, seconds: float, setup_seconds: float
) -> Connection:
    raw = DriverConnection(reactor)
    try:
        await connect(reactor, raw, server, seconds)
        connection = Connection(reactor, raw)
        # the pid by SQL: behind a pooler, the connection itself knows only the pooler's number
        select = Statement(f"{setup}; select pg_backend_pid()", make_row_reader(_BackendRow))
        (backend,) = await connection.execute(select, seconds=setup_seconds)
        connection.backend_pid = backend.pid
        return connection
    except BaseException:
        if raw.pollable() is not None:  # None until connect() has a connection of psycopg2
            raw.close()
        raise
