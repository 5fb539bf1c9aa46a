"""While daemons are killed at every step, each action reaches the scheduler exactly once."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from signal import SIGKILL
from threading import Event, Thread
from urllib.error import HTTPError
from urllib.parse import urlencode

import psycopg2
from psycopg2.extensions import make_dsn

from mig.actions.spool import Spool
from mig.database.schema.declaration import API_ROLE
from tests.support import faulty_daemon
from tests.support.audit import list_audited_actions
from tests.support.daemon import wait_for
from tests.support.faulty_daemon import POINTS
from tests.support.keys import Keys
from tests.support.postgres import TestDatabase
from tests.support.properties import REPETITIONS
from tests.support.submissions import Case, make_action

DAEMONS = 2
CLIENTS = 4
KILLS = len(POINTS) * max(REPETITIONS // 5, 1)
"""How often daemons are killed, in turn: each of them at every other point."""
MIN_ACTIONS = 20 * REPETITIONS
PAUSE_SECONDS = 0.005


class Work(Thread):
    """A thread whose error fails the test."""

    error: BaseException | None = None

    def __init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        try:
            self.work()
        except BaseException as reason:
            self.error = reason

    def work(self) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        self.join(3600)
        assert not self.is_alive(), f"{type(self).__name__} does not end"
        if self.error:
            raise self.error


class Scheduler(Work):
    """A scheduler that changes the status, moves the file, and deletes it, all at once."""

    def __init__(self, database: TestDatabase, spool: Path) -> None:
        super().__init__()
        self._dsn = database.dsn
        self._folder = spool / "action"
        self._stopping = Event()
        self.taken: Counter[str] = Counter()

    def work(self) -> None:
        with closing(psycopg2.connect(self._dsn)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            while not self._stopping.wait(PAUSE_SECONDS):
                for file in list((self._folder / "new").iterdir()):
                    action_id = file.stem
                    assert str(json.loads(file.read_text())["id"]) == action_id
                    self.taken[action_id] += 1
                    update = "update actions set status = %s where id = %s"
                    cursor.execute(update, ("preparing", action_id))
                    for folder in ("inflight", "done"):
                        file = file.rename(self._folder / folder / file.name)
                    cursor.execute(update, ("completed", action_id))
                    file.unlink()

    def stop(self) -> None:
        self._stopping.set()
        self.finish()


class DyingDaemon(Work):
    """A daemon that is killed at each point in turn and starts again, and then runs on."""

    def __init__(self, arguments: Sequence[str], output: Path, points: Sequence[str]) -> None:
        super().__init__()
        self._arguments = arguments
        self._output = output
        self._kills = [f"{point}:{1 + n % 3}" for n, point in enumerate(points)]
        self._stopping = Event()
        self.base = ""
        self.has_survived = False

    def work(self) -> None:
        for kill_at in self._kills:
            assert self._run_process("--kill-at", kill_at) == -SIGKILL, self._output.read_text()
        self.has_survived = True
        self._run_process()

    def _run_process(self, *faults: str) -> int:
        """Run the daemon to its end, or until it is to stop; return its exit status."""
        with self._output.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", faulty_daemon.__file__, *faults, "-n", *self._arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        while process.poll() is None and not self._stopping.wait(PAUSE_SECONDS):
            ready = self._output.read_text().partition("ready at ")[2].split()
            self.base = ready[0] if ready else ""
        self.base = ""
        process.kill()
        return process.wait()

    def stop(self) -> None:
        self._stopping.set()
        self.finish()


class Client(Work):
    """A client that posts actions, each to any daemon until one says that it has accepted it."""

    def __init__(
        self, case: Case, daemons: Sequence[DyingDaemon], numbers: Iterator[int], first: int
    ) -> None:
        super().__init__()
        self._case = case
        self._daemons = daemons
        self._numbers = numbers
        self._next_daemon = itertools.cycle([*daemons[first:], *daemons[:first]])

    def work(self) -> None:
        for number in self._numbers:
            if number > MIN_ACTIONS and all(daemon.has_survived for daemon in self._daemons):
                return
            action = self._case.sign_action(make_action(name=f"action {number}"))
            body = urlencode({"action": json.dumps(action)}).encode()
            while not post(next(self._next_daemon).base, body):
                assert not any(daemon.error for daemon in self._daemons)
                time.sleep(PAUSE_SECONDS)


def post(base: str, body: bytes) -> bool:
    """Return whether an action was accepted, now or before."""
    if not base:
        return False
    try:
        with urllib.request.urlopen(f"{base}action/create/", body, timeout=60) as answer:
            return answer.status in (HTTPStatus.ACCEPTED, HTTPStatus.OK)
    except HTTPError as refused:
        assert refused.code == HTTPStatus.SERVICE_UNAVAILABLE, refused.read()
        return False
    except (OSError, HTTPException):
        return False


def test_actions_are_handed_over_once_while_daemons_are_killed_at_every_step(
    empty_database: TestDatabase, keys: Keys, tmp_path: Path
) -> None:
    """None is lost and none appears twice, though the scheduler deletes each at once.

    The audit has one row of each.
    """
    spool = tmp_path / "spool"
    Spool(spool).prepare_folders()
    dsn = make_dsn(empty_database.dsn, user=API_ROLE)
    arguments = ["mig-api", "--database", dsn, "--spool", str(spool)]
    points = list(itertools.islice(itertools.cycle(POINTS), KILLS))
    daemons = [
        DyingDaemon([*arguments, "--listen", "tcp:0"], tmp_path / f"output{n}", points[n::DAEMONS])
        for n in range(DAEMONS)
    ]
    case, numbers = Case(keys, empty_database), itertools.count(1)
    clients = [Client(case, daemons, numbers, n % DAEMONS) for n in range(CLIENTS)]
    scheduler = Scheduler(empty_database, spool)
    for worker in (scheduler, *daemons, *clients):
        worker.start()
    try:
        for client in clients:
            client.finish()
        waiting = "select count(*) from submissions where handedover is null"
        wait_for(lambda: empty_database.execute(waiting) == [(0,)])
        wait_for(lambda: not list((spool / "action" / "new").iterdir()))
    finally:
        for daemon in daemons:
            daemon.stop()
        scheduler.stop()
    accepted = empty_database.execute("select id::text, name from actions")
    assert {name for _, name in accepted} >= {f"action {n}" for n in range(1, MIN_ACTIONS + 1)}
    assert len({name for _, name in accepted}) == len(accepted)
    assert scheduler.taken == Counter(action_id for action_id, _ in accepted)
    assert Counter(list_audited_actions(empty_database)) == scheduler.taken
