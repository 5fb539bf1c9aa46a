"""The connection that is always free: it cancels statements, and answers whether all is well."""

from __future__ import annotations

from typing import Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from mig.database.pool import Pool
from mig.errors import UnavailableError, describe_error
from mig.model.statement import Statement

Record = TypeVar("Record")

TIMEOUT_SECONDS: Final = 2.0


class ControlConnection:
    """Runs short statements on a connection that no request uses.

    :param pool: a pool of one connection.
    """

    log = Logger()

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def query(self, statement: Statement[Record]) -> list[Record]:
        """Return all records of a statement that takes little time.

        :raises UnavailableError: when the database cannot be reached, or not in time.
        """
        connection = await self._pool.acquire()
        try:
            return await connection.execute(statement, seconds=TIMEOUT_SECONDS)
        finally:
            self._pool.release(connection)

    def start_cancelling(self, backend_pid: int) -> None:
        """Cancel what a server process runs, without waiting for it."""
        cancelling = Deferred.fromCoroutine(self.cancel_statement(backend_pid))
        cancelling.addErrback(lambda failure: self.log.failure("could not cancel a query", failure))

    async def cancel_statement(self, backend_pid: int) -> None:
        """Cancel what a server process runs; when that is not possible, write to the log."""
        try:
            connection = await self._pool.acquire()
            try:
                await connection.execute(
                    "select pg_cancel_backend(%s)", (backend_pid,), seconds=TIMEOUT_SECONDS
                )
            finally:
                self._pool.release(connection)
        except UnavailableError as reason:
            self.log.warn(
                "could not cancel a query at the database: {reason}", reason=describe_error(reason)
            )
