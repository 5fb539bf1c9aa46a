"""The spool: the folders from which a scheduler of 2014 takes its actions."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Final

from mig.account import Account, find_user_name
from mig.errors import SpoolError, UnavailableError
from mig.limits import Limits

FOLDERS: Final = {
    "action": ("new", "inflight", "done", "invalid"),
    "command": ("ready", "inflight", "returned", "done"),
}
"""The folders of the scheduler. It moves the file of an action through them in this order."""

LOCK_POLL_SECONDS: Final = 0.005
FILE_MODE: Final = 0o640
FOLDER_MODE: Final = 0o750
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_TMPFILE: docs/decisions/0031
_NAMELESS = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC

SelectNew = Callable[[Collection[str]], Collection[str]]
"""A function that returns those of some ids whose actions the scheduler has never had."""


@dataclass(frozen=True, kw_only=True)
class SystemCalls:
    """The system calls that write an action to the spool."""

    open: Callable[..., int] = os.open
    write: Callable[[int, memoryview], int] = os.write
    fchmod: Callable[[int, int], None] = os.fchmod
    posix_fadvise: Callable[[int, int, int, int], None] = os.posix_fadvise
    fsync: Callable[[int], None] = os.fsync
    link: Callable[..., None] = os.link
    stat: Callable[..., os.stat_result] = os.stat
    flock: Callable[[int, int], None] = fcntl.flock


class Spool:
    """The spool in the folder ``path``. Its methods block, so they are called in a thread.

    A file is written without a name and then linked: the scheduler never sees a part of a file,
    nothing is overwritten, and a process that is killed leaves nothing behind.

    :param calls: the system calls to use; a test may replace some by others that fail.
    :param limits: how long to wait for another daemon's lock.
    """

    def __init__(
        self, path: Path, calls: SystemCalls | None = None, *, limits: Limits | None = None
    ) -> None:
        self._path = path
        self._calls = calls or SystemCalls()
        self._lock_seconds = (limits or Limits()).spool_lock_seconds

    def __str__(self) -> str:
        """Return the path of the spool."""
        return str(self._path)

    def prepare_folders(self, account: Account | None = None) -> None:
        """Create the folders that are missing, and check that the others can be trusted and used.

        :param account: who will use the spool, and owns what is created; by default this process.
        :raises SpoolError: for a folder that is a symbolic link, that everybody can write to, that
            belongs to another user or that ``account`` cannot use, and for a file system without
            nameless files.
        """
        account = account or Account.of_process()
        try:
            for folder in (*reversed(self._path.parents), self._path):
                _make_folder(folder, account)
                self._check_rights(folder, os.X_OK, account)
            _check_parents(self._path)
            owner = _check_folder(self._path, None, account)
            for folder in self._list_folders():
                _make_folder(folder, account)
                _check_folder(folder, owner, account)
            action = self._path / "action"
            for folder in (self._path, action, *(action / state for state in FOLDERS["action"])):
                rights = os.R_OK | os.X_OK | (os.W_OK if folder.name == "new" else 0)
                self._check_rights(folder, rights, account)
            with account.act(), self._open_action_folders() as folders:
                os.close(self._calls.open(".", _NAMELESS, 0o600, dir_fd=folders["new"]))
        except OSError as reason:
            # EISDIR comes from a kernel or file system that does not know the flag at all
            if reason.errno in (errno.EOPNOTSUPP, errno.EISDIR):
                raise SpoolError(
                    f"the file system of {self._path} does not support nameless files (O_TMPFILE)"
                ) from None
            raise SpoolError(
                f"the spool {reason.filename or self._path} cannot be used: {reason.strerror}"
            ) from None

    def find_missing_folder(self) -> Path | None:
        """Check the spool as :meth:`prepare_folders` does for this process, but make nothing.

        :returns: the first folder that is missing and that this process can make, if there is one.
        :raises SpoolError: as :meth:`prepare_folders` raises it.
        """
        with suppress(OSError):  # it is described below
            for folder in (*reversed(self._path.parents), self._path, *self._list_folders()):
                try:
                    folder.lstat()
                except FileNotFoundError:
                    self._check_rights(folder.parent, os.W_OK | os.X_OK, Account.of_process())
                    return folder
        self.prepare_folders()
        return None

    def _list_folders(self) -> Iterator[Path]:
        """Yield the folders in the spool, each before those in it."""
        for name, states in FOLDERS.items():
            yield self._path / name
            yield from (self._path / name / state for state in states)

    def check_folders(self) -> None:
        """Check that an action could be handed over now; it may block.

        :raises SpoolError: when it could not.
        """
        try:
            with self._open_action_folders() as folders:
                os.close(self._calls.open(".", _NAMELESS, 0o600, dir_fd=folders["new"]))
        except OSError as reason:
            raise SpoolError(
                f"the spool {reason.filename or self._path} cannot be used: {reason.strerror}"
            ) from None

    def _check_rights(self, folder: Path, rights: int, account: Account) -> None:
        """Refuse a folder that ``account`` cannot use as ``rights``, as for ``os.access``, say.

        :raises SpoolError: naming the folder and the user.
        """
        with account.act():
            if os.access(folder, rights, effective_ids=True):
                return
        found = folder.stat()
        verb = "write to" if rights & os.W_OK else "read" if rights & os.R_OK else "enter"
        raise SpoolError(
            f"the spool {self._path} cannot be used: the user {account.name} cannot {verb}"
            f" {folder}, which belongs to {find_user_name(found.st_uid)} and has the mode"
            f" {stat.S_IMODE(found.st_mode):04o}"
        )

    def write_documents(
        self, documents: Mapping[str, bytes], select_new: SelectNew, cancelled: Event
    ) -> dict[str, OSError]:
        """Write the file of each action, by id, unless the scheduler has or had it.

        Return the errors by id: after an error, the same action can be written again. Once
        ``cancelled`` is set, no further file appears.

        :param select_new: called under the lock of the spool, with the ids of the actions that the
            scheduler has no file of. It may raise an error, and must end.
        :raises UnavailableError: when another daemon does not release that lock.
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
                synced = {name: file for name, file in files.items() if name not in failures}
                failures |= self._link_files(synced, folders, select_new, cancelled)
                if len(failures) < len(documents):
                    # the new names must be on disk before the rows are marked
                    self._calls.fsync(folders["new"])
        except OSError as reason:
            return dict.fromkeys(documents, reason)
        return failures

    def try_document(self, size: int, cancelled: Event) -> None:
        """Do all that a document of ``size`` bytes needs, but give it no name.

        :raises OSError: when a document could not be written.
        :raises UnavailableError: as :meth:`write_documents` raises it.
        """
        for reason in self.write_documents(
            {"trial": bytes(size)}, lambda _: (), cancelled
        ).values():
            raise reason

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
        """Yield a nameless file that contains ``document`` and is on its way to the disk."""
        file = self._calls.open(".", _NAMELESS, 0o600, dir_fd=folder)
        try:
            remaining = memoryview(document)
            while remaining:
                remaining = remaining[self._calls.write(file, remaining) :]
            self._calls.fchmod(file, FILE_MODE)
            # Linux starts to write the pages of such a file: see _sync_files
            self._calls.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            yield file
        finally:
            os.close(file)

    def _sync_files(self, files: Mapping[str, int]) -> dict[str, OSError]:
        """Wait until the files are on disk; return the errors of those that may not be.

        Linux has begun to write all of them, so the first ``fsync`` waits for most of the others,
        too.
        """
        failures: dict[str, OSError] = {}
        for name, file in files.items():
            try:
                self._calls.fsync(file)
            except OSError as reason:
                failures[name] = reason
        return failures

    def _link_files(
        self,
        files: Mapping[str, int],
        folders: Mapping[str, int],
        select_new: SelectNew,
        cancelled: Event,
    ) -> dict[str, OSError]:
        """Give each file its name, unless the scheduler has or had a file of that name.

        The scheduler changes the status of an action before it moves or deletes the file. So the
        folders come first, then the status: an action that is new after no file of it was found has
        never had one. The lock keeps it so until the file has its name (docs/decisions/0040).
        """
        failures: dict[str, OSError] = {}
        if not files:
            return failures
        with self._lock(folders["new"], cancelled):
            missing = []
            for name in files:
                try:
                    if not self._is_in_any_folder(f"{name}.json", folders):
                        missing.append(name)
                except OSError as reason:
                    failures[name] = reason
            for name in select_new(missing) if missing else ():
                try:
                    self._link_file(f"{name}.json", files[name], folders["new"], cancelled)
                except OSError as reason:
                    failures[name] = reason
        return failures

    @contextmanager
    def _lock(self, folder: int, cancelled: Event) -> Iterator[None]:
        """Hold the lock that all daemons share; it ends with this process, too.

        A process that was stopped may hold it for any time, so the wait for it has an end.

        :raises UnavailableError: when it is not free in time, or ``cancelled`` is set.
        """
        deadline = time.monotonic() + self._lock_seconds
        while not self._try_lock(folder):
            if cancelled.wait(LOCK_POLL_SECONDS) or time.monotonic() > deadline:
                raise UnavailableError("another daemon holds the lock of the spool")
        try:
            yield
        finally:
            self._calls.flock(folder, fcntl.LOCK_UN)

    def _try_lock(self, folder: int) -> bool:
        try:
            self._calls.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _is_in_any_folder(self, name: str, folders: Mapping[str, int]) -> bool:
        # in the order in which the scheduler moves the file, so that it cannot slip past the check
        return any(self._has_file(name, folders[state]) for state in FOLDERS["action"])

    def _link_file(self, name: str, file: int, folder: int, cancelled: Event) -> None:
        if cancelled.is_set():
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        # open(2) describes this way to link a nameless file; AT_EMPTY_PATH needs a capability
        path = f"/proc/self/fd/{file}"
        self._calls.link(path, name, dst_dir_fd=folder, follow_symlinks=True)

    def _has_file(self, name: str, folder: int) -> bool:
        try:
            self._calls.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True


