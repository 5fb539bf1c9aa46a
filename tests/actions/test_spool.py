"""Daemons that are delayed or restricted write nothing wrong into the scheduler's folders."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from mig.actions.spool import FOLDERS, Spool, SystemCalls
from mig.errors import SpoolError, UnavailableError
from mig.limits import Limits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Spool(tmp_path / "spool").prepare_folders()
    return tmp_path / "spool" / "action"


def select_all(ids: Collection[str]) -> Collection[str]:
    """Return all ids: no action has been with the scheduler."""
    return ids


class HandOver(Thread):
    """A hand-off that is delayed before its file gets its name."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.spool = Spool(folder.parent, SystemCalls(flock=self._flock))
        self.written = Event()
        self.cancelled = Event()
        self.failures: dict[str, OSError] = {}

    def _flock(self, file: int, operation: int) -> None:
        self.written.set()
        fcntl.flock(file, operation)

    def run(self) -> None:
        self.failures = self.spool.write_documents({"7": b"{}"}, select_all, self.cancelled)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the lock of the spool, as another daemon does."""
    new = os.open(folder / "new", os.O_RDONLY)
    try:
        fcntl.flock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(new)


def is_lock_free(folder: Path) -> bool:
    try:
        with lock(folder):
            return True
    except BlockingIOError:
        return False


@contextmanager
def hold_up_write(folder: Path) -> Iterator[HandOver]:
    with lock(folder):
        thread = HandOver(folder)
        thread.start()
        assert thread.written.wait(20)
        yield thread
    thread.join(20)


@pytest.mark.parametrize("state", FOLDERS["action"])
def test_an_action_that_another_daemon_handed_over_is_not_written_again(
    folder: Path, state: str
) -> None:
    with hold_up_write(folder) as thread:
        (folder / state / "7.json").write_text("theirs")
    assert not thread.failures
    assert [path.read_text() for path in folder.glob("*/*")] == ["theirs"]


def test_no_file_appears_after_a_handoff_was_cancelled(folder: Path) -> None:
    """This includes one that is cancelled while it asks for the status, which ends the lock."""
    cancelled = Event()

    def cancel(ids: Collection[str]) -> Collection[str]:
        cancelled.set()
        return ids

    failures = Spool(folder.parent).write_documents({"7": b"{}"}, cancel, cancelled)
    assert failures["7"].errno == errno.ETIMEDOUT
    with lock(folder):
        assert not list(folder.glob("*/*"))


def test_an_action_that_the_scheduler_has_had_is_not_written(folder: Path) -> None:
    """Its status is asked for under the lock, after the folders were found to be empty."""
    asked: list[str] = []

    def select_one(ids: Collection[str]) -> Collection[str]:
        assert not is_lock_free(folder)
        asked.extend(ids)
        return ["8"]

    (folder / "done" / "6.json").write_text("theirs")
    documents = {"6": b"{}", "7": b"{}", "8": b"{}"}
    assert not Spool(folder.parent).write_documents(documents, select_one, Event())
    assert asked == ["7", "8"]
    assert {path.name for path in folder.glob("*/*")} == {"6.json", "8.json"}


def test_the_lock_ends_when_the_status_cannot_be_read(folder: Path) -> None:
    def fail(_: Collection[str]) -> Collection[str]:
        raise UnavailableError("the database cannot be reached")

    with pytest.raises(UnavailableError, match="the database"):
        Spool(folder.parent).write_documents({"7": b"{}"}, fail, Event())
    assert is_lock_free(folder)
    assert not list(folder.glob("*/*"))


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_the_wait_for_a_lock_that_a_stopped_daemon_holds_ends(
    folder: Path, is_cancelled: bool
) -> None:
    """It ends after the limit, and at once when the hand-off is cancelled."""
    seconds = 3600 if is_cancelled else 0
    spool = Spool(folder.parent, limits=Limits(spool_lock_seconds=seconds))
    cancelled = Event()
    if is_cancelled:
        cancelled.set()
    with lock(folder), pytest.raises(UnavailableError, match="another daemon holds the lock"):
        spool.write_documents({"7": b"{}"}, select_all, cancelled)
    assert not list(folder.glob("*/*"))


def test_a_trial_of_the_spool_leaves_no_file(folder: Path) -> None:
    Spool(folder.parent).try_document(10_000, Event())
    assert not list(folder.glob("*/*"))


def test_a_trial_of_a_full_spool_fails(folder: Path) -> None:
    """It writes as much as the document that failed."""

    def write(_: int, data: memoryview) -> int:
        if len(data) > 9_999:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)

    spool = Spool(folder.parent, SystemCalls(write=write))
    spool.try_document(9_999, Event())
    with pytest.raises(OSError, match="No space left"):
        spool.try_document(10_000, Event())


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_the_umask_does_not_change_the_modes_of_the_spool(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        Spool(tmp_path / "cache" / "mig").prepare_folders()
        Spool(tmp_path / "cache" / "mig").write_documents({"7": b"{}"}, select_all, Event())
    finally:
        os.umask(before)
    made = [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]
    modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in made}
    assert modes == {True: 0o750, False: 0o640}


def test_a_spool_in_a_folder_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(SpoolError, match="above the spool: chmod o-w"):
        Spool(tmp_path / "open" / "spool").prepare_folders()
    (tmp_path / "open").chmod(0o1777)
    Spool(tmp_path / "open" / "spool").prepare_folders()


@pytest.mark.parametrize("name", ["", "action", "action/new", "action/invalid", "command/ready"])
def test_symbolic_links_in_the_spool_are_not_followed(tmp_path: Path, name: str) -> None:
    Spool(tmp_path / "spool").prepare_folders()
    folder = tmp_path / "spool" / name
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpoolError, match="links are not followed"):
        Spool(tmp_path / "spool").prepare_folders()
    if name.startswith("action"):
        failures = Spool(tmp_path / "spool").write_documents({"7": b"{}"}, select_all, Event())
        assert failures["7"].errno in (errno.ELOOP, errno.ENOTDIR)
    assert not list(tmp_path.rglob("*.json"))


def test_a_spool_folder_must_be_a_folder_that_others_cannot_write_to(tmp_path: Path) -> None:
    Spool(tmp_path / "spool").prepare_folders()
    new = tmp_path / "spool" / "action" / "new"
    new.chmod(0o757)
    with pytest.raises(SpoolError, match="chmod o-w"):
        Spool(tmp_path / "spool").prepare_folders()
    new.rmdir()
    new.write_text("")
    with pytest.raises(SpoolError, match="is not a folder"):
        Spool(tmp_path / "spool").prepare_folders()
    with pytest.raises(SpoolError, match="cannot be used"):
        Spool(new / "spool").prepare_folders()
