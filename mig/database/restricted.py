"""Statements in which clients have written SQL: one at a time, by a role that may only read.

The connection is not used again: a statement might leave something behind in its session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from psycopg2.errors import InsufficientPrivilege, InvalidParameterValue
from twisted.internet.defer import TimeoutError as DeferredTimeoutError

from mig.database.connection import Connection, name_sql, open_connection
from mig.database.schema.declaration import READER_ROLE
from mig.errors import QueryCancelledError, StatementError, UnavailableError
from mig.fair_queue import FairSemaphore
from mig.limits import Limits
from mig.model.statement import Statement
from mig.reactor import Reactor

Record = TypeVar("Record")

BEGIN_TIMEOUT_SECONDS: Final = 5.0
ANSWER_GRACE_SECONDS: Final = 1.0
"""How long the server may take to say that the time of a statement is over."""

# Without parallel workers a statement takes one core. When the role may not read what every such
# statement reads, this select is refused, so that it does not look like a mistake of the client.
BEGIN: Final = f"""
begin read only; {{name}}
set local standard_conforming_strings = on;
set local max_parallel_workers_per_gather = 0;
set local statement_timeout = {{milliseconds}};
set local role {READER_ROLE};
select id, queueloc, status, heartbeattime from agents limit 0
"""  # noqa: S608 - a constant


DECLARE: Final = "declare rows no scroll cursor for "


class RestrictedQueries:
    """Statements with SQL of clients, in a read-only transaction of the role ``READER_ROLE``.

    Those who wait take turns by client. A statement that PostgreSQL does not stop in time keeps the
    others waiting until it ends: there is never more than one.

    :param cancel: cancels what the server process with a pid is running.
    """

    def __init__(
        self, reactor: Reactor, dsn: str, setup: str, limits: Limits, cancel: Callable[[int], None]
    ) -> None:
        self._reactor = reactor
        self._dsn = dsn
        self._setup = setup
        self._limits = limits
        self._cancel = cancel
        self._turns = FairSemaphore(
            1, max_waiting=limits.waiting_queries, make_overload_error=_make_overload_error
        )

    async def query(self, statement: Statement[Record], client: str) -> list[Record]:
        """Return all records of a statement, a select without parameters.

        They are read one by one, since each may be large.

        :raises StatementError: when PostgreSQL refuses the statement.
        :raises QueryCancelledError: when it takes longer than ``restricted_seconds``.
        :raises UnavailableError: when other statements take too long, the database cannot be
            reached, or the role or its privileges are missing.
        """
        turn = self._turns.acquire((client,))
        turn.addTimeout(self._limits.restricted_wait_seconds, self._reactor)
        try:
            await turn
        except DeferredTimeoutError:
            raise _make_overload_error() from None
        try:
            connection = await open_connection(self._reactor, self._dsn, self._setup, self._limits)
        except BaseException:
            self._turns.release()
            raise
        try:
            await self._begin(connection)
            return await self._read_records(connection, statement)
        finally:
            self._end(connection)

    async def _begin(self, connection: Connection) -> None:
        milliseconds = round(self._limits.restricted_seconds * 1000)
        begin = BEGIN.format(name=name_sql(), milliseconds=milliseconds)
        try:
            await connection.execute(begin, seconds=BEGIN_TIMEOUT_SECONDS)
        except (InsufficientPrivilege, InvalidParameterValue) as reason:
            raise UnavailableError(
                f"this needs the role {READER_ROLE} in the database; `mig-api migrate` prints what"
                " a superuser must run",
                " ".join(str(reason).split()),
            ) from None

    async def _read_records(
        self, connection: Connection, statement: Statement[Record]
    ) -> list[Record]:
        deadline = self._reactor.seconds() + self._limits.restricted_seconds + ANSWER_GRACE_SECONDS
        declare = Statement(f"{DECLARE}{statement.execute_sql}", statement.read_row)
        try:
            await self._execute(connection, declare, deadline)
        except StatementError as reason:
            position = None if reason.position is None else reason.position - len(DECLARE)
            raise StatementError(str(reason), position) from None
        fetch = Statement("fetch forward 1 from rows", statement.read_row)
        records: list[Record] = []
        while found := await self._execute(connection, fetch, deadline):
            records += found
        return records

    async def _execute(
        self, connection: Connection, statement: Statement[Record], deadline: float
    ) -> list[Record]:
        answer = connection.execute_restricted(
            statement, seconds=self._limits.restricted_end_seconds
        )
        answer.addTimeout(max(deadline - self._reactor.seconds(), 0), self._reactor)
        try:
            return await answer
        except DeferredTimeoutError:
            raise QueryCancelledError("the statement did not end in time") from None

    def _end(self, connection: Connection) -> None:
        if connection.is_busy:
            self._cancel(connection.backend_pid)

        def release() -> None:
            connection.close()
            self._turns.release()

        connection.call_when_idle(release)


def _make_overload_error() -> UnavailableError:
    return UnavailableError("other conditions on agents are being evaluated; try again")
