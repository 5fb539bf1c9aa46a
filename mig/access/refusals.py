"""The record of refusals: those of known callers in the audit, all others in the log.

They are counted in memory for a minute, since rows of the audit are never changed
(docs/decisions/0069).
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from typing import Final, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mig.access.caller import Caller
from mig.database.database import Database
from mig.errors import UnavailableError, describe_error
from mig.limits import Limits
from mig.model.record import encode_json
from mig.model.row import make_row_reader
from mig.model.statement import Statement
from mig.tracing import name_no_statements
from mig.values import escape_unprintable
from mig.web.request import RequestEnded

MAX_REASON_CHARACTERS: Final = 200
OTHER_REASONS: Final = "refused for other reasons"
"""The outcome of what a caller was refused beyond the limit of reasons."""

BATCH_ROWS: Final = 100
"""How many rows one statement inserts."""

RETRY_SECONDS: Final = 5.0
"""How long rows wait for the database after it could not be reached."""

_SAFE_METHODS: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_ALWAYS_RECORDED: Final = frozenset({401, 403, 429})

_SECRET = re.compile(r"[A-Za-z0-9+/=_-]{16,}")
_PLAIN = re.compile(r"[a-z/_-]+|[0-9]+")

_INSERT: Final = Statement(
    """
    insert into audit (
        at, operation, caller, callername, key, client, method, path, object, outcome, count
    )
    select
        statement_timestamp() - age * interval '1 s', operation, caller, callername, key, client,
        method, path, object, outcome, count
    from json_to_recordset(%s) as refused (
        age float8, operation text, caller numeric, callername text, key bigint, client text,
        method text, path text, object text, outcome text, count integer
    )
    """,
    make_row_reader(tuple),
    writes=True,
)


def is_recorded(event: RequestEnded) -> bool:
    """Return whether a request was refused that would have changed something, or for its caller."""
    if event.refusal is None or not 400 <= event.status < 500:
        return False
    return event.status in _ALWAYS_RECORDED or (
        event.route is not None and event.method not in _SAFE_METHODS
    )


def describe_refusal(event: RequestEnded) -> str:
    """Return the outcome in the audit: one short line, without what may be a secret.

    The reason may quote what the client has sent, perhaps its key in the wrong place.
    """
    reason = _SECRET.sub(_hide_secret, event.refusal or "")
    reason = escape_unprintable(reason)
    if len(reason) > MAX_REASON_CHARACTERS:
        reason = f"{reason[: MAX_REASON_CHARACTERS - 1]}…"
    return f"refused with {event.status}: {reason}"


def _hide_secret(match: re.Match[str]) -> str:
    """Return words, paths and ids as they are, and nothing of keys, tokens and signatures."""
    return match[0] if _PLAIN.fullmatch(match[0]) else "…"


Key = TypeVar("Key", bound=Hashable)
First = TypeVar("First")


@dataclass(kw_only=True, slots=True)
class Tally(Generic[Key, First]):
    """How often something has happened since ``began``; ``first`` is what happened first."""

    key: Key
    first: First
    began: float
    count: int = 1


class MinuteCounter(Generic[Key, First]):
    """A bounded table of tallies, each of which ends some time after its first event.

    When the table is full, the oldest tally ends early.

    :param report: called with the tallies that have ended, the oldest first.
    """

    def __init__(
        self,
        clock: IReactorTime,
        *,
        seconds: float,
        size: int,
        report: Callable[[list[Tally[Key, First]]], None],
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._size = size
        self._report = report
        self._tallies: OrderedDict[Key, Tally[Key, First]] = OrderedDict()
        self._call: IDelayedCall | None = None

    def count_again(self, key: Key) -> bool:
        """Count an event if there is a tally of its key; return whether there is."""
        tally = self._tallies.get(key)
        if tally is None:
            return False
        tally.count += 1
        return True

    def start(self, key: Key, first: First) -> None:
        """Start a tally with its first event."""
        if len(self._tallies) >= self._size:
            self._report([self._tallies.popitem(last=False)[1]])
        self._tallies[key] = Tally(key=key, first=first, began=self._clock.seconds())
        self._schedule()

    def end_all(self) -> None:
        """End every tally now."""
        self._end(float("inf"))

    def _end(self, now: float) -> None:
        """End the tallies whose time is over."""
        ended = []
        while self._tallies and self._next_end() <= now:
            ended.append(self._tallies.popitem(last=False)[1])
        self._schedule()
        if ended:
            self._report(ended)

    def _next_end(self) -> float:
        oldest = next(iter(self._tallies.values()))  # all last equally long
        return oldest.began + self._seconds

    def _schedule(self) -> None:
        if self._call is not None and self._call.active():
            if self._tallies:
                return
            self._call.cancel()
        elif self._tallies:
            seconds = max(0.0, self._next_end() - self._clock.seconds())
            self._call = self._clock.callLater(seconds, self._end_due)

    def _end_due(self) -> None:
        self._end(self._clock.seconds())


@dataclass(frozen=True, kw_only=True)
class _Refusal:
    """What refusals that make one row have in common."""

    caller: int
    key: int | None = None
    method: str | None = None
    path: str | None = None
    outcome: str = OTHER_REASONS


@dataclass(frozen=True, kw_only=True)
class _FirstRefusal:
    """What a row says of the first one of its refusals."""

    operation: str
    callername: str
    client: str


_CallerTally = Tally[_Refusal, _FirstRefusal]


class RefusalRecorder:
    """An observer of requests that records refusals, at most a minute later.

    A row of the audit counts the refusals of one caller on one route for one reason. A line of the
    log counts those of one address without a known caller. No request waits for it: while the
    database cannot be reached, rows wait in memory, and what does not fit is a line of the log.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, database: Database, limits: Limits) -> None:
        self._clock = clock
        self._database = database
        self._limits = limits
        seconds = limits.refusal_seconds
        self._callers: MinuteCounter[_Refusal, _FirstRefusal] = MinuteCounter(
            clock, seconds=seconds, size=limits.refusals, report=self._queue_rows
        )
        self._addresses: MinuteCounter[str, None] = MinuteCounter(
            clock, seconds=seconds, size=limits.refusal_addresses, report=self._log_addresses
        )
        self._reasons: Counter[int] = Counter()
        self._rows: deque[_CallerTally] = deque()
        self._writing: Deferred[None] | None = None
        self._retry: IDelayedCall | None = None
        self._waiting: Deferred[None] | None = None
        self._is_failing = False
        self._is_stopped = False

    def __call__(self, event: RequestEnded) -> None:
        """Count the request if it was refused; after :meth:`stop`, only the access log has it."""
        if self._is_stopped or not is_recorded(event):
            return
        caller = event.sender
        if isinstance(caller, Caller) and caller.investigator_id is not None:
            self._count_for_caller(event, caller, caller.investigator_id)
        elif not self._addresses.count_again(event.client):
            self._addresses.start(event.client, None)

    async def stop(self) -> None:
        """Record what has been counted; what cannot be written now is a line of the log."""
        self._is_stopped = True
        self._addresses.end_all()
        self._callers.end_all()
        self._end_waiting()
        if self._writing is not None:
            await self._writing
        for row in self._rows:
            self._log_lost(row)
        self._rows.clear()

    def _count_for_caller(self, event: RequestEnded, caller: Caller, investigator_id: int) -> None:
        refusal = _Refusal(
            caller=investigator_id,
            key=caller.key_id,
            method=event.method.decode("latin-1"),
            path=event.route,
            outcome=describe_refusal(event),
        )
        if self._callers.count_again(refusal):
            return
        if self._reasons[investigator_id] >= self._limits.refusal_reasons:
            refusal = _Refusal(caller=investigator_id)
            if self._callers.count_again(refusal):
                return
        self._reasons[investigator_id] += 1
        first = _FirstRefusal(
            operation=event.operation, callername=caller.name, client=event.client
        )
        self._callers.start(refusal, first)

    def _log_addresses(self, ended: list[Tally[str, None]]) -> None:
        for tally in ended:
            self._log.warn(
                "{count} requests of no known caller from {address} were refused in"
                " {seconds:.0f} s",
                count=tally.count,
                address=tally.key,
                seconds=self._clock.seconds() - tally.began,
            )

    def _queue_rows(self, ended: list[_CallerTally]) -> None:
        for row in ended:
            self._reasons[row.key.caller] -= 1
            if not self._reasons[row.key.caller]:
                del self._reasons[row.key.caller]
            self._rows.append(row)
        self._drop_oldest_rows()
        if self._writing is None:
            with name_no_statements():
                writing = self._writing = Deferred.fromCoroutine(self._write_rows())
            writing.addErrback(lambda failure: self._log.failure("refusals are lost", failure))
            writing.addBoth(self._note_written)

    def _note_written(self, _: object) -> None:
        self._writing = None

    async def _write_rows(self) -> None:
        """Write all rows, the oldest first; wait while the database cannot be reached."""
        while self._rows:
            batch = [self._rows.popleft() for _ in range(min(len(self._rows), BATCH_ROWS))]
            try:
                await self._database.query(_INSERT, (self._encode_rows(batch),))
            except UnavailableError as reason:
                self._rows.extendleft(reversed(batch))
                self._drop_oldest_rows()
                self._note_failure(reason)
                if self._is_stopped:
                    return
                await self._wait()
            except Exception:
                self._log.failure("refusals cannot be recorded in the audit")
                for row in batch:
                    self._log_lost(row)
            else:
                self._is_failing = False

    def _drop_oldest_rows(self) -> None:
        while len(self._rows) > self._limits.refusals:
            self._log_lost(self._rows.popleft())

    def _note_failure(self, reason: UnavailableError) -> None:
        if not self._is_failing:
            self._is_failing = True
            self._log.warn(
                "refusals wait to be recorded in the audit: {reason}",
                reason=describe_error(reason),
            )

    async def _wait(self) -> None:
        """Wait for the next attempt, or until :meth:`stop`."""
        self._waiting = Deferred()
        self._retry = self._clock.callLater(RETRY_SECONDS, self._end_waiting)
        await self._waiting

    def _end_waiting(self) -> None:
        retry, self._retry = self._retry, None
        waiting, self._waiting = self._waiting, None
        if retry is not None and retry.active():
            retry.cancel()
        if waiting is not None:
            waiting.callback(None)

    def _encode_rows(self, rows: list[_CallerTally]) -> str:
        return encode_json([self._describe_row(row) for row in rows]).decode()

    def _describe_row(self, row: _CallerTally) -> dict[str, object]:
        path = row.key.path or ""
        return {
            **asdict(row.key),
            **asdict(row.first),
            "age": self._clock.seconds() - row.began,
            "object": path.strip("/").partition("/")[0] or "request",
            "count": row.count,
        }

    def _log_lost(self, row: _CallerTally) -> None:
        text = encode_json(self._describe_row(row)).decode()
        self._log.warn("this refusal is not in the audit: {row}", row=escape_unprintable(text))
