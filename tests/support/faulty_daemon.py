"""The daemon with injected faults: it is killed at a point, or its file system fails.

``python -P faulty_daemon.py [--kill-at POINT] [--fail-calls N:ENOSPC,M:EIO] …`` is ``twistd …``
with a ``mig-api`` whose spool and database are those below. It is a program of its own, which
imports nothing of the tests: so it runs the installed package, as the real daemon does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final, ParamSpec, TypeVar

from twisted.application.app import run
from twisted.application.service import IService, IServiceMaker
from twisted.internet.defer import Deferred
from twisted.scripts import twistd
from zope.interface import implementer

from mig.actions.spool import SystemCalls
from mig.database.database import Database, Transaction
from mig.model.statement import Parameters, Statement
from mig.service.application import make_service
from mig.service.options import Options

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

POINTS: Final = (
    "verified",
    "committed",
    "locked",
    "written",
    "linked",
    "handed over",
    "marked",
)
"""The points, in the order in which a submission passes them."""

kill_at = ""


def pass_point(point: str) -> None:
    """Kill this process at the point of ``--kill-at``."""
    if point == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)


class FailingCalls:
    """A counter of calls; the N-th call fails with the error *failures[N]*."""

    def __init__(self, failures: Mapping[int, int]) -> None:
        self._failures = failures
        self._count = 0

    def count_calls(self, call: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        def counting_call(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Result:
            self._count += 1
            code = self._failures.get(self._count)
            if code is not None:
                raise OSError(code, os.strerror(code))
            return call(*arguments, **keywords)

        return counting_call


def make_calls(failures: Mapping[int, int]) -> SystemCalls:
    """Return the spool's calls; unlocking does not count, since a lock goes with its file."""
    failing = FailingCalls(failures)
    lock = failing.count_calls(fcntl.flock)

    def flock(file: int, operation: int) -> None:
        """Lock or unlock; files are complete before their folder is locked, and linked after it."""
        if operation == fcntl.LOCK_EX:
            pass_point("written")
            lock(file, operation)
        else:
            fcntl.flock(file, operation)
            pass_point("linked")

    return SystemCalls(
        open=failing.count_calls(os.open),
        write=failing.count_calls(os.write),
        fchmod=failing.count_calls(os.fchmod),
        posix_fadvise=failing.count_calls(os.posix_fadvise),
        fsync=failing.count_calls(os.fsync),
        link=failing.count_calls(os.link),
        stat=failing.count_calls(os.stat),
        flock=flock,
    )


class FaultyTransaction(Transaction):
    """A transaction that may be the one in which actions are handed over."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def query(self, statement: Any, parameters: Parameters = ()) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._query(statement, parameters))

    async def _query(self, statement: Any, parameters: Parameters) -> Any:
        rows = await self._transaction.query(statement, parameters)
        if rows and isinstance(statement, Statement) and "for update of s" in statement.execute_sql:
            pass_point("locked")
        return rows

    async def commit(self, sql: str = "", parameters: Parameters = ()) -> None:
        hands_over = "set handedover" in sql
        if hands_over:
            pass_point("handed over")
        await self._transaction.commit(sql, parameters)
        if hands_over:
            pass_point("marked")


class FaultyDatabase(Database):
    """A database in which actions are stored and handed over."""

    async def query(self, statement: Any, parameters: Parameters = ()) -> Any:
        stores = isinstance(statement, Statement) and statement.name == "store_action"
        if stores:
            pass_point("verified")
        rows = await super().query(statement, parameters)
        if stores:
            pass_point("committed")
        return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with super().transaction() as transaction:
            yield FaultyTransaction(transaction)


@implementer(IServiceMaker)
class FaultyService:
    """The plugin from which twistd makes the service."""

    tapname = "mig-api"
    description = "The MIG API, with faults."
    options = Options
    failures: ClassVar[dict[int, int]] = {}

    def makeService(self, options: Options) -> IService:
        calls = make_calls(self.failures)
        return make_service(options, system_calls=calls, database_class=FaultyDatabase)


class FaultyOptions(twistd.ServerOptions):  # type: ignore[name-defined,misc]  # not in its __all__
    """twistd's options, which know this service and no plugin."""

    @property
    def subCommands(self) -> Iterator[Any]:
        service = FaultyService()
        self.loadedPlugins = {service.tapname: service}
        yield service.tapname, None, service.options, service.description


def main() -> None:
    """Remove the options of this program, and go on as twistd."""
    global kill_at
    parser = ArgumentParser(allow_abbrev=False)
    parser.add_argument("--kill-at", default="")
    parser.add_argument("--fail-calls", default="")
    own, twistd_arguments = parser.parse_known_args()
    kill_at = own.kill_at
    for failure in filter(None, own.fail_calls.split(",")):
        call, name = failure.split(":")
        FaultyService.failures[int(call)] = getattr(errno, name)
    sys.argv[1:] = twistd_arguments
    run(twistd.runApp, FaultyOptions)


if __name__ == "__main__":
    main()
