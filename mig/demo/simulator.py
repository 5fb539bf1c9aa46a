"""The process that plays scheduler and agents, beside the daemon of ``mig-api demo``.

The daemon serves exactly as without it (docs/decisions/0095). It ends with the daemon, which holds
the other end of the pipe on its standard input and never writes to it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psycopg2
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver
from twisted.python.failure import Failure
from zope.interface import implementer

from mig.database.database import Database
from mig.database.schema.declaration import API_ROLE
from mig.demo import fleet
from mig.demo.postgres import EmbeddedPostgres
from mig.demo.scheduler import Scheduler
from mig.errors import UnavailableError, describe_error
from mig.reactor import Reactor, WallClock, get_reactor

POLL_SECONDS: Final = 0.5
RENEWAL_SECONDS: Final = 30.0
WARNING_FAILURES: Final = 20
"""The polls in a row that find no database before the log says so: it may be starting."""


def start_simulator(folder: Path) -> None:
    """Start the simulator of the demo in ``folder``; it ends when this process does.

    It may start before the database runs. The pipe stays open when this process becomes another
    program.
    """
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    subprocess.Popen([sys.executable, "-P", "-m", "mig.demo.simulator", folder], stdin=reading)
    os.close(reading)


class Simulator:
    """The scheduler and the agents of a demo, who also keep the fleet's dates near the present.

    :param owner_dsn: the database as its owner.
    :param reader_dsn: the database as the daemon has it.
    :param spool: the folder of the spool.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Reactor,
        owner_dsn: str,
        reader_dsn: str,
        spool: Path,
        wall_clock: WallClock,
    ) -> None:
        self._reactor = reactor
        self._owner_dsn = owner_dsn
        self._wall_clock = wall_clock
        owner, reader = Database(reactor, owner_dsn), Database(reactor, reader_dsn)
        self._databases = (owner, reader)
        self._scheduler = Scheduler(owner, reader, spool, wall_clock)
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._run()))
        self._loop.clock = reactor
        self._next_renewal = reactor.seconds()
        self._failures = 0

    def start(self) -> None:
        """Start as soon as the database runs."""
        self._loop.start(POLL_SECONDS).addErrback(
            lambda failure: self.log.failure("the demo's scheduler has ended", failure)
        )

    def stop(self) -> None:
        """Do no more, and close the connections that are not in use."""
        if self._loop.running:
            self._loop.stop()
        for database in self._databases:
            database.stop()

    async def _run(self) -> None:
        try:
            await self._scheduler.run_once()
            await self._renew_fleet()
        except (UnavailableError, psycopg2.OperationalError, psycopg2.InterfaceError) as reason:
            self._failures += 1
            if self._failures == WARNING_FAILURES:
                what = describe_error(reason) if isinstance(reason, UnavailableError) else reason
                self.log.warn("scheduler and agents wait for the database: {what}", what=what)
        except Exception:
            self.log.failure("the demo's scheduler has failed, and tries again")
        else:
            self._failures = 0

    async def _renew_fleet(self) -> None:
        if self._reactor.seconds() < self._next_renewal:
            return
        now = datetime.fromtimestamp(self._wall_clock(), UTC)
        await deferToThread(fleet.renew_fleet, self._owner_dsn, now)
        self._next_renewal = self._reactor.seconds() + RENEWAL_SECONDS


@implementer(IReadDescriptor)
class _EndOfFileReader:
    """Calls a function at the end of the file that a descriptor reads."""

    def __init__(self, descriptor: int, call: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._call = call

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "pipe"

    # Twisted's own descriptors return these exceptions; its interface is annotated otherwise
    def doRead(self) -> Exception | None:  # type: ignore[override]
        """Return why there is nothing more to read; the reactor then calls connectionLost."""
        return None if os.read(self._descriptor, 1_024) else CONNECTION_DONE

    def connectionLost(self, reason: Failure) -> None:
        """Call the function: the reactor says so at once when the other end is gone."""
        self._call()


def _main() -> None:
    folder = Path(sys.argv[1])
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)], redirectStandardIO=False)
    reactor = get_reactor()
    postgres = EmbeddedPostgres(reactor, folder)
    simulator = Simulator(
        reactor, postgres.format_dsn(), postgres.format_dsn(API_ROLE), folder / "spool", time.time
    )
    end_of_daemon = _EndOfFileReader(sys.stdin.fileno(), reactor.stop)
    reactor.addReader(end_of_daemon)
    reactor.callWhenRunning(simulator.start)
    reactor.addSystemEventTrigger("before", "shutdown", simulator.stop)
    reactor.run()


if __name__ == "__main__":
    _main()
