"""Accepted actions that the scheduler takes from its spool.

The outbox sees to it that each gets into the spool exactly once, whatever happens.

A row of ``submissions`` without ``handedover`` is an action that the scheduler may not have yet. It
is locked while it is handed over, so several daemons share the work. One that was killed in between
leaves the row waiting: then the scheduler's folders, and the action's status, tell whether the file
had been there already.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import Annotated, Final, NamedTuple, TypeVar

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from mig.actions.spool import Spool
from mig.actions.submission import NEW_STATUS
from mig.database.database import Database
from mig.errors import UnavailableError, describe_error
from mig.limits import Limits
from mig.model.row import Columns
from mig.model.statement import Parameters, Statement, id_array
from mig.reactor import Reactor

T = TypeVar("T")

POLL_SECONDS: Final = 2.0
"""How often what other daemons left, or what failed, is looked for."""


class _WaitingRow(NamedTuple):
    actionid: Annotated[str, "s.actionid::text"]
    document: Annotated[str | None, "s.document"]
    status: Annotated[str | None, "a.status"]


_COLUMNS = Columns(_WaitingRow)
_WAITING = (
    f"select {_COLUMNS.sql} from submissions s"
    " left join actions a on a.id = s.actionid where s.handedover is null"
)
_ANY = Statement(f"{_WAITING} order by s.submitted limit %s for update of s skip locked", _COLUMNS)
_THESE = Statement(
    f"{_WAITING} and s.actionid = any(%s::numeric[]) order by s.actionid for update of s", _COLUMNS
)
_HANDED_OVER = (
    "update submissions set handedover = now(), document = null where actionid = any(%s::numeric[])"
)


class Outbox:
    """Hands over what waits, when asked and every :data:`POLL_SECONDS`.

    What failed stays in the outbox and is tried again, at once when somebody wants to submit more;
    meanwhile no more is taken.
    """

    log = Logger()
    status: Final = NEW_STATUS
    spooled: Final = True

    def __init__(
        self,
        reactor: Reactor,
        database: Database,
        spool: Spool,
        *,
        limits: Limits | None = None,
    ) -> None:
        self._reactor = reactor
        self._database = database
        self._spool = spool
        self._limits = limits or Limits()
        self._poll = LoopingCall(self._look)
        self._poll.clock = reactor
        self._waiting: dict[str, Deferred[None]] = {}
        self._overdue = self._looked = False
        self._busy = False
        self._threads = 0
        self._rest: Deferred[None] | None = None
        self._stuck = ""

    def start(self) -> None:
        self._poll.start(POLL_SECONDS)

    async def stop(self) -> None:
        if self._poll.running:
            self._poll.stop()
        self._overdue = False
        if self._busy:
            self._rest = Deferred()
            await self._rest.addTimeout(self._limits.handoff_seconds, self._reactor, _give_up)

    def check(self) -> None:
        if self._stuck:
            self._look()
            raise UnavailableError("actions do not reach the scheduler at present", self._stuck)

    async def flush(self, action_id: int) -> None:
        waiter: Deferred[None] = Deferred()
        self._waiting[str(action_id)] = waiter
        self._next()
        await waiter.addTimeout(self._limits.handoff_seconds, self._reactor, _give_up)

    def _look(self) -> None:
        """Hand over whatever waits and nobody else is handing over."""
        self._overdue = True
        self._next()

    def _next(self) -> None:
        """Hand over a batch, unless one is being handed over.

        The larger the batches, the less each action costs; so what comes meanwhile waits. What is
        waited for and what is overdue take turns.
        """
        if self._busy:
            return
        if self._overdue and not (self._waiting and self._looked):
            self._overdue = False
            self._looked = True
            Deferred.fromCoroutine(self._turn(_ANY, (self._limits.handoff_batch,), ()))
        elif self._waiting:
            self._looked = False
            batch = list(self._waiting)[: self._limits.handoff_batch]
            waiters = [self._waiting.pop(id) for id in batch]
            Deferred.fromCoroutine(self._turn(_THESE, (id_array(batch),), waiters))
        elif self._rest is not None and not self._rest.called:
            self._rest.callback(None)

    async def _turn(
        self,
        statement: Statement[_WaitingRow],
        parameters: Parameters,
        waiters: Sequence[Deferred[None]],
    ) -> None:
        self._busy = True
        more = await self._attempt(statement, parameters)
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(None)
        if more and not waiters and self._poll.running:
            self._overdue = True
        self._busy = False
        self._next()

    async def _attempt(self, statement: Statement[_WaitingRow], parameters: Parameters) -> bool:
        """Hand over the rows of *statement*; whether there may be more."""
        try:
            more = await self._hand_over(statement, parameters)
        except (OSError, UnavailableError, TimeoutError, CancelledError) as reason:
            self._fail(describe_error(reason) or "the spool's file system does not answer")
        except Exception:
            self.log.failure("the hand-off to the scheduler failed")
            self._stuck = "see the log"
        else:
            if self._stuck:
                self.log.info("actions reach the scheduler again")
            self._stuck = ""
            return more
        return False

    def _fail(self, reason: str) -> None:
        if reason != self._stuck:
            self.log.error("actions do not reach the scheduler: {reason}", reason=reason)
        self._stuck = reason

    async def _hand_over(self, statement: Statement[_WaitingRow], parameters: Parameters) -> bool:
        if self._threads >= self._limits.handoff_threads:
            raise UnavailableError("the spool's file system does not answer")
        async with self._database.transaction() as transaction:
            rows = await transaction.query(statement, parameters)
            if not rows:
                return False
            new = {
                row.actionid: row.document.encode()
                for row in rows
                if row.status == NEW_STATUS and row.document is not None
            }
            failures = await self._write(new)
            done = [row.actionid for row in rows if row.actionid not in failures]
            await transaction.commit(_HANDED_OVER, (id_array(done),))
        if failures:
            raise next(iter(failures.values()))
        return len(rows) == self._limits.handoff_batch

    async def _write(self, documents: dict[str, bytes]) -> dict[str, OSError]:
        """Hand documents over to the spool, in a thread; those that failed, by their id."""
        if not documents:
            return {}
        self._threads += 1
        given_up = Event()
        threads = self._reactor.getThreadPool()
        written = deferToThreadPool(
            self._reactor, threads, self._spool.hand_over, documents, given_up
        )
        written.addBoth(self._count_thread)
        try:
            return await _copy(written).addTimeout(self._limits.spool_seconds, self._reactor)
        except BaseException:
            given_up.set()
            raise

    def _count_thread(self, result: T) -> T:
        self._threads -= 1
        return result


def _give_up(*_: object) -> None:
    """Let who waits go on: the hand-off goes on, too."""


def _copy(original: Deferred[T]) -> Deferred[T]:
    """Return a Deferred with the same result, which may be cancelled without the original."""
    copy: Deferred[T] = Deferred()

    def settle(result: T | Failure) -> None:
        if not copy.called:
            copy.callback(result)

    original.addBoth(settle)
    return copy
