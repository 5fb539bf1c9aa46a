"""The investigators' keys are read again for many requests at once, and never too early."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from mig.errors import UnavailableError
from mig.signing.keyring import Keyring


class Queries:
    """The queries of a keyring, which the test answers."""

    def __init__(self) -> None:
        self.keyring = Keyring()
        self.waiting: list[Deferred[Any]] = []

    def query(self, statement: object, parameters: object = ()) -> Deferred[Any]:
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def reload(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.keyring.reload_signers(self.query))

    def answer(self, result: list[object] | Failure | None = None) -> None:
        self.waiting.pop().callback([] if result is None else result)


def test_requests_that_ask_during_a_query_share_the_next_one() -> None:
    queries = Queries()
    first = queries.reload()
    later = [queries.reload() for _ in range(300)]
    assert len(queries.waiting) == 1
    queries.answer()
    assert first.called and not any(one.called for one in later)
    assert len(queries.waiting) == 1
    queries.answer()
    assert all(one.called for one in later)
    assert not queries.waiting


def test_a_query_that_fails_is_reported_to_all_who_wait_for_it() -> None:
    queries = Queries()
    first, second = queries.reload(), queries.reload()
    queries.answer(Failure(UnavailableError("no database")))
    queries.answer()
    failures: list[Failure] = []
    first.addErrback(failures.append)
    assert failures[0].check(UnavailableError)
    assert second.called and second.result == []


@pytest.mark.parametrize("leaving", [0, 1])
def test_a_client_that_leaves_changes_nothing_for_the_others(leaving: int) -> None:
    queries = Queries()
    requests = [queries.reload() for _ in range(3)]
    failures: list[Failure] = []
    requests[leaving].addErrback(failures.append).cancel()
    assert failures[0].check(CancelledError)
    queries.answer()
    queries.answer()
    assert all(one.called for one in requests)
    assert not queries.waiting
