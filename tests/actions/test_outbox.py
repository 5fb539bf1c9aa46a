"""An action that a client waits for goes before a backlog."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from threading import Event
from typing import Any

import pytest
import pytest_twisted

from mig.actions.outbox import Outbox
from mig.database.database import Database
from mig.limits import Limits
from tests.support.postgres import TestDatabase
from tests.support.reactor import reactor

LIMITS = Limits(handoff_batch=20)
BACKLOG = 4 * LIMITS.handoff_batch


class Batches:
    """A spool that records the ids of each batch."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def write_documents(
        self, documents: Mapping[str, bytes], cancelled: Event
    ) -> dict[str, OSError]:
        self.seen.append(sorted(map(int, documents)))
        return {}


@pytest.fixture
def waiting(database: TestDatabase) -> Iterator[Database]:
    """Return a database in which every action waits, the first one for the longest time."""
    numbers = f"generate_series(1, {BACKLOG}) n"
    database.execute(
        "insert into actions (id, name, target, description, threat, operations, validfrom,"
        " expireafter, starttime, finishtime, lastupdatetime, status, pgpsignatures, syntaxversion)"
        " select n, 'x', 'x', '{}', '{}', '[]', now(), now(), now(), now(), now(), 'init', '[]', 2"
        f" from {numbers}"
    )
    database.execute(
        "insert into submissions (identity, actionid, submitted, document)"
        f" select int8send(n), n, now() + n * interval '1 ms', '{{}}' from {numbers}"
    )
    pool = Database(reactor, database.dsn)
    yield pool
    pool.stop()


@pytest_twisted.ensureDeferred
async def test_a_new_action_does_not_wait_for_the_whole_backlog(
    database: TestDatabase, waiting: Database
) -> None:
    spool: Any = Batches()
    outbox = Outbox(reactor, waiting, spool, limits=LIMITS)
    outbox.start()
    await outbox.flush(BACKLOG)
    assert spool.seen[:2] == [[*range(1, LIMITS.handoff_batch + 1)], [BACKLOG]]
    await outbox.stop()
    still_waiting = database.execute("select count(*) from submissions where handedover is null")
    assert still_waiting == [(BACKLOG - sum(map(len, spool.seen)),)]
