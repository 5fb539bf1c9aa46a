"""Daemons that are delayed or restricted write nothing wrong into the scheduler's folders."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from mig.actions.spool import FOLDERS, Spool, SystemCalls
from mig.errors import SpoolError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Spool(tmp_path / "spool").prepare_folders()
    return tmp_path / "spool" / "action"


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
        self.failures = self.spool.write_documents({"7": b"{}"}, self.cancelled)


@contextmanager
def hold_up_write(folder: Path) -> Iterator[HandOver]:
    new = os.open(folder / "new", os.O_RDONLY)
    fcntl.flock(new, fcntl.LOCK_EX)
    thread = HandOver(folder)
    thread.start()
    assert thread.written.wait(20)
    yield thread
    os.close(new)
    thread.join(20)


@pytest.mark.parametrize("state", FOLDERS["action"])
def test_an_action_that_another_daemon_handed_over_is_not_written_again(
    folder: Path, state: str
) -> None:
    with hold_up_write(folder) as thread:
        (folder / state / "7.json").write_text("theirs")
    assert not thread.failures
    assert [path.read_text() for path in folder.glob("*/*")] == ["theirs"]


def test_no_file_appears_after_a_cancelled_handoff(folder: Path) -> None:
    with hold_up_write(folder) as thread:
        thread.cancelled.set()
    assert thread.failures["7"].errno == errno.ETIMEDOUT
    assert not list(folder.glob("*/*"))


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_the_umask_does_not_change_the_modes_of_the_spool(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        Spool(tmp_path / "cache" / "mig").prepare_folders()
        Spool(tmp_path / "cache" / "mig").write_documents({"7": b"{}"}, Event())
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
        failures = Spool(tmp_path / "spool").write_documents({"7": b"{}"}, Event())
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
