"""Whatever happens to the daemon, an action is handed over exactly once or not at all."""

from __future__ import annotations

import http.client
import json
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode

import pytest

from tests.support import faulty_daemon
from tests.support.daemon import TWISTD, Daemon, wait_for
from tests.support.faulty_daemon import POINTS
from tests.support.fleet import VECTORS, load_fleet
from tests.support.postgres import TestDatabase

ACTION = (VECTORS / "actions" / "unix-plain.json").read_text()
FOLDERS = ("new", "inflight", "done", "invalid")
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

    def start(self, *faults: str) -> Daemon:
        """Start a daemon; *faults* are options of :mod:`tests.support.faulty_daemon`."""
        self.daemon = Daemon(
            *("--config", str(self.config), "--database", self.database.dsn),
            *("--listen", "tcp:0"),
            cwd=self.folder,
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
    """It is handed over once if it was committed, and can be posted again otherwise."""
    service.start("--kill-at", point)
    assert service.post() is None
    assert service.daemon and service.daemon.process.wait(10) == -9
    there = service.list_action_ids()
    assert len(there) == (POINTS.index(point) >= DURABLE)
    service.start()
    service.wait_until_handed_over()
    assert service.list_files() == [f"{action_id}.json" for action_id in there]
    assert service.post() == (200 if there else 202)
    assert len(service.list_action_ids()) == 1
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
            return 200 in answers

        wait_for(accepted)
        assert answers == {200, 503}
    service.wait_until_handed_over()
    assert sorted(service.list_files()) == sorted(
        f"{action_id}.json" for action_id in service.list_action_ids()
    )
    assert len(service.list_action_ids()) == len(errors)
    log = service.daemon.log.read_text() if service.daemon else ""
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
    wait_for(service.list_files)
    assert service.post((VECTORS / "actions" / "unix-two-signers.json").read_text()) == 202
    assert sorted(service.list_files()) == sorted(
        f"{action_id}.json" for action_id in service.list_action_ids()
    )


def test_a_failed_transaction_leaves_no_part_of_an_action(service: Service) -> None:
    service.start()
    service.database.execute("alter table signatures rename to gone")
    assert service.post() == 500
    service.database.execute("alter table gone rename to signatures")
    assert (
        not service.list_action_ids() and not service.list_files() and not service.count_waiting()
    )
    assert service.post() == 202
    assert len(service.list_files()) == 1


def test_equal_posts_to_two_daemons_make_one_action(service: Service) -> None:
    bases = [service.start().base]
    (service.folder / "second").mkdir()
    second = Daemon(
        *("--config", str(service.config), "--database", service.database.dsn),
        *("--listen", "tcp:0"),
        cwd=service.folder / "second",
    )
    bases.append(second.base)
    try:
        with ThreadPoolExecutor(24) as threads:
            posts = [threads.submit(service.post, base=bases[n % 2]) for n in range(24)]
            answers = sorted(str(post.result()) for post in posts)
    finally:
        second.process.kill()
        second.process.wait()
    assert answers == ["200"] * 23 + ["202"]
    service.wait_until_handed_over()
    assert service.list_files() == [f"{action_id}.json" for action_id in service.list_action_ids()]
    assert len(service.list_action_ids()) == 1
