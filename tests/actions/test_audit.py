"""Each accepted action is a row of the audit, in the same transaction."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_twisted

from mig.access.caller import ANONYMOUS
from mig.actions.submission import parse_operations, parse_signed_time
from mig.model.permissions import Permission
from mig.signing.canonical import Signable, encode_operations
from tests.support.api import Api
from tests.support.audit import CAROL, FixedCaller, read_audit
from tests.support.callers import (
    add_api_key,
    add_investigator,
    make_token,
    with_key,
    with_token,
)
from tests.support.json_types import JsonObject
from tests.support.keys import Keys
from tests.support.postgres import TestDatabase
from tests.support.submissions import (
    Case,
    assert_accepted,
    assert_refused,
    check_nothing_stored,
    make_action,
)


@pytest.fixture
def caller() -> FixedCaller:
    return FixedCaller()


@pytest_twisted.async_yield_fixture
async def service(
    database: TestDatabase, tmp_path: Path, caller: FixedCaller
) -> AsyncIterator[Api]:
    running = Api(database.dsn, tmp_path / "spool", authenticate=caller)
    yield running
    await running.stop()


@pytest.fixture
def case(database: TestDatabase, keys: Keys) -> Case:
    return Case(keys, database)


def find_identity(action: JsonObject) -> str:
    signable = Signable(
        name=action["name"],
        target=action["target"],
        validfrom=parse_signed_time("validfrom", action["validfrom"]),
        expireafter=parse_signed_time("expireafter", action["expireafter"]),
        operations=encode_operations(parse_operations(action["operations"])),
    )
    return signable.identity.hex()


@pytest_twisted.ensureDeferred
async def test_an_action_is_recorded_with_its_poster_and_its_signers(
    service: Api, database: TestDatabase, case: Case
) -> None:
    """The poster is another person; a second signature by a signer is not a second signer."""
    bob = case.add_investigator(case.keys.bob)
    action = make_action()
    signatures = [
        case.make_signature(action, case.keys.bob),
        case.make_signature(action, case.keys.alice),
        case.make_signature(action, case.keys.bob, form="gotime"),
    ]
    action_id = (await assert_accepted(service, {**action, "pgpsignatures": signatures}))["id"]
    [row] = read_audit(database)
    assert row.pop("operation").isdigit()
    assert row == {
        "caller": 7,
        "callername": "Carol",
        "key": 3,
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/action/create/",
        "object": "action",
        "objectid": action_id,
        "before": None,
        "after": {
            "id": action_id,
            "name": "Find the backdoor",
            "signers": [bob, case.ids[case.keys.alice.fingerprint]],
            "identity": find_identity(action),
        },
        "outcome": "done",
        "count": 1,
    }


@pytest_twisted.ensureDeferred
async def test_the_operation_of_the_row_is_that_of_the_request(
    service: Api, database: TestDatabase, case: Case
) -> None:
    answer = await service.request("POST", "/action/create/", json=case.sign_action(make_action()))
    assert answer.code == 202
    assert read_audit(database)[0]["operation"] == answer.get_header("X-Request-Id")


@pytest_twisted.ensureDeferred
async def test_an_action_of_anyone_is_recorded_while_authentication_is_off(
    service: Api, database: TestDatabase, case: Case, caller: FixedCaller
) -> None:
    caller.caller = ANONYMOUS
    await assert_accepted(service, case.sign_action(make_action()))
    [row] = read_audit(database)
    assert (row["caller"], row["callername"], row["key"]) == (None, "anonymous", None)


@pytest_twisted.ensureDeferred
async def test_an_action_posted_again_is_recorded_only_with_a_new_signer(
    service: Api, database: TestDatabase, case: Case
) -> None:
    """Its signature is not stored, but its signer wanted the same action."""
    bob = case.add_investigator(case.keys.bob)
    action = make_action()
    good = case.sign_action(action)
    action_id = (await assert_accepted(service, good))["id"]
    for again in (good, {**good, "threat": {}}, case.sign_action(action, "gotime")):
        await assert_accepted(service, again)
    assert len(read_audit(database)) == 1
    signatures = [case.make_signature(action, case.keys.bob)]
    assert (await assert_accepted(service, {**good, "pgpsignatures": signatures}))[
        "id"
    ] == action_id
    first, second = read_audit(database)
    assert (second["object"], second["objectid"]) == ("action", action_id)
    assert second["after"] == {**first["after"], "signers": [bob]}
    assert second["outcome"] == "accepted before"
    assert database.execute("select count(*) from signatures") == [(1,)]


NO_AUDIT = {
    "no privilege": "revoke insert on audit from migapi",
    "no table": "alter table audit rename to audit_of_old",
    "no sequence": "revoke usage on sequence audit_id_seq from migapi",
    "no partition": "drop table audit_default; alter table audit detach partition audit_%s",
    "a condition": "alter table audit add check (callername <> 'Carol')",
}


@pytest.mark.parametrize("fault", NO_AUDIT)
@pytest_twisted.ensureDeferred
async def test_without_audit_no_action_is_accepted(
    service: Api, database: TestDatabase, case: Case, fault: str
) -> None:
    [[month]] = database.execute("select to_char(now() at time zone 'UTC', 'YYYY_MM')")
    database.execute(NO_AUDIT[fault].replace("%s", month))
    says = "the audit cannot be written, so nothing has been changed"
    await assert_refused(service, case.sign_action(make_action()), says, 503)
    check_nothing_stored(service, database)


@pytest_twisted.ensureDeferred
async def test_the_longest_names_are_recorded_whole(
    service: Api, database: TestDatabase, case: Case, caller: FixedCaller
) -> None:
    caller.caller = replace(CAROL, name="é" * 1024, permissions=Permission.ACTION_CREATE)
    await assert_accepted(service, case.sign_action(make_action(name="n" * 2048)))
    [row] = read_audit(database)
    assert (len(row["callername"]), len(row["after"]["name"])) == (1024, 2048)


@pytest_twisted.ensureDeferred
async def test_callers_are_recorded_by_their_credentials_and_never_with_them(
    database: TestDatabase, tmp_path: Path, case: Case
) -> None:
    """An action posted with an API key, and another one with a token; then what was refused."""
    database.execute("select setval('investigators_id_seq', 100)")
    carol = add_investigator(database, "carol", case.keys.bob)
    key, token = add_api_key(database, carol), make_token(case.keys, case.keys.bob)
    api = Api(database.dsn, tmp_path / "spool", authentication=True)
    signed = [case.sign_action(make_action(name=f"action {n}")) for n in range(2)]
    secrets = [key.split("_")[2], token.rpartition(";")[2]]
    secrets += [signature for action in signed for signature in action["pgpsignatures"]]
    for action, headers in zip(signed, (with_key(key), with_token(token)), strict=True):
        data = {"action": json.dumps(action)}
        answer = await api.request("POST", "/action/create/", data=data, headers=headers)
        assert answer.code == 202, answer.body
    for name in (*secrets, "action\n\x1b[2J\u202e"):
        data = {name: name, "action": name}
        answer = await api.request("POST", "/action/create/", data=data, headers=with_key(key))
        assert answer.code == 400, answer.body
    assert (await api.get("/audit", headers=with_token(token, "192.0.2.7"))).code == 403
    assert (await api.get("/audit", headers=with_key("mig_1_x"))).code == 401
    await api.stop()
    by_key, by_token, *refused = read_audit(database)
    assert [(row["caller"], row["callername"]) for row in (by_key, by_token)] == [
        (carol, "carol")
    ] * 2
    assert (by_key["key"], by_token["key"]) == (int(key.split("_")[1]), None)
    assert {row["path"] for row in refused} == {"/action/create/", "/audit"}
    assert [row["client"] for row in refused if row["path"] == "/audit"] == ["192.0.2.7"]
    [[text]] = database.execute("select string_agg(a::text, '') from audit a")
    assert text.isprintable()
    for part in (secret[n : n + 16] for secret in secrets for n in range(0, len(secret), 16)):
        assert len(part) < 16 or part not in text
