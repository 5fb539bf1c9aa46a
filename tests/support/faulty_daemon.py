"""The daemon with injected faults: it is killed or held up, or its file system fails.

``python -P faulty_daemon.py OPTION… …`` is ``twistd …`` with a ``mig-api`` whose spool and database
are those below. It is a program of its own, which imports nothing of the tests: so it runs the
installed package, as the real daemon does. Its options:

``--kill-at POINT[:N]``
    kill this process when it passes a point for the N-th time, by default the first.
``--hold-at POINT:FIFO``
    when it passes a point for the first time, wait until another process has opened and closed the
    named pipe.
``--fail-calls N:ENOSPC,M:EIO,…``
    let the N-th call of the file system fail, and the M-th, …
``--full-while FILE``
    let the file system be full as long as FILE exists.
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
from pathlib import Path
from typing import Any, ClassVar, Final, ParamSpec, TypeVar

from twisted.application.app import run
from twisted.application.service import IService, IServiceMaker
from twisted.internet.defer import Deferred
from twisted.scripts import twistd
from zope.interface import implementer

from mig.actions.spool import SystemCalls
from mig.database.database import Database, Transaction
from mig.investigators.changes import LOCK
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
    "checked",
    "confirmed",
    "linked",
    "handed over",
    "marked",
)
"""The points, in the order in which a submission passes them."""

CHANGING: Final = "changing"
"""A change of an investigator or an API key passes it before each of its statements, and before and
after its commit."""


class Faults:
    """What the options of this program ask for."""

    kill_at = ""
    passes_before_kill = 0
    hold_at = ""
    fifo = Path()
    full_while: Path | None = None


def pass_point(point: str) -> None:
    """Kill this process, or hold up this thread, at the points of the options."""
    if point == Faults.kill_at:
        Faults.passes_before_kill -= 1
        if Faults.passes_before_kill <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
    if point == Faults.hold_at:
        Faults.hold_at = ""
        Faults.fifo.read_bytes()


def write(file: int, data: memoryview) -> int:
    """Write, unless the file system is full."""
    if Faults.full_while and Faults.full_while.exists():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return os.write(file, data)


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
        if operation & fcntl.LOCK_EX:
            pass_point("written")
            lock(file, operation)
        else:
            fcntl.flock(file, operation)
            pass_point("linked")

    return SystemCalls(
        open=failing.count_calls(os.open),
        write=failing.count_calls(write),
        fchmod=failing.count_calls(os.fchmod),
        posix_fadvise=failing.count_calls(os.posix_fadvise),
        fsync=failing.count_calls(os.fsync),
        link=failing.count_calls(os.link),
        stat=failing.count_calls(os.stat),
        flock=flock,
    )


class FaultyTransaction(Transaction):
    """A transaction in which actions may be handed over, or an investigator may be changed."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._is_change = False

    def query(self, statement: Any, parameters: Parameters = ()) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._query(statement, parameters))

    async def _query(self, statement: Any, parameters: Parameters) -> Any:
        sql = statement.execute_sql if isinstance(statement, Statement) else statement
        self._is_change = self._is_change or sql == LOCK
        self.pass_change()
        confirms = "status = %s" in sql
        if confirms:
            pass_point("checked")
        rows = await self._transaction.query(statement, parameters)
        if rows and "for update" in sql:
            pass_point("locked")
        if confirms:
            pass_point("confirmed")
        return rows

    async def commit(self, sql: str = "", parameters: Parameters = ()) -> None:
        hands_over = "set handedover" in sql
        if hands_over:
            pass_point("handed over")
        await self._transaction.commit(sql, parameters)
        if hands_over:
            pass_point("marked")

    def pass_change(self) -> None:
        """Pass a point if an investigator or an API key is being changed."""
        if self._is_change:
            pass_point(CHANGING)


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
            faulty = FaultyTransaction(transaction)
            yield faulty
            faulty.pass_change()
        faulty.pass_change()


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
    parser = ArgumentParser(allow_abbrev=False)
    parser.add_argument("--kill-at", default="")
    parser.add_argument("--hold-at", default="")
    parser.add_argument("--fail-calls", default="")
    parser.add_argument("--full-while", type=Path)
    own, twistd_arguments = parser.parse_known_args()
    Faults.kill_at, _, passes = own.kill_at.partition(":")
    Faults.passes_before_kill = int(passes or 1)
    Faults.hold_at, _, fifo = own.hold_at.partition(":")
    Faults.fifo = Path(fifo)
    Faults.full_while = own.full_while
    for failure in filter(None, own.fail_calls.split(",")):
        call, name = failure.split(":")
        FaultyService.failures[int(call)] = getattr(errno, name)
    sys.argv[1:] = twistd_arguments
    run(twistd.runApp, FaultyOptions)


if __name__ == "__main__":
    main()
