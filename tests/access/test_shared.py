"""Work that several requests wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from twisted.internet.defer import CancelledError, Deferred

from mig.access.lru import LruCache
from mig.access.shared import MAX_BATCH, BatchLoader, SharedJobs
from mig.errors import UnavailableError


class PendingJob:
    """A job that ends when the test says so."""

    def __init__(self) -> None:
        self.starts = 0
        self.end: Deferred[str] = Deferred()

    async def run(self) -> str:
        self.starts += 1
        return await self.end


def test_one_job_serves_all_who_ask_while_it_runs() -> None:
    jobs: SharedJobs[str, str] = SharedJobs()
    job, other = PendingJob(), PendingJob()
    waiting = [Deferred.fromCoroutine(jobs.run("a", job.run)) for _ in range(3)]
    Deferred.fromCoroutine(jobs.run("b", other.run))
    assert (job.starts, other.starts) == (1, 1)
    job.end.callback("done")
    assert [answer.result for answer in waiting] == ["done"] * 3
    job.end = Deferred()
    Deferred.fromCoroutine(jobs.run("a", job.run))
    assert job.starts == 2


def test_a_job_goes_on_when_nobody_waits_any_more() -> None:
    """So who leaves early does not get its work for nothing."""
    jobs: SharedJobs[str, str] = SharedJobs()
    job = PendingJob()
    waiting = [Deferred.fromCoroutine(jobs.run("a", job.run)) for _ in range(2)]
    for answer in waiting:
        answer.cancel()
        answer.addErrback(lambda failure: failure.trap(CancelledError))
    assert not job.end.called
    late = Deferred.fromCoroutine(jobs.run("a", job.run))
    job.end.callback("done")
    assert (job.starts, late.result) == (1, "done")


def test_all_who_wait_get_the_error_of_their_job() -> None:
    jobs: SharedJobs[str, str] = SharedJobs()
    job = PendingJob()
    waiting = [Deferred.fromCoroutine(jobs.run("a", job.run)) for _ in range(2)]
    job.end.errback(UnavailableError("not now"))
    for answer in waiting:
        failures: list[object] = []
        answer.addErrback(failures.append)
        assert len(failures) == 1


class PendingQuery:
    """A query that ends when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Sequence[int]] = []
        self.end: Deferred[None] = Deferred()

    async def load(self, keys: Sequence[int]) -> Mapping[int, str]:
        self.asked.append(keys)
        await self.end
        return {key: str(key) for key in keys if key % 2}

    def finish(self) -> None:
        end, self.end = self.end, Deferred()
        end.callback(None)


def test_requests_that_wait_at_the_same_time_share_a_query() -> None:
    query = PendingQuery()
    loader = BatchLoader(query.load)
    first = Deferred.fromCoroutine(loader.find(1))
    later = [Deferred.fromCoroutine(loader.find(key)) for key in (1, 2, 3, 3)]
    assert query.asked == [[1]]
    query.finish()
    assert (first.result, query.asked) == ("1", [[1], [1, 2, 3]])
    query.finish()
    assert [answer.result for answer in later] == ["1", None, "3", "3"]
    Deferred.fromCoroutine(loader.find(5))
    assert query.asked[2:] == [[5]]


def test_a_query_is_never_older_than_the_request_for_it() -> None:
    query = PendingQuery()
    loader = BatchLoader(query.load)
    for _ in range(2):
        Deferred.fromCoroutine(loader.find(1))
    query.finish()
    assert query.asked == [[1], [1]]


def test_many_keys_are_looked_up_in_several_queries() -> None:
    query = PendingQuery()
    loader = BatchLoader(query.load)
    waiting = [Deferred.fromCoroutine(loader.find(key)) for key in range(2 * MAX_BATCH)]
    for _ in range(3):
        query.finish()
    assert [len(asked) for asked in query.asked] == [1, MAX_BATCH, MAX_BATCH - 1]
    assert all(answer.called for answer in waiting)


def test_a_query_that_fails_is_told_to_those_who_wait_for_it() -> None:
    query = PendingQuery()
    loader = BatchLoader(query.load)
    first, second = (Deferred.fromCoroutine(loader.find(key)) for key in (1, 3))
    failures: list[object] = []
    first.addErrback(failures.append)
    end, query.end = query.end, Deferred()
    end.errback(UnavailableError("not now"))
    assert len(failures) == 1
    query.finish()
    assert second.result == "3"


def test_a_cache_forgets_what_was_used_least_recently() -> None:
    cache: LruCache[str, int] = LruCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert [cache.get(key) for key in "abc"] == [1, None, 3]
    cache.drop("a")
    assert (len(cache), cache.get("a")) == (1, None)


@pytest.mark.parametrize("bound", [1, 100])
def test_a_cache_is_bounded(bound: int) -> None:
    cache: LruCache[int, int] = LruCache(bound)
    for n in range(1_000):
        cache.put(n, n)
    assert len(cache) == bound
