"""PostgreSQL servers that a test may kill: a primary, a standby, and a pooler before them."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg2
from psycopg2.extensions import make_dsn

from mig.database.schema.declaration import API_ROLE
from mig.demo.postgres import OWNER_ROLE, SUPERUSER_ACCOUNT, find_binaries
from tests.support.daemon import run_program, wait_for
from tests.support.postgres import TestDatabase

ACCOUNT = pwd.getpwnam(SUPERUSER_ACCOUNT) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
SETTINGS = {"wal_level": "replica", "max_wal_senders": "4", "fsync": "off"}


def find_free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return int(probe.getsockname()[1])


class Program:
    """A program that runs as PostgreSQL's account, with a log in its folder."""

    def __init__(self, arguments: Sequence[str | Path], folder: Path) -> None:
        self._log = folder / "log"
        is_root = os.geteuid() == 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                arguments,
                cwd=folder,
                stdout=log,
                stderr=log,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                user=ACCOUNT.pw_uid if is_root else None,
                group=ACCOUNT.pw_gid if is_root else None,
                extra_groups=[] if is_root else None,
            )

    def is_running(self) -> bool:
        return self._process.poll() is None

    def check_running(self) -> None:
        assert self.is_running(), self._log.read_text()

    def wait(self) -> None:
        """Wait for the end of a program that must succeed."""
        assert self._process.wait(120) == 0, self._log.read_text()

    def kill(self) -> None:
        """Kill the program with all of its processes at once, as a power cut does."""
        if self.is_running():
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            pids = [self._process.pid, *map(int, children.read_text().split())]
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()


class Server:
    """A server in a folder of its own, on a Unix socket there and on a TCP port."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self.folder = cluster.folder / name
        self.port = find_free_port()
        self._program: Program | None = None

    @property
    def database(self) -> TestDatabase:
        """The database of the API, as its owner."""
        return TestDatabase(dsn=self.format_dsn())

    def format_dsn(self, role: str = OWNER_ROLE, database: str = "mig") -> str:
        return make_dsn(host=str(self.folder), port=self.port, user=role, dbname=database)

    def start(self) -> None:
        """Start the server unless it runs, and wait until it accepts connections."""
        if self._program is not None and self._program.is_running():
            return
        everything = {
            **SETTINGS,
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
        }
        options = [part for name, value in everything.items() for part in ("-c", f"{name}={value}")]
        self._program = Program(
            [self._cluster.bin / "postgres", "-D", self.data, *options], self.folder
        )
        wait_for(self._is_ready)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def kill(self) -> None:
        """Kill every process of the server at once."""
        if self._program is not None:
            self._program.kill()
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def require_standby(self) -> None:
        """Make the commits of a primary wait for its standby, from now on."""
        self.database.execute("alter system set synchronous_standby_names = 'standby'")
        self.database.execute("select pg_reload_conf()")
        self.wait_for_standby("sync_state = 'sync'")

    def wait_for_standby(self, condition: str = "state = 'streaming'") -> None:
        """Wait until a standby follows this primary."""
        sql = f"select 1 from pg_stat_replication where {condition}"
        wait_for(lambda: self.database.execute(sql))

    def wait_for_replay(self, primary: Server) -> None:
        """Wait until this standby has what the primary has committed."""
        [(position,)] = primary.database.execute("select pg_current_wal_lsn()::text")
        sql = f"select 1 where pg_last_wal_replay_lsn() >= '{position}'"
        wait_for(lambda: self.database.execute(sql))

    def promote(self) -> None:
        """Make a standby the primary, and wait until it is."""
        TestDatabase(dsn=self.format_dsn(database="postgres")).execute("select pg_promote()")

    def _is_ready(self) -> bool:
        assert self._program
        self._program.check_running()
        try:
            psycopg2.connect(self.format_dsn(database="postgres")).close()
        except psycopg2.OperationalError:
            return False
        return True


class Cluster:
    """The servers of a test, in a folder that only PostgreSQL's account can enter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = find_binaries()
        self.password = secrets.token_urlsafe()
        self._password_file = folder / "password"
        self._password_file.write_text(self.password)
        os.chown(self._password_file, ACCOUNT.pw_uid, ACCOUNT.pw_gid)
        self.servers: list[Server] = []
        self._programs: list[Program] = []

    def start_primary(self) -> Server:
        """Start a new server with the database of the API."""
        primary = self._add_server("primary")
        self._run(
            *("initdb", "-D", primary.data, "-U", OWNER_ROLE, "--pwfile", self._password_file),
            *("--auth-local", "trust", "--auth-host", "scram-sha-256", "--no-sync"),
            *("-E", "UTF8", "--locale=C"),
        )
        primary.start()
        admin = TestDatabase(dsn=primary.format_dsn(database="postgres"))
        admin.execute(f"create role {API_ROLE} login password '{self.password}'")
        admin.execute("create database mig")
        status, output = run_program(
            "migrate", "--database", primary.format_dsn(), program="mig-api"
        )
        assert status == 0, output
        return primary

    def start_standby(self, primary: Server) -> Server:
        """Start a standby named ``standby``, and wait until it follows the primary."""
        standby = self._add_server("standby")
        source = make_dsn(
            host=str(primary.folder),
            port=primary.port,
            user=OWNER_ROLE,
            application_name="standby",
        )
        self._run(
            *("pg_basebackup", "-D", standby.data, "-d", source, "-R", "--no-sync"),
            *("-c", "fast", "-X", "stream"),
        )
        standby.start()
        primary.wait_for_standby()
        return standby

    def start_pooler(self, server: Server, mode: str, program: str) -> Pooler:
        """Start pgbouncer with a mode of pooling."""
        pooler = Pooler(self, server, mode, program)
        self._programs.append(pooler.program)
        return pooler

    def stop(self) -> None:
        for program in self._programs:
            program.kill()
        for server in self.servers:
            server.kill()

    def make_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        os.chown(folder, ACCOUNT.pw_uid, ACCOUNT.pw_gid)
        return folder

    def _add_server(self, name: str) -> Server:
        self.make_folder(name)
        self.servers.append(Server(self, name))
        return self.servers[-1]

    def _run(self, program: str, *arguments: str | Path) -> None:
        Program([self.bin / program, *arguments], self.folder).wait()


