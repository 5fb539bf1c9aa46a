"""What one service changes of a caller counts in another one from its next request on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred

from mig.model.permissions import ALL_PERMISSIONS
from tests.support.api import Api
from tests.support.callers import (
    Headers,
    add_api_key,
    add_investigator,
    make_token,
    with_key,
    with_token,
)
from tests.support.fleet import insert_rows, make_agent
from tests.support.keys import Keys
from tests.support.postgres import TestDatabase
from tests.support.properties import REPETITIONS

TOGGLES = 20 * REPETITIONS
AGENT = "/agent?agentid=2"
SEARCH = "/search?type=agent"


@pytest_twisted.async_yield_fixture
async def services(database: TestDatabase, tmp_path: Path) -> AsyncIterator[tuple[Api, Api]]:
    """Return two services that require credentials, as in two processes."""
    insert_rows(database.dsn, "agents", [make_agent(2)])
    first = Api(database.dsn, tmp_path / "spool", authentication=True)
    second = Api(database.dsn, tmp_path / "spool", authentication=True)
    yield first, second
    await first.stop()
    await second.stop()


async def repeat(api: Api, headers: Headers) -> None:
    """Send requests one after the other; each is answered as for a valid or a disabled caller."""
    while True:
        for path in (AGENT, SEARCH):
            answer = await api.get(path, headers=headers)
            assert answer.code in (200, 401), answer.body


@pytest.mark.parametrize("kind", ["token", "key"])
@pytest_twisted.ensureDeferred
async def test_a_caller_who_is_disabled_in_one_is_refused_by_the_other_at_once(
    services: tuple[Api, Api], database: TestDatabase, keys: Keys, kind: str
) -> None:
    """And accepted again as soon as they are enabled, while others keep both busy."""
    first, second = services
    admin = with_key(
        add_api_key(database, add_investigator(database, "admin", permissions=ALL_PERMISSIONS))
    )
    toggled = add_investigator(database, "alice", keys.alice)
    if kind == "key":
        headers = with_key(add_api_key(database, toggled))
    else:
        headers = with_token(make_token(keys, keys.alice))
    for api in services:  # both know the credential, so that none of what follows is a guess
        assert (await api.get(SEARCH, headers=headers)).code == 200
    busy = [Deferred.fromCoroutine(repeat(api, headers)) for api in services for _ in range(4)]
    for n in range(TOGGLES):
        for status, code in (("disabled", 401), ("active", 200)):
            form = {"id": str(toggled), "status": status}
            answer = await first.request("POST", "/investigator/update/", data=form, headers=admin)
            assert answer.code == 200, answer.body
            for path in (AGENT, SEARCH) if n % 2 else (SEARCH, AGENT):
                answer = await second.get(path, headers=headers)
                assert answer.code == code, (n, path, answer.body)
    for running in busy:
        assert not running.called
        running.cancel()
        running.addErrback(lambda failure: failure.trap(CancelledError))
