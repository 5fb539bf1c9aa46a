"""Actions are built, signed by the real gpg, submitted, and followed until they end."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.web.client import Agent as HTTPAgent

from mig.client import MIGClient, RequestError, UnauthorizedError, WaitTimeoutError
from mig.client.credentials import TOKEN_SECONDS, TokenCredentials
from mig.client.signer import Action, InvalidActionError, Signer, SigningError
from mig.model.permissions import ALL_PERMISSIONS
from tests.support.api import Api
from tests.support.callers import add_investigator
from tests.support.keys import Keys
from tests.support.postgres import TestDatabase
from tests.support.reactor import reactor
from tests.support.skipping_clock import SkippingClock
from tests.support.submissions import build_text

OPERATIONS = [
    {"module": "file", "parameters": {"searches": {"a": {"paths": ["/etc"], "<&>": 1e21}}}}
]
STALL_SECONDS = 1000.0
NOW = 1_767_323_045.9  # 2026-01-02T03:04:05.9Z


def build_action(name: str = "a name", expires: str | timedelta = "1h") -> Action:
    return Action.build(name, "os = 'linux'", OPERATIONS, expires)


def test_a_new_action_is_valid_from_one_minute_ago() -> None:
    action = Action.build("a", "b", OPERATIONS, "90m", wall_clock=lambda: NOW)
    assert action.validfrom == "2026-01-02T03:03:05Z"
    assert action.expireafter == "2026-01-02T04:34:05Z"
    assert Action.build("a", "b", OPERATIONS, timedelta(days=1)).syntaxversion == 2


def test_the_signed_text_is_that_of_the_service() -> None:
    action = build_action("ü <name>")
    assert action.signed_text == build_text(json.loads(action.to_json()))


@pytest.mark.parametrize(
    ("name", "target", "operations", "expires", "says"),
    [
        (" ", "b", OPERATIONS, "1h", "name"),
        ("a", "", OPERATIONS, "1h", "target"),
        ("a", "b", [], "1h", "operations"),
        ("a", "b", [{"parameters": {}}], "1h", "module"),
        ("a", "b", OPERATIONS, "soon", "duration"),
        ("a", "b", [{"module": "file", "parameters": {"n": float("nan")}}], "1h", "JSON"),
    ],
)
def test_an_action_that_would_be_refused_is_not_built(
    name: str, target: str, operations: list[dict[str, object]], expires: str, says: str
) -> None:
    with pytest.raises(InvalidActionError, match=says):
        Action.build(name, target, operations, expires)


def test_an_action_with_a_member_twice_is_not_parsed() -> None:
    text = build_action().to_json()
    with pytest.raises(InvalidActionError, match="twice"):
        Action.parse(text.replace('"name":', '"name": "other", "name":', 1))
    assert Action.parse(text).name == "a name"


@pytest_twisted.ensureDeferred
async def test_signatures_of_two_investigators_are_verified(keys: Keys) -> None:
    alice, bob = (Signer(key.fingerprint, home=str(keys.home)) for key in (keys.alice, keys.bob))
    action = await build_action().sign(alice)
    both = await action.sign(bob)
    assert len(action.pgpsignatures) == 1
    found = await both.verify(alice)
    assert [each.fingerprint for each in found] == [keys.alice.fingerprint, keys.bob.fingerprint]
    assert {each.form for each in found} == {"unix"}


@pytest_twisted.ensureDeferred
async def test_an_action_that_was_changed_is_not_verified(keys: Keys) -> None:
    signer = Signer(keys.alice.fingerprint, home=str(keys.home))
    action = await build_action().sign(signer)
    text = action.to_json()
    for changed in (text.replace("a name", "another"), text.replace("/etc", "/usr")):
        with pytest.raises(SigningError, match="not good"):
            await Action.parse(changed).verify(signer)
    with pytest.raises(SigningError, match="base64"):
        await Action.parse(text.replace('pgpsignatures": ["', 'pgpsignatures": ["!')).verify(signer)


@pytest_twisted.ensureDeferred
async def test_a_missing_key_is_never_replaced_by_another(keys: Keys) -> None:
    assert keys.alice
    with pytest.raises(SigningError, match="did not sign"):
        await Signer("0123456789ABCDEF", home=str(keys.home)).sign(b"text")
    with pytest.raises(SigningError, match="hexadecimal"):
        Signer("--yes")


@pytest_twisted.ensureDeferred
async def test_an_action_is_submitted_and_followed_until_it_ends(
    api: Api, database: TestDatabase, keys: Keys
) -> None:
    add_investigator(database, key=keys.alice)
    action = await build_action().sign(Signer(keys.alice.fingerprint, home=str(keys.home)))
    clock = SkippingClock(STALL_SECONDS)
    client = MIGClient(
        api.base, reactor=clock, agent=HTTPAgent(reactor), stall_seconds=STALL_SECONDS
    )
    async with client:
        created = await client.create_action(action)
        assert (created.name, created.status) == ("a name", "init")
        assert (await client.create_action(action)).id == created.id
        with pytest.raises(WaitTimeoutError, match="init"):
            await client.wait(created, timeout_seconds=0)
        statuses = []

        def complete(found: object) -> None:
            statuses.append(found)
            database.execute("update actions set status = 'completed'")

        ended = await client.wait(created.id, on_change=complete)
        assert ended.status == "completed"
        assert len(statuses) == 2
        assert clock.pauses == [1.0]
        with pytest.raises(RequestError, match="signature"):
            await client.create_action(Action.parse(action.to_json().replace("a name", "b")))


@pytest_twisted.ensureDeferred
async def test_investigators_are_added_and_changed(
    api: Api, database: TestDatabase, keys: Keys
) -> None:
    async with MIGClient(api.base) as client:
        made = await client.create_investigator("Alice", keys.alice.armored)
        assert made.pgpfingerprint == keys.alice.fingerprint
        with pytest.raises(RequestError) as conflict:
            await client.create_investigator("Alice", keys.alice.armored)
        assert conflict.value.status == 409
        program = await client.create_investigator("a program", "", {"search": True})
        assert program.permissions["search"]
        disabled = await client.update_investigator(made.id, status="disabled")
        assert disabled.status == "disabled"
        changed = await client.update_investigator(program.id, permissions={"action": True})
        assert changed.permissions["action"]


@pytest_twisted.ensureDeferred
async def test_tokens_are_made_once_and_again_when_refused(
    database: TestDatabase, keys: Keys
) -> None:
    add_investigator(database, key=keys.alice, permissions=ALL_PERMISSIONS)
    signer = CountingSigner(keys)
    api = Api(database.dsn, handoff="none", authentication=True)
    offset = -3600.0  # tokens of that time are refused
    try:
        async with MIGClient(api.base, signer, wall_clock=lambda: time.time() + offset) as client:
            with pytest.raises(UnauthorizedError):
                await client.dashboard()
            assert signer.count == 2
            offset = 0
            await client.dashboard()
            await client.dashboard()
            assert signer.count == 3
    finally:
        await api.stop()


@pytest_twisted.ensureDeferred
async def test_requests_at_once_share_one_token(keys: Keys) -> None:
    signer = CountingSigner(keys)
    credentials = TokenCredentials(signer, lambda: NOW)
    waiting = [Deferred.fromCoroutine(credentials.make_headers()) for _ in range(10)]
    waiting[0].addErrback(lambda _: None)
    waiting[0].cancel()  # who gives up does not stop the others
    made = await gatherResults(waiting[1:])
    assert len({headers["X-PGPAUTHORIZATION"] for headers in made}) == 1
    assert signer.count <= 2


class CountingSigner:
    """A signer that counts its signatures."""

    def __init__(self, keys: Keys) -> None:
        self._signer = Signer(keys.alice.fingerprint, home=str(keys.home))
        self.count = 0

    async def sign(self, text: bytes) -> str:
        self.count += 1
        return await self._signer.sign(text)


@pytest_twisted.ensureDeferred
async def test_a_token_is_used_until_shortly_before_its_end(keys: Keys) -> None:
    now = NOW
    signer = CountingSigner(keys)
    credentials = TokenCredentials(signer, lambda: now)
    first = await credentials.make_headers()
    now += TOKEN_SECONDS - 1
    assert await credentials.make_headers() == first
    now += 2
    assert await credentials.make_headers() != first
    assert signer.count == 2