def _make_folder(folder: Path, account: Account) -> None:
    """Make a folder that belongs to ``account``, unless it exists."""
    try:
        # Where the account may, it makes the folder itself: then it cannot misuse root for it.
        with account.act():
            folder.mkdir()
    except FileExistsError:
        return
    except PermissionError:
        if account.is_current:
            raise
        folder.mkdir()
        os.chown(folder, account.uid, account.gid, follow_symlinks=False)
    with account.act():
        folder.chmod(FOLDER_MODE)  # the mode of mkdir is subject to the umask


def _check_parents(path: Path) -> None:
    """Refuse a spool that everybody could replace, because they can write to a folder above it.

    :raises SpoolError: naming the folder.
    """
    for folder in path.parents:
        mode = folder.stat().st_mode
        # with the sticky bit, as in /tmp, only its owner can rename an entry
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise SpoolError(
                f"everybody can write to the folder {folder} above the spool: chmod o-w"
            )


def _check_folder(folder: Path, owner: int | None, account: Account) -> int:
    """Return the owner of a folder in which no other user can create files or links.

    :param owner: the owner of the spool, ``None`` for the spool itself.
    :raises SpoolError: naming the folder.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise SpoolError(f"the spool folder {folder} is not a folder (links are not followed)")
    if found.st_mode & stat.S_IWOTH:
        raise SpoolError(f"everybody can write to the spool folder {folder}: chmod o-w")
    if found.st_uid not in {0, account.uid, owner if owner is not None else found.st_uid}:
        raise SpoolError(
            f"the spool folder {folder} must belong to root, {account.name} or the owner of the"
            " spool"
        )
    return found.st_uid
