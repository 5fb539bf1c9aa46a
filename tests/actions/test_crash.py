"""Whatever happens to the daemon, an action is handed over exactly once or not at all."""

from __future__ import annotations

import errno
import http.client
import itertools
import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode

import pytest
from psycopg2.extensions import make_dsn

from mig.database.schema.declaration import API_ROLE
from tests.support import faulty_daemon
from tests.support.audit import list_audited_actions
from tests.support.daemon import TWISTD, Daemon, wait_for
from tests.support.faulty_daemon import POINTS
from tests.support.fleet import VECTORS, load_fleet
from tests.support.postgres import TestDatabase

ACTION = (VECTORS / "actions" / "unix-plain.json").read_text()
FOLDERS = ("new", "inflight", "done", "invalid")
POSTS = 40
DURABLE = POINTS.index("committed")


class Service:
    """A daemon with a spool and a database, and the state of its actions."""

    def __init__(self, database: TestDatabase, folder: Path) -> None:
        load_fleet(database.dsn)
        database.execute("delete from signatures")
        database.execute("delete from commands")
        database.execute("delete from actions")
        self.database = database
        self.folder = folder
        self.spool = folder / "spool"
        self.config = folder / "api.cfg"
        self.config.write_text(f'[directories]\nspool = "{self.spool}"\n')
        self.daemon: Daemon | None = None
        self._numbers = itertools.count(1)

    def start(self, *faults: str) -> Daemon:
        """Start a daemon; *faults* are options of :mod:`tests.support.faulty_daemon`."""
        folder = self.folder / f"daemon{next(self._numbers)}"
        folder.mkdir()
        self.daemon = Daemon(
            *(
                "--config",
                str(self.config),
                "--database",
                make_dsn(self.database.dsn, user=API_ROLE),
            ),
            *("--listen", "tcp:0"),
            cwd=folder,
            program=[sys.executable, "-P", faulty_daemon.__file__, *faults] if faults else TWISTD,
        )
        return self.daemon

    def post(self, action: str = ACTION, base: str = "") -> int | None:
        """Return the status of the answer; ``None`` when the connection broke."""
        assert self.daemon
        url = f"{base or self.daemon.base}action/create/"
        try:
            return int(urllib.request.urlopen(url, urlencode({"action": action}).encode()).status)
        except HTTPError as answer:
            return answer.code
        except (OSError, http.client.HTTPException):
            return None

    def is_accepted(self, action: str, base: str) -> bool:
        return self.post(action, base) == 202

    def list_files(self) -> list[str]:
        return [file.name for f in FOLDERS for file in (self.spool / "action" / f).iterdir()]

    def list_action_ids(self) -> list[str]:
        return [action_id for (action_id,) in self.database.execute("select id::text from actions")]

    def count_waiting(self) -> int:
        sql = "select count(*) from submissions where handedover is null"
        return int(self.database.execute(sql)[0][0])

    def wait_until_handed_over(self) -> None:
        wait_for(lambda: not self.count_waiting())

    def check_spool(self) -> None:
        """Check that the spool holds the scheduler's folders and complete documents only."""
        for path in self.spool.rglob("*"):
            if path.is_file():
                assert path.suffix == ".json" and json.loads(path.read_text())["id"]
        assert {p.name for p in (self.spool / "action").iterdir()} == set(FOLDERS)

    def read_log(self) -> str:
        return self.daemon.log.read_text() if self.daemon else ""

    def stop(self) -> None:
        if self.daemon and self.daemon.process.poll() is None:
            self.daemon.process.kill()
            self.daemon.process.wait()


@pytest.fixture
def service(database: TestDatabase, tmp_path: Path) -> Iterator[Service]:
    running = Service(database, tmp_path)
    yield running
    running.stop()


@pytest.mark.parametrize("point", POINTS)
def test_an_action_survives_a_kill_between_any_two_steps(service: Service, point: str) -> None:
    """It is handed over once if it was committed, and can be posted again otherwise.

    The audit has its row if and only if it was committed.
    """
    service.start("--kill-at", point)
    assert service.post() is None
    assert service.daemon and service.daemon.process.wait(10) == -9
    there = service.list_action_ids()
    assert len(there) == (POINTS.index(point) >= DURABLE)
    assert list_audited_actions(service.database) == there
    service.start()
    service.wait_until_handed_over()
    assert service.list_files() == [f"{action_id}.json" for action_id in there]
    assert service.post() == 202
    assert len(service.list_action_ids()) == 1
    assert list_audited_actions(service.database) == service.list_action_ids()
    assert service.list_files() == [f"{action_id}.json" for action_id in service.list_action_ids()]
    service.check_spool()


@pytest.mark.parametrize("point", ["linked", "handed over", "marked"])
@pytest.mark.parametrize("where", ["inflight", "done", "invalid", "away"])
def test_an_action_that_the_scheduler_took_is_not_written_again(
    service: Service, point: str, where: str
) -> None:
    service.start("--kill-at", point)
    assert service.post() is None
    (action_id,) = service.list_action_ids()
    taken = service.spool / "action" / "new" / f"{action_id}.json"
    if where == "away":
        service.database.execute("update actions set status = 'preparing'")
        taken.unlink()
    else:
        taken.rename(service.spool / "action" / where / taken.name)
    service.start()
    service.wait_until_handed_over()
    assert service.list_files() == ([] if where == "away" else [taken.name])
    assert not list((service.spool / "action" / "new").iterdir())


