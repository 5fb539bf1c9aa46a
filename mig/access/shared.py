"""Work that several requests wait for is done once for all of them.

A client that leaves never ends it: the others still wait, and its failure still counts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mig.tracing import name_no_statements

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")

MAX_BATCH: Final = 500
"""Keys of one look-up; its rows are read in a few milliseconds."""


class SharedJobs(Generic[Key, Result]):
    """At most one job for each key at a time; who asks while it runs gets its result."""

    def __init__(self) -> None:
        self._waiting: dict[Key, list[Deferred[Result]]] = {}

    def is_running(self, key: Key) -> bool:
        """Return whether a job for ``key`` runs."""
        return key in self._waiting

    async def run(self, key: Key, start: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Return the result of the job for ``key``, which ``start`` begins unless one runs.

        :raises Exception: that of the job.
        """
        answer: Deferred[Result] = Deferred()
        if key in self._waiting:
            self._waiting[key].append(answer)
        else:
            self._waiting[key] = [answer]
            with name_no_statements():
                job = Deferred.fromCoroutine(start())
            job.addBoth(lambda result: _deliver(self._waiting.pop(key), result))
        return await answer


class BatchLoader(Generic[Key, Result]):
    """Looks up what belongs to keys: one query at a time, for all keys that wait when it starts.

    So a result is never older than the request for it, and a flood of requests takes no more than
    one connection.

    :param load: returns what it finds for several keys.
    """

    def __init__(self, load: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Result]]]) -> None:
        self._load = load
        self._waiting: dict[Key, list[Deferred[Result | None]]] = {}
        self._is_loading = False

    async def find(self, key: Key) -> Result | None:
        """Return what belongs to ``key``, or ``None``.

        :raises UnavailableError: when the database cannot be asked.
        """
        answer: Deferred[Result | None] = Deferred()
        self._waiting.setdefault(key, []).append(answer)
        if not self._is_loading:
            with name_no_statements():
                Deferred.fromCoroutine(self._load_waiting())
        return await answer

    async def _load_waiting(self) -> None:
        self._is_loading = True
        while self._waiting:
            batch = {key: self._waiting.pop(key) for key in list(self._waiting)[:MAX_BATCH]}
            found: Mapping[Key, Result] = {}
            failure = None
            try:
                found = await self._load(list(batch))
            except Exception:
                failure = Failure()
            for key, answers in batch.items():
                _deliver(answers, failure or found.get(key))
        self._is_loading = False


def _deliver(answers: Iterable[Deferred[Result]], result: Result | Failure) -> None:
    """Give a result to all who still wait: a Deferred whose request has ended is cancelled."""
    for answer in answers:
        if not answer.called:
            answer.callback(result)
