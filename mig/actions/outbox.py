"""The outbox of accepted actions: each gets into the scheduler's spool exactly once.

A row of ``submissions`` without ``handedover`` is an action that the scheduler may not have yet. A
daemon locks the row while it hands over the action, so several daemons share the work. If a daemon
is killed in between, the row stays as it was; then the folders of the scheduler and the status of
the action, in this order, show whether the file was written before (docs/decisions/0040).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Event
from typing import Annotated, Final, NamedTuple, TypeVar

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from mig.actions.spool import Spool
from mig.actions.submission import NEW_STATUS
from mig.database.database import Database, Transaction
from mig.errors import UnavailableError, describe_error
from mig.limits import Limits
from mig.model.row import Columns, id_sql
from mig.model.statement import IdRow, Parameters, Statement, id_array, select_ids
from mig.reactor import Reactor
from mig.tracing import name_no_statements

T = TypeVar("T")

POLL_INTERVAL_SECONDS: Final = 2.0
"""The interval between searches for actions that failed, or that another daemon left behind."""


class _WaitingRow(NamedTuple):
    actionid: Annotated[str, id_sql("actionid")]
    document: Annotated[str | None, "document"]


_COLUMNS = Columns(_WaitingRow)
# A row that another daemon is handing over is skipped, so a poll never waits.
_SELECT_OLDEST = Statement(
    f"""
    select {_COLUMNS.sql}
    from submissions
    where handedover is null
    order by submitted
    limit %s
    for update skip locked
    """,
    _COLUMNS,
    writes=True,
)
# Rows are locked in the order of their ids, so that two daemons cannot deadlock.
_SELECT_BY_ID = Statement(
    f"""
    select {_COLUMNS.sql}
    from submissions
    where handedover is null and actionid = any(%s::numeric[])
    order by actionid
    for update
    """,
    _COLUMNS,
)
# Neither an action that the scheduler has begun with, nor one that was deleted.
_SELECT_NEW = select_ids(
    f"""
    select {id_sql("id")}
    from actions
    where id = any(%s::numeric[]) and status = %s
    """
)
_SELECT_STILL_WAITING = select_ids(
    f"""
    select {id_sql("actionid")}
    from submissions
    where handedover is null and actionid = any(%s::numeric[])
    limit 1
    """
)
# A trigger then deletes the document, which this role may not change (docs/privileges.md).
_MARK_HANDED_OVER = """
    update submissions
    set handedover = now()
    where actionid = any(%s::numeric[])
