"""Who is let in, and what the others are told, through the real site and the real gpg."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest
import pytest_twisted
from twisted.web.http_headers import Headers as RawHeaders

from mig.access.apikeys import make_key
from mig.errors import CredentialFault
from mig.model.permissions import ALL_PERMISSIONS, READONLY_PERMISSIONS, Permission
from tests.support.api import Answer, Api
from tests.support.callers import (
    Headers,
    add_api_key,
    add_investigator,
    make_token,
    with_key,
    with_token,
)
from tests.support.fleet import VECTORS, insert_rows, make_agent
from tests.support.keys import Keys
from tests.support.postgres import TestDatabase
from tests.support.reactor import record_log

AGENT = "/agent?agentid=2"
SEARCH = "/search?type=agent"
GUARDED, LOOKED_UP = AGENT, SEARCH
"""A path whose statement checks the caller, and one for which the gate does."""

OPEN_PATHS = ("/", "/heartbeat", "/ip", "/publickey/" + "0" * 40)


@pytest_twisted.async_yield_fixture
async def closed_api(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Api]:
    """Return an API that requires credentials, with an agent."""
    insert_rows(database.dsn, "agents", [make_agent(2)])
    api = Api(database.dsn, tmp_path / "spool", authentication=True)
    yield api
    await api.stop()


def read_message(answer: Answer) -> str:
    message: str = answer.document["error"]["message"]
    return message


async def assert_let_in(api: Api, headers: Headers, *paths: str) -> None:
    for path in paths or (LOOKED_UP, GUARDED, GUARDED):
        answer = await api.get(path, headers=headers)
        assert answer.code == 200, (path, answer.body)


FAULTS = {
    "has expired": CredentialFault.EXPIRED,
    "clock differs": CredentialFault.CLOCK,
    "unknown key": CredentialFault.UNKNOWN_KEY,
    "bad signature": CredentialFault.BAD_SIGNATURE,
    "API key is not valid": CredentialFault.API_KEY,
}
"""What the metrics count, by words of the message."""


async def assert_refused(api: Api, headers: Headers, says: str, *paths: str) -> None:
    for path in paths or (LOOKED_UP, GUARDED, GUARDED):
        answer = await api.get(path, headers=headers)
        told = read_message(answer)
        assert (answer.code, says in told) == (401, True), (path, answer.body)
        fault = next((fault for words, fault in FAULTS.items() if words in told), None)
        assert api.ended[-1].credential_fault == (fault or CredentialFault.OTHER)
        assert answer.get_header("WWW-Authenticate") == 'Bearer realm="mig-api"'


# No credentials, or several


@pytest_twisted.ensureDeferred
async def test_a_request_without_credentials_is_told_what_is_accepted(closed_api: Api) -> None:
    await assert_refused(
        closed_api,
        {},
        "this request needs credentials: a token in X-PGPAUTHORIZATION, or an API key in"
        " X-MIGAPIKEY or as Authorization: Bearer KEY",
    )


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"X-MIGAPIKEY": ["a", "a"]}, "has 2 credentials; send one: a token in X-PGPAUTHORIZATION"),
        ({"X-PGPAUTHORIZATION": ["a", "b"]}, "has 2 credentials"),
        ({"Authorization": ["Bearer a", "Bearer a"]}, "has 2 credentials"),
        ({"X-MIGAPIKEY": ["a"], "Authorization": ["Bearer a"]}, "has 2 credentials"),
        ({"X-MIGAPIKEY": ["a"], "X-PGPAUTHORIZATION": ["a"]}, "has 2 credentials"),
        ({"Authorization": ["Basic YTpi"]}, "the scheme of Authorization must be Bearer"),
        ({"Authorization": ["Bearer"]}, "the scheme of Authorization must be Bearer"),
        ({"Authorization": [""]}, "the scheme of Authorization must be Bearer"),
        ({"X-MIGAPIKEY": [""]}, "the API key is not valid"),
        ({"X-PGPAUTHORIZATION": [""]}, "X-PGPAUTHORIZATION must be 1;TIME;NONCE;SIGNATURE"),
        ({"X-PGPAUTHORIZATION": ["\u00e4\u00ff"]}, "X-PGPAUTHORIZATION must be 1;TIME;NONCE"),
        ({"X-MIGAPIKEY": ["\u00e4\u00ff" * 2000]}, "the API key is not valid"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_anything_but_one_credential_is_refused_and_told_why(
    closed_api: Api, headers: dict[str, list[str]], says: str
) -> None:
    raw: RawHeaders = RawHeaders()
    for name, values in headers.items():
        raw.setRawHeaders(name.encode(), [value.encode("latin-1") for value in values])
    answer = await closed_api.get(SEARCH, headers=raw)
    assert (answer.code, says in read_message(answer)) == (401, True), answer.body


@pytest_twisted.ensureDeferred
async def test_open_routes_ignore_credentials(closed_api: Api) -> None:
    """Nobody is refused there, whatever they send."""
    for headers in ({}, with_key("wrong"), with_token("wrong"), {"Authorization": "Basic x"}):
        for path in OPEN_PATHS:
            answer = await closed_api.get(path, headers=headers)
            assert answer.code == (404 if "publickey" in path else 200)
        answer = await closed_api.request("OPTIONS", SEARCH, headers=headers)
        assert answer.code == 204
        answer = await closed_api.get(closed_api.root + "/", headers=headers)
        assert answer.code == 302
    assert {event.caller for event in closed_api.ended} == {"-"}


# API keys


@pytest_twisted.ensureDeferred
async def test_an_api_key_is_accepted_in_both_headers(
    closed_api: Api, database: TestDatabase
) -> None:
    owner = add_investigator(database, "Bots R Us")
    key = add_api_key(database, owner)
    await assert_let_in(closed_api, with_key(key))
    await assert_let_in(closed_api, {"Authorization": f"Bearer {key}"})
    await assert_let_in(closed_api, {"Authorization": f"bearer   {key}"})
    assert {event.caller for event in closed_api.ended} == {f"Bots_R_Us/{owner}/1"}


@pytest_twisted.ensureDeferred
async def test_a_wrong_api_key_is_always_refused_alike(
    closed_api: Api, database: TestDatabase
) -> None:
    owner = add_investigator(database)
    disabled = add_investigator(database, status="disabled")
    good = add_api_key(database, owner)
    revoked = add_api_key(database, owner)
    database.execute("update apikeys set revokedat = now() where id = 2")
    for key in (
        "wrong",
        good[:-1],
        make_key(1),
        make_key(99),
        revoked,
        add_api_key(database, disabled),
        add_api_key(database, owner, expires="-1 s"),
    ):
        await assert_refused(closed_api, with_key(key), "the API key is not valid", SEARCH, AGENT)
    assert {event.caller for event in closed_api.ended} == {None}


@pytest_twisted.ensureDeferred
async def test_an_api_key_has_what_both_it_and_its_owner_have_at_each_use(
    closed_api: Api, database: TestDatabase
) -> None:
    owner = add_investigator(database, permissions=Permission.AGENT | Permission.SEARCH)
    key = with_key(add_api_key(database, owner, Permission.AGENT | Permission.ACTION))
    await assert_let_in(closed_api, key, AGENT, AGENT)
    answer = await closed_api.get(SEARCH, headers=key)
    assert (answer.code, read_message(answer)) == (403, "this request needs the permission search")
    answer = await closed_api.get("/action?actionid=1", headers=key)
    assert read_message(answer) == "this request needs the permission action"
    database.execute("update investigators set permissions = %s", (int(Permission.ACTION),))
    answer = await closed_api.get(AGENT, headers=key)
    assert (answer.code, read_message(answer)) == (403, "this request needs the permission agent")
    answer = await closed_api.get("/action?actionid=1", headers=key)
    assert answer.code == 404
    database.execute("update apikeys set permissions = %s", (int(Permission.COMMAND),))
    answer = await closed_api.get("/action?actionid=1", headers=key)
    assert (answer.code, read_message(answer)) == (403, "this request needs the permission action")


@pytest_twisted.ensureDeferred
async def test_the_last_use_of_a_key_is_written(closed_api: Api, database: TestDatabase) -> None:
    used = add_api_key(database, add_investigator(database))
    add_api_key(database, 1)
    await assert_let_in(closed_api, with_key(used), LOOKED_UP, GUARDED)
    assert closed_api.authenticator
    await closed_api.authenticator.stop()
    sql = "select keyid, lastused > now() - interval '1 minute' from apikeyuses"
    assert database.execute(sql) == [(1, True)]
    closed_api.authenticator.start()


# Changes of a caller


CHANGES = {
    "investigator disabled": (
        "update investigators set status = 'disabled'",
        "update investigators set status = 'active'",
    ),
    "key revoked": (
        "update apikeys set revokedat = now()",
        "update apikeys set revokedat = null",
    ),
    "key expired": (
        "update apikeys set expiresat = now()",
        "update apikeys set expiresat = null",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "path", [LOOKED_UP, GUARDED, "/agent?agentid=9", "/agent", "/command?commandid=x"]
)
@pytest_twisted.ensureDeferred
async def test_a_change_counts_from_the_next_request_on(
    closed_api: Api, database: TestDatabase, change: str, path: str
) -> None:
    """Also a request that is wrong is refused by 401 first, and keeps being so."""
    key = with_key(add_api_key(database, add_investigator(database)))
    forth, back = CHANGES[change]
    expected = (await closed_api.get(path, headers=key)).code
    for _ in range(12):
        database.execute(forth)
        for _ in range(2):
            assert (await closed_api.get(path, headers=key)).code == 401
        database.execute(back)
        for _ in range(2):
            assert (await closed_api.get(path, headers=key)).code == expected


@pytest_twisted.ensureDeferred
async def test_a_token_of_a_disabled_investigator_is_refused_at_once(
    closed_api: Api, database: TestDatabase, keys: Keys
) -> None:
    add_investigator(database, key=keys.alice)
    headers = with_token(make_token(keys, keys.alice))
    for _ in range(12):
        await assert_let_in(closed_api, headers)
        database.execute("update investigators set status = 'disabled'")
        await assert_refused(closed_api, headers, "unknown key")
        database.execute("update investigators set status = 'active'")


@pytest_twisted.ensureDeferred
async def test_a_token_ends_with_the_key_that_signed_it(
    closed_api: Api, database: TestDatabase, keys: Keys
) -> None:
    add_investigator(database, key=keys.alice)
    headers = with_token(make_token(keys, keys.alice))
    await assert_let_in(closed_api, headers)
    database.execute("update investigators set publickey = %s", (keys.stranger.armored.encode(),))
    await assert_refused(closed_api, headers, "unknown key: no active investigator has the key")
    await assert_let_in(closed_api, with_token(make_token(keys, keys.stranger)))


# Tokens


@pytest_twisted.ensureDeferred
async def test_a_token_as_clients_make_it_is_accepted_until_it_expires(
    closed_api: Api, database: TestDatabase, keys: Keys
) -> None:
    for key in (keys.alice, keys.rsa):
        owner = add_investigator(database, key.name, key)
        for age in (0, 595, -595):
            headers = with_token(make_token(keys, key, age=age))
            await assert_let_in(closed_api, headers)
            await assert_let_in(closed_api, headers)
        assert closed_api.ended[-1].caller == f"{key.name}/{owner}"


@pytest_twisted.ensureDeferred
async def test_the_token_of_a_real_client_is_accepted_at_its_time(
    database: TestDatabase, tmp_path: Path
) -> None:
    [recorded] = json.loads((VECTORS / "tokens.json").read_text())
    made_at = datetime.fromisoformat(recorded["made_at"]).timestamp()
    database.execute(
        "insert into investigators (id, name, publickey, status, createdat, lastmodified,"
        " permissions) values (7, 'bob', %s, 'active', now(), now(), 63)",
        ((VECTORS / "keys" / "bob.asc").read_bytes(),),
    )
    insert_rows(database.dsn, "agents", [make_agent(2)])
    now = made_at + 600
    api = Api(database.dsn, tmp_path / "spool", authentication=True, wall_clock=lambda: now)
    try:
        await assert_let_in(api, with_token(recorded["header"]))
        now += 1
        await assert_refused(api, with_token(recorded["header"]), "has expired")
    finally:
        await api.stop()


@pytest_twisted.ensureDeferred
async def test_a_client_learns_what_is_wrong_with_its_token(
    closed_api: Api, database: TestDatabase, keys: Keys
) -> None:
    add_investigator(database, "alice", keys.alice)
    add_investigator(database, "off", keys.bob, status="disabled")
    good = make_token(keys, keys.alice)
    head, _, signature = good.rpartition(";")
    old = make_token(keys, keys.alice, "--digest-algo", "SHA1")
    for token, says in {
        make_token(keys, keys.alice, age=700): "the token has expired: it was made 70",
        make_token(keys, keys.alice, age=-700): "clock differs by ",
        make_token(keys, keys.stranger): "unknown key",
        make_token(keys, keys.bob): "unknown key",
        make_token(keys, keys.alice, text=b"another"): "bad signature: the signature is bad",
        make_token(keys, keys.alice, text=head.encode()): "bad signature: the signature is bad",
        make_token(keys, keys.alice, "--textmode"): "bad signature: the signature's class is 0x01",
        old: "bad signature: SHA-1 is weak",
        f"{head};AAAA": "bad signature: this is not a signature",
        f"{head}0;{signature}": "bad signature: the signature is bad",
        f"{good};": "X-PGPAUTHORIZATION must be 1;TIME;NONCE;SIGNATURE",
    }.items():
        await assert_refused(closed_api, with_token(token), says, SEARCH)


@pytest_twisted.ensureDeferred
async def test_a_client_that_gets_401_for_an_old_token_retries_with_a_new_one(
    closed_api: Api, database: TestDatabase, keys: Keys
) -> None:
    """As clients of both generations do: one retry, which succeeds."""
    add_investigator(database, key=keys.alice)
    statuses = []
    for age in (700, 0):
        headers = with_token(make_token(keys, keys.alice, age=age))
        statuses.append((await closed_api.get(SEARCH, headers=headers)).code)
    assert statuses == [401, 200]


@pytest_twisted.ensureDeferred
async def test_a_known_token_is_not_accepted_as_an_api_key(
    closed_api: Api, database: TestDatabase, keys: Keys
) -> None:
    add_investigator(database, key=keys.alice)
    token = make_token(keys, keys.alice)
    await assert_let_in(closed_api, with_token(token))
    await assert_refused(closed_api, with_key(token), "the API key is not valid")
    key = add_api_key(database, 1)
    await assert_let_in(closed_api, with_key(key))
    await assert_refused(closed_api, with_token(key), "X-PGPAUTHORIZATION must be")


# What others may learn


@pytest_twisted.ensureDeferred
async def test_no_cache_keeps_what_needs_credentials(
    closed_api: Api, database: TestDatabase
) -> None:
    key = with_key(add_api_key(database, add_investigator(database)))
    for headers in (key, {}):
        for path in (GUARDED, LOOKED_UP, "/dashboard", "/investigator?investigatorid=1"):
            answer = await closed_api.get(path, headers=headers)
            assert answer.get_header("Cache-Control") == "no-store", path


@pytest_twisted.ensureDeferred
async def test_templates_need_the_permission_of_their_form(
    closed_api: Api, database: TestDatabase
) -> None:
    readonly = with_key(
        add_api_key(database, add_investigator(database, permissions=READONLY_PERMISSIONS))
    )
    admin = with_key(add_api_key(database, add_investigator(database, permissions=ALL_PERMISSIONS)))
    for noun in ("action/create", "investigator/create", "investigator/update"):
        path = f"/{noun}/"
        await assert_refused(closed_api, {}, "needs credentials", path)
        answer = await closed_api.get(path, headers=readonly)
        permission = noun.replace("/", "_")
        assert read_message(answer) == f"this request needs the permission {permission}"
        await assert_let_in(closed_api, admin, path)


@pytest_twisted.ensureDeferred
async def test_credentials_never_reach_the_log_or_an_answer(
    closed_api: Api, database: TestDatabase, keys: Keys
) -> None:
    add_investigator(database, key=keys.alice)
    good = make_token(keys, keys.alice)
    secrets = [
        good,
        make_token(keys, keys.alice, text=b"x"),
        make_token(keys, keys.stranger),
        add_api_key(database, 1),
        make_key(1),
        "an old key of someone",
    ]
    with record_log() as log:
        for secret in secrets:
            for headers in (with_token(secret), with_key(secret)):
                answer = await closed_api.get(SEARCH, headers=headers)
                assert secret.encode() not in answer.body
                assert secret.rpartition(";")[2].encode() not in answer.body
    text = "\n".join([*log.lines, *map(repr, closed_api.ended)])
    for secret in secrets:
        assert secret not in text and secret.rpartition(";")[2] not in text
