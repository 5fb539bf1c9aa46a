"""A gpg for each test."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest_twisted

from mig.signing.gpg.verify import Gpg
from tests.support.reactor import reactor


@pytest_twisted.async_yield_fixture
async def gpg() -> AsyncIterator[Gpg]:
    running = Gpg(reactor, time.time)
    yield running
    await running.stop()
