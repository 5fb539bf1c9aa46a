"""Keys made once for all tests, and a gpg of our own for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_twisted
from twisted.internet import reactor

from mig.signing.gpg import Gpg
from tests.signing.keys import Keys


@pytest.fixture(scope="session")
def keys() -> Iterator[Keys]:
    made = Keys()
    yield made
    made.close()


@pytest_twisted.async_yield_fixture
async def gpg() -> AsyncIterator[Gpg]:
    running = Gpg(reactor)
    yield running
    await running.stop()
