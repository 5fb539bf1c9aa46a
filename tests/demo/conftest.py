"""The demo beside the API of its database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_twisted

from mig.demo.fleet import load_fleet
from mig.demo.postgres import EmbeddedPostgres
from tests.support.api import Api
from tests.support.demo import NOW, Demo
from tests.support.keys import Keys
from tests.support.postgres import Databases, NewDatabase, TestDatabase


@pytest.fixture(scope="session")
def fleet_template(postgres: EmbeddedPostgres) -> Iterator[str]:
    """Return the name of a database that has the demo's fleet."""
    databases = Databases(postgres)
    load_fleet(databases.create().dsn, NOW)
    [name] = databases.names
    yield name
    databases.drop_all()


@pytest.fixture
def database(fleet_template: str, new_database: NewDatabase) -> TestDatabase:
    """Return a database with the demo's fleet."""
    return new_database(fleet_template)


@pytest.fixture
def empty_database(new_database: NewDatabase) -> TestDatabase:
    return new_database()


@pytest_twisted.async_yield_fixture
async def demo(api: Api, database: TestDatabase, keys: Keys) -> AsyncIterator[Demo]:
    """Return a demo in which Alice is an investigator."""
    running = Demo(api, database, keys)
    await running.add_investigator()
    yield running
    running.stop()
