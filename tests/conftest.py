"""Fixtures: one PostgreSQL for the run, a database for each test, and the API on a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_twisted

from mig.demo.postgres import EmbeddedPostgres
from mig.limits import Limits
from tests.support.api import Api
from tests.support.browser import Browser
from tests.support.certificates import Certificate
from tests.support.keys import Keys
from tests.support.postgres import (
    Databases,
    NewDatabase,
    TestDatabase,
    insert_many_commands,
    run_server,
)
from tests.support.properties import load_profile
from tests.support.scripted_server import ScriptedAnswer, ScriptedServer
from tests.support.temporary_folder import use_memory

load_profile()
use_memory()


@pytest.fixture(scope="session")
def postgres(twisted_greenlet: object) -> Iterator[EmbeddedPostgres]:
    with run_server() as server:
        yield server


@pytest.fixture
def new_database(postgres: EmbeddedPostgres) -> Iterator[NewDatabase]:
    databases = Databases(postgres)
    yield databases.create
    databases.drop_all()


@pytest.fixture
def database(new_database: NewDatabase) -> TestDatabase:
    return new_database()


@pytest.fixture
def large_database(database: TestDatabase) -> TestDatabase:
    """Return a database whose report is some 40 MB."""
    insert_many_commands(database)
    return database


@pytest.fixture(scope="session")
def keys() -> Iterator[Keys]:
    made = Keys()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return a browser; each test opens pages of its own."""
    running = Browser(tmp_path_factory.mktemp("browser"))
    yield running
    running.stop()


@pytest_twisted.async_yield_fixture
async def api(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Api]:
    running = Api(database.dsn, tmp_path / "spool")
    yield running
    await running.stop()


@pytest_twisted.async_yield_fixture
async def start_api(
    database: TestDatabase, tmp_path: Path
) -> AsyncIterator[Callable[[Limits], Api]]:
    """Return a function that starts an API of the database with other limits."""
    running: list[Api] = []

    def start(limits: Limits) -> Api:
        spool = tmp_path / f"spool-{len(running)}"
        running.append(Api(database.dsn, spool, limits=limits))
        return running[-1]

    yield start
    for each in running:
        await each.stop()


@pytest_twisted.async_yield_fixture
async def serve() -> AsyncIterator[Callable[..., ScriptedServer]]:
    """Return a function that starts a server with some answers."""
    servers = []

    def start(
        *answers: ScriptedAnswer | None, certificate: Certificate | None = None
    ) -> ScriptedServer:
        servers.append(ScriptedServer(*answers, certificate=certificate))
        return servers[-1]

    yield start
    for server in servers:
        await server.stop()
