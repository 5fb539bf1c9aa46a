"""Fixtures: servers that answer with what the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest_twisted

from tests.support.scripted_server import ScriptedAnswer, ScriptedServer


@pytest_twisted.async_yield_fixture
async def serve() -> AsyncIterator[Callable[..., ScriptedServer]]:
    """Return a function that starts a server with some answers."""
    servers = []

    def start(*answers: ScriptedAnswer | None) -> ScriptedServer:
        servers.append(ScriptedServer(*answers))
        return servers[-1]

    yield start
    for server in servers:
        await server.stop()
