"""Nobody grants what they do not have, and somebody can always change investigators."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from mig.access.caller import ANONYMOUS, Caller
from mig.model.permissions import ALL_PERMISSIONS, DEFAULT_PERMISSIONS, Permission
from tests.support.api import Answer
from tests.support.chosen_callers import Console, run_console
from tests.support.fleet import VECTORS
from tests.support.postgres import TestDatabase
from tests.support.properties import REPETITIONS
from tests.support.reactor import record_log

CREATE, UPDATE = Permission.INVESTIGATOR_CREATE, Permission.INVESTIGATOR_UPDATE
BOB = (VECTORS / "keys" / "bob.asc").read_text()
OLD_KEY = "update investigators set apikey = sha256('k'), apisalt = '0123456789abcdef'"
LAST = "make another administrator first"


@pytest_twisted.async_yield_fixture
async def console(database: TestDatabase) -> AsyncIterator[Console]:
    async with run_console(database) as running:
        yield running


def read_message(answer: Answer) -> str:
    return str(answer.document["error"]["message"])


def list_investigators(console: Console) -> list[tuple[object, ...]]:
    return console.database.execute(
        "select id::int, status, permissions, lastmodified from investigators order by id"
    )


def encode(permissions: Permission) -> str:
    return json.dumps(permissions.to_json_value())


async def update(console: Console, caller: Caller, target: Caller, **fields: object) -> Answer:
    return await console.post(caller, "/investigator/update/", id=target.investigator_id, **fields)


@pytest_twisted.ensureDeferred
async def test_who_creates_gives_no_more_than_their_own(console: Console) -> None:
    """That includes the default set, when no permissions are given."""
    for permissions, fields, missing in (
        (CREATE, {}, "search"),
        (CREATE | Permission.SEARCH, {}, "action"),
        (CREATE, {"permissions": encode(Permission.SEARCH)}, "search"),
        (CREATE | DEFAULT_PERMISSIONS, {"permissions": encode(UPDATE)}, "investigator_update"),
        (CREATE | DEFAULT_PERMISSIONS, {"permissions": encode(ALL_PERMISSIONS)}, "loader"),
    ):
        creator = console.add(f"creator of {permissions} with {fields}", permissions)
        before = list_investigators(console)
        form = {"name": "Bob", "publickey": BOB, **fields}
        answer = await console.post(creator, "/investigator/create/", **form)
        assert answer.code == 403, answer.body
        assert f"permissions.{missing} cannot be given by a caller" in read_message(answer)
        assert list_investigators(console) == before
    assert console.list_audit() == []
    form["permissions"] = encode(permissions)
    answer = await console.post(creator, "/investigator/create/", **form)
    assert answer.code == 201, answer.body
    after = {"status": "active", "permissions": permissions.member_names}
    [(caller, noun, investigator_id, *state)] = console.list_audit()
    assert (caller, noun, state) == (creator.investigator_id, "investigator", [None, after])
    assert answer.get_header("Location").endswith(f"={investigator_id}")


@pytest_twisted.ensureDeferred
async def test_who_updates_adds_no_more_than_their_own(console: Console) -> None:
    """What somebody already has may stay, and may be taken away."""
    console.add("root")
    updater = console.add("updater", UPDATE | Permission.SEARCH)
    target = console.add("target", Permission.LOADER | Permission.AGENT)
    for permissions, missing in (
        (Permission.LOADER | Permission.MANIFEST, "manifest"),
        (Permission.SEARCH | CREATE, "investigator_create"),
    ):
        before = list_investigators(console)
        answer = await update(console, updater, target, permissions=encode(permissions))
        assert answer.code == 403, answer.body
        assert f"permissions.{missing} cannot be given" in read_message(answer)
        assert list_investigators(console) == before
    for permissions in (Permission.LOADER | Permission.SEARCH, Permission(0)):
        answer = await update(console, updater, target, permissions=encode(permissions))
        assert answer.code == 200, answer.body
    rows = [
        (before["permissions"], after["permissions"]) for *_, before, after in console.list_audit()
    ]
    assert rows == [(["agent", "loader"], ["search", "loader"]), (["search", "loader"], [])]
    answer = await update(console, updater, updater, permissions=encode(ALL_PERMISSIONS))
    assert answer.code == 403


@pytest_twisted.ensureDeferred
async def test_to_enable_somebody_is_to_grant_what_they_have(console: Console) -> None:
    root, target = console.add("root"), console.add("target")
    updater = console.add("updater", UPDATE)
    assert (await update(console, updater, target, status="disabled")).code == 200
    for caller in (updater, console.callers.add(ANONYMOUS)):
        answer = await update(console, caller, target, status="active")
        assert answer.code == 403, answer.body
    assert "`mig-api investigator` on the server" in read_message(answer)
    fields = {"status": "active", "permissions": encode(UPDATE)}
    assert (await update(console, updater, target, **fields)).code == 200
    assert (await update(console, root, target, permissions=encode(ALL_PERMISSIONS))).code == 200


@pytest_twisted.ensureDeferred
async def test_a_change_that_changes_nothing_is_not_recorded(console: Console) -> None:
    root = console.add("root")
    before = list_investigators(console)
    answer = await update(console, root, root, status="active", permissions=encode(ALL_PERMISSIONS))
    assert answer.code == 200, answer.body
    assert list_investigators(console) == before
    assert console.list_audit() == []


@pytest_twisted.ensureDeferred
async def test_the_last_administrator_stays(console: Console) -> None:
    """Others without a way in do not count, nor do those whose keys expire or may do less."""
    root = console.add("root")
    console.add("no way in", publickey=None)
    console.add("empty certificate", publickey=b"")
    expiring = console.add("expiring", publickey=None)
    scoped = console.add("scoped", publickey=None)
    revoked = console.add("revoked", publickey=None)
    console.add("creator", CREATE)
    former = console.add("former")
    for owner, fields in (
        (expiring, {"expires": "400d"}),
        (scoped, {"permissions": "readonly"}),
        (revoked, {}),
    ):
        owner_id = owner.investigator_id
        answer = await console.post(
            root, "/apikey/create/", name="k", investigatorid=owner_id, **fields
        )
        assert answer.code == 201, answer.body
    assert (await console.post(root, "/apikey/revoke/", id=3)).code == 200
    assert (await update(console, root, former, status="disabled")).code == 200
    before = list_investigators(console), console.list_audit()
    for fields in (
        {"status": "disabled"},
        {"permissions": encode(ALL_PERMISSIONS & ~UPDATE)},
        {"permissions": encode(UPDATE), "status": "disabled"},
    ):
        answer = await update(console, root, root, **fields)
        assert answer.code == 409, answer.body
        assert LAST in read_message(answer)
        answer = await update(console, console.callers.add(ANONYMOUS), root, status="disabled")
        assert answer.code == 409, answer.body
    assert (list_investigators(console), console.list_audit()) == before
    assert (await update(console, root, root, permissions=encode(UPDATE))).code == 200


@pytest_twisted.ensureDeferred
async def test_the_last_way_in_stays(console: Console) -> None:
    """It is a key without an end, which can be replaced before it is revoked."""
    robot = console.add("robot", publickey=None)
    ids = []
    for name in ("first", "second"):
        answer = await console.post(robot, "/apikey/create/", name=name)
        ids.append(answer.document["items"][0]["data"][0]["value"]["id"])
    assert (await console.post(robot, "/apikey/revoke/", id=ids[0])).code == 200
    before = console.list_audit()
    for answer in (
        await console.post(robot, "/apikey/revoke/", id=ids[1]),
        await update(console, robot, robot, apikey="disabled"),
    ):
        assert answer.code == 409, answer.body
        assert LAST in read_message(answer)
    assert console.list_audit() == before
    assert console.database.execute("select id from apikeys where revokedat is null") == [(ids[1],)]
    console.database.execute(OLD_KEY)
    assert (await console.post(robot, "/apikey/revoke/", id=ids[1])).code == 200
    assert (await update(console, robot, robot, apikey="disabled")).code == 409


@pytest_twisted.ensureDeferred
async def test_the_log_says_who_may_change_investigators_when_that_changes(
    console: Console,
) -> None:
    """In one line, whatever their names are."""
    root, target = console.add("root"), console.add("a\nb\u202e", DEFAULT_PERMISSIONS)
    changes = [
        {"permissions": encode(CREATE)},
        {"permissions": encode(CREATE | Permission.SEARCH)},
        {"status": "disabled"},
    ]
    with record_log() as log:
        for fields in changes:
            assert (await update(console, root, target, **fields)).code == 200
        refused = await update(console, root, root, permissions="{}")
        assert refused.code == 409
    start = "who may create or change investigators: "
    administrator = "1 'root' (investigator_create, investigator_update)"
    assert [line.removeprefix(start) for line in log.lines if line.startswith(start)] == [
        f"{administrator}; 2 'a\\nb\\u202e' (investigator_create)",
        administrator,
    ]


@pytest_twisted.ensureDeferred
async def test_the_audit_is_written_or_nothing_changes(console: Console) -> None:
    root, target = console.add("root"), console.add("target")
    made = await console.post(root, "/apikey/create/", name="k")
    assert made.code == 201
    console.database.execute("update investigators set apikey = 'k', apisalt = 's' where id = 2")
    console.database.execute("revoke insert on audit from migapi")
    state = (
        "select (select jsonb_agg(i) from investigators i), (select jsonb_agg(k) from apikeys k)"
    )
    before = console.database.execute(state)
    for path, fields in (
        ("/investigator/create/", {"name": "Eve", "permissions": "{}"}),
        ("/investigator/update/", {"id": target.investigator_id, "status": "disabled"}),
        ("/investigator/update/", {"id": target.investigator_id, "permissions": "{}"}),
        ("/investigator/update/", {"id": target.investigator_id, "apikey": "active"}),
        ("/investigator/update/", {"id": target.investigator_id, "apikey": "disabled"}),
        ("/apikey/create/", {"name": "x"}),
        ("/apikey/revoke/", {"id": 1}),
    ):
        answer = await console.post(root, path, **fields)
        assert answer.code == 503, answer.body
        assert "audit" in read_message(answer)
        assert console.database.execute(state) == before
    console.database.execute("grant insert on audit to migapi")
    assert (await update(console, root, target, status="disabled")).code == 200


@pytest_twisted.ensureDeferred
async def test_of_two_administrators_who_demote_each_other_one_remains(
    database: TestDatabase,
) -> None:
    """Each asks another service; so do two who revoke their last keys, or disable each other."""
    async with run_console(database) as console, run_console(database) as other:
        a, b = console.add("a"), console.add("b")
        for caller in (a, b):
            other.callers.add(caller)
        for round_ in range(6 * REPETITIONS):
            demoted = {"permissions": encode(DEFAULT_PERMISSIONS)}
            fields: Mapping[str, object] = demoted if round_ % 2 else {"status": "disabled"}
            codes = await run_both(update(console, a, b, **fields), update(other, b, a, **fields))
            assert sorted(codes) == [200, 409]
            [(remaining,)] = database.execute(
                "select count(*) from investigators where status = 'active'"
                f" and permissions & {int(UPDATE)} <> 0"
            )
            assert remaining == 1
            database.execute("update investigators set status = 'active', permissions = 524287")
        assert len(console.list_audit()) == 6 * REPETITIONS


@pytest_twisted.ensureDeferred
async def test_of_two_last_keys_one_remains(database: TestDatabase) -> None:
    async with run_console(database) as console, run_console(database) as other:
        a, b = (console.add(name, publickey=None) for name in "ab")
        other.callers.add(b)
        for caller in (a, b):
            assert (await console.post(caller, "/apikey/create/", name="k")).code == 201
        for _ in range(3 * REPETITIONS):
            codes = await run_both(
                console.post(a, "/apikey/revoke/", id=1), other.post(b, "/apikey/revoke/", id=2)
            )
            assert sorted(codes) == [200, 409]
            valid = "select count(*) from apikeys where revokedat is null"
            assert database.execute(valid) == [(1,)]
            database.execute("update apikeys set revokedat = null")


async def run_both(*requests: Coroutine[Deferred[Any], Any, Answer]) -> list[int]:
    """Return the statuses of requests that run at the same time."""
    answers = await gatherResults([Deferred.fromCoroutine(request) for request in requests])
    return [answer.code for answer in answers]
