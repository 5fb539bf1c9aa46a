"""A PostgreSQL server for a whole run, and databases in it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psycopg2
import pytest_twisted
from psycopg2.extensions import connection
from twisted.internet.defer import Deferred

from mig.database.database import Database
from mig.database.schema import migrate
from mig.demo.postgres import EmbeddedPostgres
from tests.support import fleet
from tests.support.reactor import reactor

FAST_SETTINGS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
MANY_COMMANDS = 20_000


@contextmanager
def run_server() -> Iterator[EmbeddedPostgres]:
    """Run a server whose template1 has the schema; needs pytest-twisted's greenlet."""
    folder = Path(tempfile.gettempdir()) / f"mig-api-test-{os.getpid()}"
    server = EmbeddedPostgres(reactor, folder, FAST_SETTINGS)

    async def start() -> None:
        server.lock_folder()
        await server.start()
        database = Database(reactor, server.format_dsn(database="template1"))
        await migrate.ensure_schema(database, upgrade=True)
        database.stop()

    pytest_twisted.blockon(Deferred.fromCoroutine(start()))
    yield server
    pytest_twisted.blockon(Deferred.fromCoroutine(server.stop()))
    server.delete_folder()


@dataclass(frozen=True, kw_only=True)
class TestDatabase:
    """A new database with the schema in it."""

    __test__ = False

    dsn: str

    def execute(self, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.dsn)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []


class NewDatabase(Protocol):
    """A function that creates a database; one from template0 is empty."""

    def __call__(self, template: str = "template1") -> TestDatabase: ...


class Databases:
    """The databases of one test."""

    _created = 0

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server
        self.names: list[str] = []

    def create(self, template: str = "template1") -> TestDatabase:
        Databases._created += 1
        name = f"test_{Databases._created}"
        self.names.append(name)
        admin = TestDatabase(dsn=self._server.format_dsn())
        # file_copy: without fsync it takes two thirds of the time of the default
        admin.execute(f"create database {name} template {template} strategy file_copy")
        return TestDatabase(dsn=self._server.format_dsn(database=name))

    def drop_all(self) -> None:
        admin = TestDatabase(dsn=self._server.format_dsn())
        for name in self.names:
            admin.execute(f"drop database {name} with (force)")


def insert_many_commands(database: TestDatabase, count: int = MANY_COMMANDS) -> None:
    """Insert commands, whose report is some 2 kB for each."""
    fleet.insert_rows(database.dsn, "actions", [fleet.make_action(1)])
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1)])
    database.execute(
        "insert into commands select case when n %% 2 = 0 then n else n::numeric(37, 17) end, 1, 1,"
        " 'success', %s::json, now() - n * interval '1 s', now()"
        f" from generate_series(1, {count}) n",
        (
            '[{{"elements":{{"a":[{}]}}}}]'.format(
                ",".join(['{"file":"/etc/passwd","search":{}}'] * 5)
            ),
        ),
    )


@contextmanager
def hold_transaction(database: TestDatabase, *statements: str) -> Iterator[connection]:
    """Keep another client's transaction open during the block."""
    with closing(psycopg2.connect(database.dsn)) as held:
        for statement in statements:
            held.cursor().execute(statement)
        yield held
