"""Every fault that makes a daemon less than ready is seen while it lasts, and no longer."""

from __future__ import annotations

import json
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from urllib.error import HTTPError

import pytest
import pytest_twisted
from psycopg2.extensions import make_dsn, parse_dsn
from twisted.internet.defer import Deferred

from mig.actions.handoff import NO_HANDOFF, DatabaseHandoff, NoHandoff
from mig.actions.spool import Spool
from mig.database.database import Database
from mig.errors import UnavailableError
from mig.limits import Limits
from mig.service.monitoring import NO_GPG, Monitoring
from mig.web.streams import Streams
from tests.support.admin import ask_admin
from tests.support.daemon import Daemon, wait_for
from tests.support.postgres import TestDatabase, hold_transaction
from tests.support.reactor import reactor


class Service:
    """A daemon, and how each of its parts can be made to fail for a while."""

    def __init__(self, database: TestDatabase, folder: Path) -> None:
        self._database, self._folder = database, folder
        self._programs = folder / "programs"
        self._programs.mkdir()
        (self._programs / "gpg").symlink_to(shutil.which("gpg") or "")
        self.daemon = Daemon(
            *("--database", database.dsn, "--spool", str(folder / "spool")),
            *("--listen", "tcp:0", "--admin", f"unix:{folder / 'admin'}"),
            cwd=folder,
            environment={"PATH": str(self._programs)},
        )

    def read_state(self) -> tuple[str, dict[str, str]]:
        """Return the status, and the reason of each part that fails."""
        answer = ask_admin(self._folder / "admin", "/readyz")
        readiness = json.loads(answer.body)
        assert answer.status == (503 if readiness["status"] == "failing" else 200)
        faults = {
            name: part["reason"]
            for name, part in readiness["parts"].items()
            if part["state"] == "failing"
        }
        return readiness["status"], faults

    def is_well(self) -> bool:
        return self.read_state() == ("ok", {})

    def has_fault(self, part: str, reason: str) -> bool:
        """Return whether a part fails for a reason that has these words."""
        return reason in self.read_state()[1].get(part, "")

    def ask_without_detail(self) -> tuple[int, bytes]:
        """Return the answer that load balancers get."""
        try:
            with urllib.request.urlopen(f"{self.daemon.base}readyz") as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            with error:
                return error.code, error.read()

    @contextmanager
    def lose_database(self) -> Iterator[None]:
        admin = TestDatabase(dsn=make_dsn(self._database.dsn, dbname="postgres"))
        name = parse_dsn(self._database.dsn)["dbname"]
        admin.execute(f"alter database {name} with allow_connections false")
        admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,)
        )
        yield
        admin.execute(f"alter database {name} with allow_connections true")

    @contextmanager
    def block_database(self) -> Iterator[None]:
        with hold_transaction(self._database, "lock table mig_schema"):
            yield

    @contextmanager
    def age_schema(self) -> Iterator[None]:
        self._database.execute("create table newer as table mig_schema; delete from mig_schema")
        yield
        self._database.execute("insert into mig_schema select * from newer")

    @contextmanager
    def rename_spool(self) -> Iterator[None]:
        spool = self._folder / "spool"
        spool.rename(self._folder / "gone")
        yield
        (self._folder / "gone").rename(spool)

    @contextmanager
    def replace_folder(self) -> Iterator[None]:
        folder = self._folder / "spool/action/new"
        folder.rename(self._folder / "new")
        folder.write_text("a file")
        yield
        folder.unlink()
        (self._folder / "new").rename(folder)

    @contextmanager
    def remove_gpg(self) -> Iterator[None]:
        program = self._programs / "gpg"
        program.rename(self._programs / "other")
        yield
        (self._programs / "other").rename(program)


ROUNDS = (
    (
        "degraded",
        {
            "rename_spool": ("handoff", "No such file or directory"),
            "remove_gpg": ("gpg", NO_GPG),
        },
    ),
    (
        "failing",
        {
            "replace_folder": ("handoff", "Not a directory"),
            "age_schema": ("database", "the database has schema version None"),
        },
    ),
    ("failing", {"lose_database": ("database", "the database cannot be reached")}),
    ("failing", {"block_database": ("database", "the database does not answer")}),
)
"""Faults that last at the same time, with their parts and reasons, and the status then."""


@pytest.fixture
def service(database: TestDatabase, tmp_path: Path) -> Iterator[Service]:
    running = Service(database, tmp_path)
    yield running
    running.daemon.stop()


def test_every_fault_is_seen_while_it_lasts(service: Service) -> None:
    """A load balancer goes on unless the database fails; an operator sees which part, and why."""
    wait_for(service.is_well)
    assert service.ask_without_detail() == (200, b"ok\n")
    for status, faults in ROUNDS:
        with ExitStack() as lasting:
            for name in faults:
                lasting.enter_context(getattr(service, name)())
            for part, reason in faults.values():
                wait_for(partial(service.has_fault, part, reason))
            assert service.read_state()[0] == status
            expected = (503, b"failing\n") if status == "failing" else (200, b"ok\n")
            assert service.ask_without_detail() == expected
    wait_for(service.is_well)


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_takes_no_actions_is_degraded(database: TestDatabase) -> None:
    connected = Database(reactor, database.dsn)
    monitoring = Monitoring(reactor, connected, NoHandoff(), None, {}, Streams(Limits()))
    readiness = await monitoring._monitor.check()
    assert readiness.status == "degraded"
    assert readiness.parts["handoff"].reason == NO_HANDOFF
    connected.stop()


class HangingSpool(Spool):
    """A spool on a file system that does not answer until the test says so."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.answers = threading.Event()

    def check_folders(self) -> None:
        self.answers.wait(60)


@pytest_twisted.ensureDeferred
async def test_a_spool_that_hangs_occupies_one_thread(
    database: TestDatabase, tmp_path: Path
) -> None:
    """Anyone who asks in the meantime is told so, and does not wait in another thread."""
    connected = Database(reactor, database.dsn)
    spool = HangingSpool(tmp_path)
    monitoring = Monitoring(reactor, connected, DatabaseHandoff(), spool, {}, Streams(Limits()))
    first = Deferred.fromCoroutine(monitoring._check_handoff())
    with pytest.raises(UnavailableError, match="the spool's file system does not answer"):
        await monitoring._check_handoff()
    spool.answers.set()
    await first
    await monitoring._check_handoff()
    connected.stop()