"""


@dataclass(frozen=True, kw_only=True)
class _Fault:
    """Why actions do not reach the scheduler; ``largest`` is the size of their largest document."""

    reason: str
    action_ids: frozenset[str]
    largest: int


class Outbox:
    """Hands over the waiting actions, on request and every :data:`POLL_INTERVAL_SECONDS`.

    An action that failed stays in the outbox and is tried again: at every poll, and when a client
    submits another action. Until that succeeds, new actions are refused (docs/decisions/0033).
    """

    log = Logger()
    initial_status: Final = NEW_STATUS
    uses_spool: Final = True

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
        self._poll = LoopingCall(self._start_poll)
        self._poll.clock = reactor
        self._waiting: dict[str, Deferred[None]] = {}
        self._poll_is_due = self._last_was_poll = False
        self._is_busy = False
        self._threads = 0
        self._drained: Deferred[None] | None = None
        self._fault: _Fault | None = None

    def start(self) -> None:
        """Start polling, at once."""
        self._poll.start(POLL_INTERVAL_SECONDS)

    async def stop(self) -> None:
        """Stop polling; return when the current hand-offs have ended or take too long."""
        if self._poll.running:
            self._poll.stop()
        self._poll_is_due = False
        if self._is_busy:
            self._drained = Deferred()
            await self._drained.addTimeout(
                self._limits.handoff_seconds, self._reactor, _ignore_timeout
            )

    def check_available(self) -> None:
        """Refuse actions, and try again to hand over, while there is a fault.

        :raises UnavailableError: with the reason of the fault as its detail.
        """
        if self._fault is not None:
            self._start_poll()
            raise UnavailableError(
                "actions do not reach the scheduler at the moment", self._fault.reason
            )

    async def flush(self, action_id: int) -> None:
        """Hand over a new action; return when that has succeeded, failed, or takes too long."""
        waiter: Deferred[None] = Deferred()
        self._waiting[str(action_id)] = waiter
        self._start_next_batch()
        await waiter.addTimeout(self._limits.handoff_seconds, self._reactor, _ignore_timeout)

    def _start_poll(self) -> None:
        """Hand over the oldest actions that wait and that no other daemon is handing over."""
        self._poll_is_due = True
        self._start_next_batch()

    def _start_next_batch(self) -> None:
        """Hand over a batch, unless one is being handed over.

        Larger batches cost less for each action, so new actions wait for the current batch. Batches
        of new actions and of polled ones alternate when there are both.
        """
        if self._is_busy:
            return
        if self._poll_is_due and not (self._waiting and self._last_was_poll):
            self._poll_is_due = False
            self._last_was_poll = True
            self._start_batch(_SELECT_OLDEST, (self._limits.handoff_batch,), ())
        elif self._waiting:
            self._last_was_poll = False
            batch = list(self._waiting)[: self._limits.handoff_batch]
            waiters = [self._waiting.pop(action_id) for action_id in batch]
            self._start_batch(_SELECT_BY_ID, (id_array(batch),), waiters)
        elif self._drained is not None and not self._drained.called:
            self._drained.callback(None)

    def _start_batch(
        self,
        statement: Statement[_WaitingRow],
        parameters: Parameters,
        waiters: Sequence[Deferred[None]],
    ) -> None:
        with name_no_statements():
            Deferred.fromCoroutine(self._run_batch(statement, parameters, waiters))

    async def _run_batch(
        self,
        statement: Statement[_WaitingRow],
        parameters: Parameters,
        waiters: Sequence[Deferred[None]],
    ) -> None:
        self._is_busy = True
        more = await self._try_hand_over(statement, parameters)
        for waiter in waiters:
            if not waiter.called:  # it may have timed out
                waiter.callback(None)
        if more and not waiters and self._poll.running:
            self._poll_is_due = True
        self._is_busy = False
        self._start_next_batch()

    async def _try_hand_over(
        self, statement: Statement[_WaitingRow], parameters: Parameters
    ) -> bool:
        """Hand over the rows of ``statement``; return whether there may be more."""
        documents: dict[str, bytes] = {}
        try:
            more = await self._hand_over_rows(statement, parameters, documents)
            if self._fault is not None:
                await self._try_end_fault(self._fault, documents)
        except (OSError, UnavailableError, DeferredTimeoutError, CancelledError) as reason:
            self._record_fault(
                describe_error(reason) or "the spool's file system does not answer", documents
            )
        except Exception:
            self.log.failure("the hand-off to the scheduler failed")
            self._record_fault("see the log", documents)
        else:
            return more
        return False

    def _record_fault(self, reason: str, documents: Mapping[str, bytes]) -> None:
        """Refuse actions from now on, because these ones and earlier ones were not handed over."""
        before = self._fault or _Fault(reason="", action_ids=frozenset(), largest=0)
        if reason != before.reason:
            self.log.error("actions do not reach the scheduler: {reason}", reason=reason)
        self._fault = _Fault(
            reason=reason,
            action_ids=before.action_ids | documents.keys(),
            largest=max([before.largest, *map(len, documents.values())]),
        )

    async def _try_end_fault(self, fault: _Fault, documents: Mapping[str, bytes]) -> None:
        """Accept actions again if the spool works and none of the failed actions still waits.

        An attempt that had nothing to hand over proves nothing: another daemon may be trying those
        rows. Or they have been handed over, or deleted, elsewhere; then a trial shows whether the
        spool works (docs/decisions/0041).

        :param documents: what this daemon has just handed over.
        """
        if await self._database.query(_SELECT_STILL_WAITING, (id_array(fault.action_ids),)):
            return
        if not documents:
            cancelled = Event()
            await self._run_in_thread(
                lambda: self._spool.try_document(fault.largest, cancelled), cancelled
            )
        self.log.info("actions reach the scheduler again")
        self._fault = None

    async def _hand_over_rows(
        self,
        statement: Statement[_WaitingRow],
        parameters: Parameters,
        documents: dict[str, bytes],
    ) -> bool:
        """Hand over the rows of ``statement``, of which this fills in the ``documents``."""
        polled = statement is _SELECT_OLDEST
        durable = await self._find_durable_ids(parameters) if polled else frozenset()
        if polled and not durable:
            return False
        async with self._database.transaction() as transaction:
            rows = await transaction.query(statement, parameters)
            if polled:
                rows = [row for row in rows if row.actionid in durable]
            if not rows:
                return False
            documents |= {row.actionid: row.document.encode() for row in rows if row.document}
            failures = await self._write_documents(transaction, documents) if documents else {}
            done = [row.actionid for row in rows if row.actionid not in failures]
            await transaction.commit(_MARK_HANDED_OVER, (id_array(done),))
        if failures:
            raise next(iter(failures.values()))
        return len(rows) == self._limits.handoff_batch

    async def _find_durable_ids(self, parameters: Parameters) -> frozenset[str]:
        """Return the ids of waiting actions that a synchronous standby has, too.

        What was committed without an answer may be visible before. The commit of the locks waits
        for the standby, until that has everything before them (docs/decisions/0048).
        """
        rows = await self._database.query(_SELECT_OLDEST, parameters)
        return frozenset(row.actionid for row in rows)

    async def _write_documents(
        self, transaction: Transaction, documents: Mapping[str, bytes]
    ) -> dict[str, OSError]:
        """Write documents to the spool; return the errors by id."""
        cancelled = Event()

        def start_query(ids: Collection[str]) -> Deferred[list[IdRow]]:
            if cancelled.is_set():  # the transaction has ended, or is about to
                raise CancelledError
            return transaction.query(_SELECT_NEW, (id_array(ids), NEW_STATUS))

        def select_new(ids: Collection[str]) -> list[str]:
            return [row.id for row in self._call_from_thread(lambda: start_query(ids))]

        return await self._run_in_thread(
            lambda: self._spool.write_documents(documents, select_new, cancelled), cancelled
        )

    def _call_from_thread(self, call: Callable[[], Deferred[T]]) -> T:
        """Call a function in the reactor's thread, from another one, and wait for its result.

        Unlike Twisted's ``blockingCallFromThread``, this ends when the reactor has stopped.

        :raises UnavailableError: when there is no result in time.
        """
        result: Future[T] = Future()

        def start() -> None:
            called = maybeDeferred(call)
            called.addCallbacks(
                result.set_result, lambda reason: result.set_exception(reason.value)
            )

        self._reactor.callFromThread(start)
        try:
            return result.result(self._limits.spool_lock_seconds)
        except TimeoutError:
            raise UnavailableError("the database does not answer") from None

    async def _run_in_thread(self, call: Callable[[], T], cancelled: Event) -> T:
        """Return what ``call``, which uses the spool, returns; set ``cancelled`` if it is late.

        :raises UnavailableError: when too many threads are waiting for the file system.
        :raises TimeoutError: when this one takes too long.
        """
        if self._threads >= self._limits.handoff_threads:  # all of them hang in system calls
            raise UnavailableError("the spool's file system does not answer")
        self._threads += 1
        running = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), call)
        running.addBoth(self._count_finished_thread)
        try:
            # a thread cannot be cancelled; the copy can, and the original counts the thread
            return await _copy_deferred(running).addTimeout(
                self._limits.spool_seconds, self._reactor
            )
        except BaseException:
            cancelled.set()
            raise

    def _count_finished_thread(self, result: T) -> T:
        self._threads -= 1
        return result


def _ignore_timeout(*_: object) -> None:
    """Let the caller go on; the hand-off goes on, too."""


def _copy_deferred(original: Deferred[T]) -> Deferred[T]:
    """Return a Deferred with the same result, which can be cancelled without the original."""
    copy: Deferred[T] = Deferred()

    def copy_result(result: T | Failure) -> None:
        if not copy.called:
            copy.callback(result)

    original.addBoth(copy_result)
    return copy