@contextmanager
def held_at(service: Service, point: str) -> Iterator[None]:
    """Run the block while a new daemon is held up at a point; then let it go on."""
    fifo = service.folder / "fifo"
    os.mkfifo(fifo)
    service.start("--hold-at", f"{point}:{fifo}")

    def open_fifo() -> int | None:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as reason:
            assert reason.errno == errno.ENXIO  # nobody reads it yet
            return None

    opened = wait_for(open_fifo)
    try:
        yield
    finally:
        os.close(opened)


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
@pytest.mark.parametrize("point", ["locked", "written"])
def test_an_action_that_is_finished_while_a_daemon_waits_is_not_written_again(
    service: Service, point: str, isolation: str
) -> None:
    """The scheduler takes, finishes and deletes what a daemon had linked before it was killed.

    The default isolation of the database's transactions does not matter.
    """
    [[name]] = service.database.execute("select current_database()")
    service.database.execute(
        f"alter database {name} set default_transaction_isolation = '{isolation}'"
    )
    service.start("--kill-at", "linked")
    assert service.post() is None
    (action_id,) = service.list_action_ids()
    with held_at(service, point):
        service.database.execute("update actions set status = 'completed'")
        (service.spool / "action" / "new" / f"{action_id}.json").unlink()
    service.wait_until_handed_over()
    assert service.list_files() == []


def test_a_handoff_whose_row_another_daemon_took_over_writes_nothing(service: Service) -> None:
    """PostgreSQL releases the row when it loses the connection, though the daemon goes on."""
    service.start("--kill-at", "locked")
    assert service.post() is None
    with held_at(service, "written"):
        service.database.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where state = 'idle in transaction' and datname = current_database()"
        )
        service.database.execute("update submissions set handedover = now()")
    wait_for(lambda: "do not reach the scheduler" in service.read_log())
    assert service.list_files() == []


def test_an_action_survives_the_failure_of_any_file_system_call(service: Service) -> None:
    """For each error, an action is tried again until the first, second, … last call has failed."""
    errors = {"ENOSPC": "unix-plain", "EIO": "unix-tricky", "EROFS": "unix-two-signers"}
    calls, again = 18, 14  # of an attempt, and of one that finds the file in its place
    failures, call = [], 7  # a start makes seven calls
    for error in errors:
        for n in range(1, calls + 1):
            call += n
            failures.append(f"{call}:{error}")
        call += again
    service.start("--fail-calls", ",".join(failures))
    for name in errors.values():
        action = (VECTORS / "actions" / f"{name}.json").read_text()
        assert service.post(action) == 202
        answers: set[int | None] = set()

        def accepted(action: str = action, answers: set[int | None] = answers) -> bool:
            answers.add(service.post(action))
            return 202 in answers

        wait_for(accepted)
        assert answers == {202, 503}
    service.wait_until_handed_over()
    assert sorted(service.list_files()) == sorted(
        f"{action_id}.json" for action_id in service.list_action_ids()
    )
    assert len(service.list_action_ids()) == len(errors)
    log = service.read_log()
    assert log.count("do not reach the scheduler: ") == len(errors)
    assert log.count("reach the scheduler again") == len(errors)
    service.check_spool()


def test_actions_are_refused_while_one_waits_for_a_missing_spool(service: Service) -> None:
    service.start()
    folder = service.spool / "action" / "new"
    away = folder.rename(folder.with_name("elsewhere"))
    assert service.post() == 202
    assert service.post((VECTORS / "actions" / "unix-two-signers.json").read_text()) == 503
    assert len(service.list_action_ids()) == 1
    away.rename(folder)
    second = (VECTORS / "actions" / "unix-two-signers.json").read_text()
    wait_for(lambda: service.post(second) == 202)
    assert sorted(service.list_files()) == sorted(
        f"{action_id}.json" for action_id in service.list_action_ids()
    )


def test_two_daemons_with_a_full_spool_accept_one_action(service: Service) -> None:
    """Each sees rows that the other one holds, and does not take that for a success."""
    full = service.folder / "full"
    full.touch()
    first = service.start("--full-while", str(full))
    assert service.post() == 202
    second = service.start("--full-while", str(full))
    try:
        wait_for(lambda: "No space left on device" in service.read_log())  # from its first poll
        action = (VECTORS / "actions" / "unix-two-signers.json").read_text()
        bases = [first.base, second.base]
        with ThreadPoolExecutor(8) as threads:
            posts = [threads.submit(service.post, action, bases[n % 2]) for n in range(POSTS)]
            assert {post.result() for post in posts} == {503}
        assert len(service.list_action_ids()) == 1
        full.unlink()
        service.wait_until_handed_over()
        for base in bases:  # the first that is accepted is stored for both
            wait_for(partial(service.is_accepted, action, base))
        for daemon in (first, second):
            log = daemon.log.read_text()
            assert log.count("do not reach the scheduler: ") == 1
            assert log.count("reach the scheduler again") == 1
    finally:
        first.process.kill()
        first.process.wait()
    service.check_spool()


def test_a_failed_transaction_leaves_no_part_of_an_action(service: Service) -> None:
    service.start()
    service.database.execute("alter table signatures rename to gone")
    assert service.post() == 500
    service.database.execute("alter table gone rename to signatures")
    assert (
        not service.list_action_ids() and not service.list_files() and not service.count_waiting()
    )
    assert list_audited_actions(service.database) == []
    assert service.post() == 202
    assert len(service.list_files()) == 1


def test_equal_posts_to_two_daemons_make_one_action(service: Service) -> None:
    second = service.start()
    bases = [second.base, service.start().base]
    try:
        with ThreadPoolExecutor(24) as threads:
            posts = [threads.submit(service.post, base=bases[n % 2]) for n in range(24)]
            answers = sorted(str(post.result()) for post in posts)
    finally:
        second.process.kill()
        second.process.wait()
    assert answers == ["202"] * 24
    service.wait_until_handed_over()
    assert service.list_files() == [f"{action_id}.json" for action_id in service.list_action_ids()]
    assert len(service.list_action_ids()) == 1
