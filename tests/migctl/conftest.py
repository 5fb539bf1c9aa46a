"""A home without a configuration, and the API of a small fleet of today."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import fleet
from tests.support.api import Api
from tests.support.postgres import TestDatabase


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home folder of the user, who has configured nothing."""
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    for name in ("XDG_CONFIG_HOME", "MIG_URL", "MIG_API_KEY", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return path


@pytest.fixture
def service(
    api: Api, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestDatabase]:
    """Return the database of the service that MIG_URL names: three agents, all answers of them."""
    agents = [
        fleet.make_agent(
            number, name=f"web{number}", os="linux", queueloc=f"web{number}", heartbeattime="now"
        )
        for number in (1, 2, 3)
    ]
    fleet.insert_rows(database.dsn, "agents", agents)
    monkeypatch.setenv("MIG_URL", api.base)
    yield database
