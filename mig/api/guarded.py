"""Handlers whose first query checks their caller, in the same message (docs/decisions/0060).

The gate lets a known caller through without a query of its own. Such a caller has a guard, and the
handler gets a query function that runs it. Nothing of an answer counts until the guard has passed:
if it has not, for whatever reason, the caller is looked up again and the handler starts again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from mig.access.caller import Caller
from mig.errors import GuardFailedError, RequestError, UnavailableError
from mig.model.statement import Guard, Parameters, QueryFunction, Statement
from mig.web.gate import admit_caller
from mig.web.request import Request

Record = TypeVar("Record")

GuardedHandler = Callable[[Request, Caller, QueryFunction], Awaitable[bytes | None]]


class GuardedDatabase(Protocol):
    """The queries of guarded handlers: those of :class:`mig.database.database.Database`."""

    def query(
        self, statement: Statement[Record], parameters: Parameters = ..., /
    ) -> Awaitable[list[Record]]:
        """Return the records of a statement."""

    def query_guarded(
        self, guard: Guard, statement: Statement[Record], parameters: Mapping[str, object], /
    ) -> Awaitable[list[Record]]:
        """Return the records of a prepared statement, if the guard's condition holds.

        :raises GuardFailedError: when it does not.
        """


class CallerChecker(Protocol):
    """What is done about callers with a guard: :class:`mig.access.authenticator.Authenticator`."""

    async def authenticate_again(self, request: Request) -> Caller:
        """Return who sent a request, by their rows as they are now.

        :raises RequestError: when the credentials are not valid.
        """

    def record_use(self, caller: Caller) -> None:
        """Take note that the credentials of a caller were valid for a request."""


class _GuardedQuery:
    """A query function whose first query runs a guard."""

    def __init__(self, database: GuardedDatabase, guard: Guard) -> None:
        self._database = database
        self._guard = guard
        self.has_passed = False

    async def __call__(
        self, statement: Statement[Record], parameters: Parameters = (), /
    ) -> list[Record]:
        if self.has_passed:
            return await self._database.query(statement, parameters)
        assert isinstance(parameters, Mapping)  # as those of every prepared statement
        records = await self._database.query_guarded(self._guard, statement, parameters)
        self.has_passed = True
        return records


def make_guarded_endpoint(
    handler: GuardedHandler, database: GuardedDatabase, callers: CallerChecker | None
) -> Callable[[Request], Awaitable[bytes | None]]:
    """Return a function that answers a request by ``handler``, for a caller who is checked."""

    async def endpoint(request: Request) -> bytes | None:
        caller = request.caller
        assert isinstance(caller, Caller)  # authentication returns no other here
        if caller.guard is None:
            return await handler(request, caller, database.query)
        assert callers is not None  # who returns callers with a guard
        query = _GuardedQuery(database, caller.guard)
        try:
            answer = await handler(request, caller, query)
        except GuardFailedError:
            pass
        except RequestError as reason:
            if query.has_passed or isinstance(reason, UnavailableError):
                raise
        else:
            if query.has_passed:
                callers.record_use(caller)
                return answer
        request.caller = None
        caller = await callers.authenticate_again(request)
        admit_caller(request, caller)
        return await handler(request, caller, database.query)

    return endpoint