class Pooler:
    """A pgbouncer of PostgreSQL's account, configured as docs/operations.md says."""

    def __init__(self, cluster: Cluster, server: Server, mode: str, program: str) -> None:
        self.folder = cluster.make_folder(f"pooler-{mode}")
        self._port = find_free_port()
        (self.folder / "users").write_text(f'"{OWNER_ROLE}" ""\n"{API_ROLE}" ""\n')
        (self.folder / "pgbouncer.ini").write_text(
            "[databases]\n"
            f"mig = host={server.folder} port={server.port} dbname=mig\n"
            "[pgbouncer]\n"
            f"pool_mode = {mode}\n"
            "default_pool_size = 20\n"
            "listen_addr =\n"
            f"listen_port = {self._port}\n"
            f"unix_socket_dir = {self.folder}\n"
            "auth_type = trust\n"
            f"auth_file = {self.folder}/users\n"
        )
        for file in self.folder.iterdir():
            os.chown(file, ACCOUNT.pw_uid, ACCOUNT.pw_gid)
        self.program = Program([program, self.folder / "pgbouncer.ini"], self.folder)
        self.dsn = make_dsn(host=str(self.folder), port=self._port, user=OWNER_ROLE, dbname="mig")
        wait_for(self._is_ready)

    def _is_ready(self) -> bool:
        self.program.check_running()
        return (self.folder / f".s.PGSQL.{self._port}").exists()


@contextmanager
def make_cluster() -> Iterator[Cluster]:
    """Make a folder for servers, and delete it when they are stopped."""
    folder = Path(tempfile.mkdtemp(prefix="mig-api-cluster-"))
    os.chown(folder, ACCOUNT.pw_uid, ACCOUNT.pw_gid)
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)
