"""The folders through which a scheduler of 2014 takes its actions."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Final

from mig.errors import SpoolError

FOLDERS: Final = {
    "action": ("new", "inflight", "done", "invalid"),
    "command": ("ready", "inflight", "returned", "done"),
}
"""The scheduler's folders; an action moves through its own in this order."""

FILE_MODE: Final = 0o640
FOLDER_MODE: Final = 0o750
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NAMELESS = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True)
class SystemCalls:
    """The calls of the operating system by which an action gets into the spool."""

    open: Callable[..., int] = os.open
    write: Callable[[int, memoryview], int] = os.write
    fchmod: Callable[[int, int], None] = os.fchmod
    posix_fadvise: Callable[[int, int, int, int], None] = os.posix_fadvise
    fsync: Callable[[int], None] = os.fsync
    link: Callable[..., None] = os.link
    stat: Callable[..., os.stat_result] = os.stat
    flock: Callable[[int, int], None] = fcntl.flock


class Spool:
    """The spool below *path*; its methods block: they are called in a thread.

    A file is written without a name and then linked to its own: whoever watches the folder never
    sees a part of it, nothing is overwritten, and a process that is killed leaves nothing behind.

    :param calls: what it asks the operating system through; a test may have some of them fail.
    """

    def __init__(self, path: Path, calls: SystemCalls | None = None) -> None:
        self._path = path
        self._calls = calls or SystemCalls()

    def prepare_folders(self) -> None:
        """Make the folders that are missing, and see that the others can be trusted.

        :raises SpoolError: for a folder that is a symbolic link or open to everybody, and for a
            file system without nameless files.
        """
        try:
            for folder in (*reversed(self._path.parents), self._path):
                _make_folder(folder)
            _check_parents(self._path)
            owner = _check_folder(self._path, None)
            for name, states in FOLDERS.items():
                for folder in (self._path / name, *(self._path / name / s for s in states)):
                    _make_folder(folder)
                    _check_folder(folder, owner)
            with self._open_action_folders() as folders:
                os.close(self._calls.open(".", _NAMELESS, 0o600, dir_fd=folders["new"]))
        except OSError as reason:
            if reason.errno in (errno.EOPNOTSUPP, errno.EISDIR):
                raise SpoolError(
                    f"the file system of {self._path} has no nameless files (O_TMPFILE)"
                ) from None
            raise SpoolError(
                f"the spool {reason.filename or self._path} cannot be used: {reason.strerror}"
            ) from None

    def write_documents(
        self, documents: Mapping[str, bytes], cancelled: Event
    ) -> dict[str, OSError]:
        """See that the scheduler has, or had, the file of each action, given by its id.

        The answer has those of which that cannot be told or done: such a file is not there, or can
        be asked for again. Once *cancelled* is set, no file appears any more.
        """
        failures: dict[str, OSError] = {}
        try:
            with self._open_action_folders() as folders, ExitStack() as stack:
                files = {}
                for name, document in documents.items():
                    try:
                        file = stack.enter_context(
                            self._write_nameless_file(document, folders["new"])
                        )
                        files[name] = file
                    except OSError as reason:
                        failures[name] = reason
                failures |= self._sync_files(files)
                whole = {name: file for name, file in files.items() if name not in failures}
                failures |= self._link_files(whole, folders, cancelled)
                if len(failures) < len(documents):
                    self._calls.fsync(folders["new"])
        except OSError as reason:
            return dict.fromkeys(documents, reason)
        return failures

    @contextmanager
    def _open_action_folders(self) -> Iterator[dict[str, int]]:
        with ExitStack() as stack:

            def open_folder(name: str | Path, parent: int | None) -> int:
                folder = self._calls.open(name, _FOLDER, dir_fd=parent)
                stack.callback(os.close, folder)
                return folder

            action = open_folder("action", open_folder(self._path, None))
            yield {state: open_folder(state, action) for state in FOLDERS["action"]}

    @contextmanager
    def _write_nameless_file(self, document: bytes, folder: int) -> Iterator[int]:
        """A file without a name, on its way to the disk."""
        file = self._calls.open(".", _NAMELESS, 0o600, dir_fd=folder)
        try:
            remaining = memoryview(document)
            while remaining:
                remaining = remaining[self._calls.write(file, remaining) :]
            self._calls.fchmod(file, FILE_MODE)
            self._calls.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            yield file
        finally:
            os.close(file)

    def _sync_files(self, files: Mapping[str, int]) -> dict[str, OSError]:
        """Wait until the files are on disk; return those of which that cannot be told.

        All of them are on their way already, so that the first one that is waited for takes the
        others along.
        """
        failures: dict[str, OSError] = {}
        for name, file in files.items():
            try:
                self._calls.fsync(file)
            except OSError as reason:
                failures[name] = reason
        return failures

    def _link_files(
        self, files: Mapping[str, int], folders: Mapping[str, int], cancelled: Event
    ) -> dict[str, OSError]:
        """Give each file its name, if the scheduler never had one of that name.

        Looking and naming is one step for all daemons: one may have been held up since it took the
        rows, and another may have done its work.
        """
        failures: dict[str, OSError] = {}
        if not files:
            return failures
        self._calls.flock(folders["new"], fcntl.LOCK_EX)
        try:
            for name, file in files.items():
                try:
                    self._link_file(f"{name}.json", file, folders, cancelled)
                except OSError as reason:
                    failures[name] = reason
        finally:
            self._calls.flock(folders["new"], fcntl.LOCK_UN)
        return failures

    def _link_file(
        self, name: str, file: int, folders: Mapping[str, int], cancelled: Event
    ) -> None:
        # in the order in which the scheduler moves it, so that it is not missed meanwhile
        if any(self._has_file(name, folders[state]) for state in FOLDERS["action"]):
            return
        if cancelled.is_set():
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        path = f"/proc/self/fd/{file}"
        self._calls.link(path, name, dst_dir_fd=folders["new"], follow_symlinks=True)

    def _has_file(self, name: str, folder: int) -> bool:
        try:
            self._calls.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir()
    except FileExistsError:
        return
    folder.chmod(FOLDER_MODE)


def _check_parents(path: Path) -> None:
    """Refuse a spool that everybody could move away, since a folder above it is open to them."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise SpoolError(f"the folder {folder} above the spool is open to everybody: chmod o-w")


def _check_folder(folder: Path, owner: int | None) -> int:
    """The owner of a folder in which nobody else can put files or links."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise SpoolError(f"the spool folder {folder} is no folder (links are not followed)")
    if found.st_mode & stat.S_IWOTH:
        raise SpoolError(f"the spool folder {folder} is open to everybody: chmod o-w")
    if found.st_uid not in {0, os.geteuid(), owner if owner is not None else found.st_uid}:
        raise SpoolError(f"the spool folder {folder} belongs to another user than the spool")
    return found.st_uid
