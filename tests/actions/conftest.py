"""One database for the tests of this folder, and keys and signed actions for it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mig.demo.postgres import EmbeddedPostgres
from tests.support.keys import Keys
from tests.support.postgres import TestDatabase
from tests.support.submissions import Case


@pytest.fixture(scope="package")
def shared_database(postgres: EmbeddedPostgres) -> Iterator[TestDatabase]:
    admin = TestDatabase(dsn=postgres.format_dsn())
    admin.execute("create database attacked template template1")
    yield TestDatabase(dsn=postgres.format_dsn(database="attacked"))
    admin.execute("drop database attacked with (force)")


@pytest.fixture
def empty_database(shared_database: TestDatabase) -> TestDatabase:
    """Empty the shared database: to create one takes longer than a test."""
    shared_database.execute(
        "delete from submissions; delete from signatures; delete from actions;"
        " delete from audit; delete from investigators"
    )
    return shared_database


@pytest.fixture
def case(keys: Keys, empty_database: TestDatabase) -> Case:
    return Case(keys, empty_database)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of temporary files during the test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
