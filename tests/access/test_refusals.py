"""A client that sends wrong credentials costs little, and keeps nobody else waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults

from mig.access.apikeys import make_key
from mig.access.tokenverifier import BATCHES_AT_ONCE
from mig.database.connection import Connection
from mig.limits import Limits
from mig.signing.gpg.process import GpgRunner
from tests.support.api import Answer, Api
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

AGENT = "/agent?agentid=2"
SEARCH = "/search?type=agent"
ATTACKER, OTHER = "192.0.2.1", "198.51.100.1"
MAX_FAILURES = Limits().failures_per_minute


@pytest_twisted.async_yield_fixture
async def closed_api(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Api]:
    insert_rows(database.dsn, "agents", [make_agent(2)])
    limits = Limits(rate=1_000_000, burst=1_000_000)  # a flood must not end before credentials
    api = Api(database.dsn, tmp_path / "spool", authentication=True, limits=limits)
    yield api
    await api.stop()


@pytest.fixture
def gpg_runs(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Return a list that has an element for each run of gpg."""
    runs: list[None] = []
    start = GpgRunner._start_process

    def count(self: GpgRunner, *arguments: object) -> object:
        runs.append(None)
        return start(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(GpgRunner, "_start_process", count)
    return runs


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which each statement is added that PostgreSQL gets."""
    found: list[str] = []
    execute = Connection._execute

    def record(self: Connection, sql: str, *arguments: object) -> object:
        found.append(sql)
        return execute(self, sql, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Connection, "_execute", record)
    return found


async def get_all(api: Api, requests: list[Headers], path: str = SEARCH) -> list[Answer]:
    """Send all requests, at most 50 at the same time."""
    turns = DeferredSemaphore(50)

    def get(headers: Headers) -> Deferred[Answer]:
        return Deferred.fromCoroutine(api.get(path, headers=headers))

    return await gatherResults([turns.run(get, headers) for headers in requests])


def count_codes(answers: list[Answer]) -> dict[int, int]:
    codes = [answer.code for answer in answers]
    return {code: codes.count(code) for code in sorted(set(codes))}


async def exhaust(api: Api, address: str = ATTACKER) -> None:
    """Send wrong keys from an address until it has to wait."""
    for n in range(MAX_FAILURES):
        answer = await api.get(SEARCH, headers=with_key(make_key(1000 + n), address))
        assert answer.code == 401
    answer = await api.get(SEARCH, headers=with_key(make_key(1), address))
    assert answer.code == 429
    assert 1 <= int(answer.get_header("Retry-After")) <= 60
    assert "wrong credentials in a minute; wait" in answer.document["error"]["message"]


@pytest_twisted.ensureDeferred
async def test_after_twenty_failures_only_what_is_proven_is_accepted(
    closed_api: Api, database: TestDatabase, keys: Keys, gpg_runs: list[None]
) -> None:
    owner = add_investigator(database, key=keys.alice)
    known = with_token(make_token(keys, keys.alice), OTHER)
    assert (await closed_api.get(SEARCH, headers=known)).code == 200
    await exhaust(closed_api)
    gpg_runs.clear()
    for headers, code in (
        (with_token(make_token(keys, keys.alice), ATTACKER), 429),
        (with_token(make_token(keys, keys.stranger), ATTACKER), 429),
        (with_token("malformed", ATTACKER), 429),
        (with_token(make_token(keys, keys.alice, age=700), ATTACKER), 401),
        (with_key("some text", ATTACKER), 429),
        ({**known, "X-Forwarded-For": ATTACKER}, 200),
        (with_key(add_api_key(database, owner), ATTACKER), 200),
    ):
        for path in (SEARCH, AGENT):
            assert (await closed_api.get(path, headers=headers)).code == code, headers
    assert not gpg_runs
    assert (await closed_api.get("/heartbeat", headers=with_key("x", ATTACKER))).code == 200
    for _ in range(3):
        headers = with_token(make_token(keys, keys.alice), OTHER)
        assert (await closed_api.get(SEARCH, headers=headers)).code == 200


@pytest_twisted.ensureDeferred
async def test_who_succeeded_lately_is_not_refused_for_others_behind_the_same_address(
    closed_api: Api, database: TestDatabase, keys: Keys
) -> None:
    add_investigator(database, key=keys.alice)
    first, second = (with_token(make_token(keys, keys.alice), ATTACKER) for _ in range(2))
    assert (await closed_api.get(SEARCH, headers=first)).code == 200
    await exhaust(closed_api)
    assert (await closed_api.get(SEARCH, headers=second)).code == 200


@pytest_twisted.ensureDeferred
async def test_a_key_with_a_wrong_checksum_needs_no_query(
    closed_api: Api, statements: list[str]
) -> None:
    good = make_key(1)
    for n in range(MAX_FAILURES + 5):
        answer = await closed_api.get(SEARCH, headers=with_key(f"{good[:-1]}_", ATTACKER))
        assert answer.code == (401 if n < MAX_FAILURES else 429)
    assert statements == []


@pytest_twisted.ensureDeferred
async def test_known_and_unknown_key_ids_cost_the_same_statements(
    closed_api: Api, database: TestDatabase, statements: list[str]
) -> None:
    add_api_key(database, add_investigator(database))
    sent = []
    for key_id in (99, 1, 98, 1):
        statements.clear()
        answer = await closed_api.get(SEARCH, headers=with_key(make_key(key_id)))
        sent.append((answer.code, answer.document["error"]["message"], len(statements)))
    assert sent[1:] == [(401, "the API key is not valid", 1)] * 3


@pytest_twisted.ensureDeferred
async def test_an_unknown_key_needs_no_gpg_and_a_bad_token_only_once(
    closed_api: Api, database: TestDatabase, keys: Keys, gpg_runs: list[None]
) -> None:
    """Also when they come at the same time."""
    add_investigator(database, key=keys.alice)
    unknown = with_token(make_token(keys, keys.stranger))
    assert count_codes(await get_all(closed_api, [unknown] * 10)) == {401: 10}
    assert not gpg_runs
    bad = with_token(make_token(keys, keys.alice, text=b"x"), OTHER)
    codes = count_codes(await get_all(closed_api, [bad] * 30))
    assert set(codes) <= {401, 429}
    assert len(gpg_runs) == 2  # the first one ever asks for gpg's version
    codes = count_codes(await get_all(closed_api, [bad] * 30))
    assert codes == {429: 30}


@pytest_twisted.ensureDeferred
async def test_a_flood_of_bad_tokens_runs_gpg_a_bounded_number_of_times(
    closed_api: Api, database: TestDatabase, keys: Keys, gpg_runs: list[None]
) -> None:
    add_investigator(database, key=keys.alice)
    signature = make_token(keys, keys.alice).rpartition(";")[2]
    head = make_token(keys, keys.alice).rsplit(";", 2)[0]
    flood = [with_token(f"{head};9{n:08};{signature}", ATTACKER) for n in range(200 * REPETITIONS)]
    codes = count_codes(await get_all(closed_api, flood))
    assert set(codes) <= {401, 429, 503} and codes[429] > 50, codes
    assert len(gpg_runs) <= 2 * (MAX_FAILURES + BATCHES_AT_ONCE * Limits().shared_signatures)
    headers = with_token(make_token(keys, keys.alice), OTHER)
    assert (await closed_api.get(SEARCH, headers=headers)).code == 200
