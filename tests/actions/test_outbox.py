"""What the outbox hands over first, and how long it refuses actions after a fault."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from threading import Event
from typing import cast

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from mig.actions.outbox import Outbox
from mig.actions.spool import SelectNew, Spool
from mig.database.database import Database
from mig.errors import UnavailableError
from mig.limits import Limits
from tests.support.postgres import TestDatabase, hold_transaction
from tests.support.reactor import reactor

LIMITS = Limits(handoff_batch=20)
BACKLOG = 4 * LIMITS.handoff_batch
DOCUMENT = '{"name": "x"}'


def insert_actions(database: TestDatabase, *ids: int) -> None:
    """Insert actions that wait, the first one for the longest time."""
    database.execute(
        "insert into actions (id, name, target, validfrom, expireafter, status)"
        " select n::numeric(37, 17), 'x', 'x', now(), now(), 'init' from unnest(%s) n",
        (list(ids),),
    )
    database.execute(
        "insert into submissions (identity, actionid, submitted, document)"
        " select int8send(n), n, now() + n * interval '1 ms', %s from unnest(%s::int[]) n",
        (DOCUMENT, list(ids)),
    )


class FakeSpool:
    """A spool that records the ids of each batch, and fails while there is an error."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.error: OSError | None = None
        self.trials: list[int] = []

    def write_documents(
        self, documents: Mapping[str, bytes], select_new: SelectNew, cancelled: Event
    ) -> dict[str, OSError]:
        self.seen.append(sorted(map(int, documents)))
        return dict.fromkeys(documents, self.error) if self.error else {}

    def try_document(self, size: int, cancelled: Event) -> None:
        self.trials.append(size)
        if self.error:
            raise self.error


@pytest.fixture
def waiting(database: TestDatabase) -> Iterator[Database]:
    """Return a database in which every action waits, the first one for the longest time."""
    insert_actions(database, *range(1, BACKLOG + 1))
    pool = Database(reactor, database.dsn)
    yield pool
    pool.stop()


@pytest_twisted.ensureDeferred
async def test_a_new_action_does_not_wait_for_the_whole_backlog(
    database: TestDatabase, waiting: Database
) -> None:
    spool = FakeSpool()
    outbox = Outbox(reactor, waiting, cast(Spool, spool), limits=LIMITS)
    outbox.start()
    await outbox.flush(BACKLOG)
    assert spool.seen[:2] == [[*range(1, LIMITS.handoff_batch + 1)], [BACKLOG]]
    await outbox.stop()
    still_waiting = database.execute("select count(*) from submissions where handedover is null")
    assert still_waiting == [(BACKLOG - sum(map(len, spool.seen)),)]


class Faulty:
    """An outbox with one action, whose spool has failed."""

    def __init__(self, database: TestDatabase) -> None:
        self.database = database
        self.pool = Database(reactor, database.dsn)
        self.spool = FakeSpool()
        self.outbox = Outbox(reactor, self.pool, cast(Spool, self.spool))

    async def fail(self) -> None:
        insert_actions(self.database, 1)
        self.spool.error = OSError(errno.ENOSPC, "No space left on device")
        await self.outbox.flush(1)
        self.spool.error = None

    async def is_available(self) -> bool:
        """Return whether actions are accepted after the next poll."""
        self.outbox.start()
        await self.outbox.stop()
        try:
            self.outbox.check_available()
        except UnavailableError:
            await self.outbox.stop()  # the check has started another poll
            return False
        return True


@pytest.fixture
def faulty(database: TestDatabase) -> Iterator[Faulty]:
    case = Faulty(database)
    pytest_twisted.blockon(Deferred.fromCoroutine(case.fail()))
    yield case
    case.pool.stop()


@pytest_twisted.ensureDeferred
async def test_a_fault_lasts_while_another_daemon_holds_what_failed(
    faulty: Faulty, database: TestDatabase
) -> None:
    """That this daemon has nothing to hand over does not mean that the spool works."""
    with hold_transaction(database, "select * from submissions for update") as held:
        assert not await faulty.is_available()
        held.rollback()
    assert faulty.spool.seen == [[1]]
    assert await faulty.is_available()
    assert faulty.spool.seen == [[1], [1]]


@pytest_twisted.ensureDeferred
async def test_another_action_that_is_handed_over_does_not_end_a_fault(
    faulty: Faulty, database: TestDatabase
) -> None:
    with hold_transaction(database, "select * from submissions for update") as held:
        insert_actions(database, 2)
        assert not await faulty.is_available()
        assert faulty.spool.seen == [[1], [2]]
        held.rollback()
    assert await faulty.is_available()


@pytest.mark.parametrize(
    "change", ["delete from submissions", "update submissions set handedover = now()"]
)
@pytest_twisted.ensureDeferred
async def test_a_fault_ends_when_nothing_waits_and_the_spool_works(
    faulty: Faulty, database: TestDatabase, change: str
) -> None:
    """An operator has deleted the action that failed, or another daemon has handed it over."""
    database.execute(change)
    faulty.spool.error = OSError(errno.EROFS, "Read-only file system")
    assert not await faulty.is_available()
    faulty.spool.error = None
    assert await faulty.is_available()
    assert faulty.spool.seen == [[1]]
    assert set(faulty.spool.trials) == {len(DOCUMENT)}
