"""API keys are made, listed and revoked over HTTP and on the command line."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest_twisted
from twisted.internet.threads import deferToThread

from mig.access.apikeys import hash_key, parse_key
from mig.access.caller import ANONYMOUS, Caller
from mig.limits import Limits
from mig.model.permissions import (
    DEFAULT_PERMISSIONS,
    READONLY_PERMISSIONS,
    Permission,
)
from tests.support.api import Answer, Api
from tests.support.callers import with_key
from tests.support.chosen_callers import Console, run_console
from tests.support.cli import run_cli
from tests.support.json_types import Json
from tests.support.postgres import TestDatabase

UPDATE = Permission.INVESTIGATOR_UPDATE
SECRETS = re.compile(r"mig_[0-9]+_|keyhash|apisalt|privatekey")


@pytest_twisted.async_yield_fixture
async def console(database: TestDatabase) -> AsyncIterator[Console]:
    async with run_console(database) as running:
        yield running


def read_item(answer: Answer, name: str = "apikey") -> Json:
    """Return the value of the only item."""
    [item] = answer.document["items"]
    [data] = item["data"]
    assert data["name"] == name
    return data["value"]


def read_message(answer: Answer) -> str:
    return str(answer.document["error"]["message"])


async def create(console: Console, caller: Caller, **fields: object) -> Json:
    answer = await console.post(caller, "/apikey/create/", **{"name": "ci", **fields})
    assert answer.code == 201, answer.body
    return read_item(answer)


def list_state(console: Console) -> list[tuple[object, ...]]:
    """Return everything that a request can change."""
    return [
        *console.database.execute("select to_jsonb(i)::text from investigators i order by id"),
        *console.database.execute("select to_jsonb(k)::text from apikeys k order by id"),
        *console.database.execute("select id from audit order by id"),
    ]


@pytest_twisted.ensureDeferred
async def test_a_key_is_made_for_its_caller_and_shown_once(console: Console) -> None:
    """Without permissions and an end, it has those of its owner, and no end."""
    alice = console.add("alice", DEFAULT_PERMISSIONS)
    answer = await console.post(alice, "/apikey/create/", name="  nightly report ")
    assert answer.code == 201, answer.body
    made = read_item(answer)
    key = made.pop("key")
    assert parse_key(key) == made["id"]
    [item] = answer.document["items"]
    assert item["href"] == answer.get_header("Location")
    assert item["href"] == f"{console.api.base}/apikey?apikeyid={made['id']}"
    owner = f"{console.api.base}/investigator?investigatorid={alice.investigator_id}"
    assert item["links"] == [{"rel": "investigator", "href": owner}]
    assert made == {
        "id": made["id"],
        "investigatorid": alice.investigator_id,
        "name": "nightly report",
        "permissions": DEFAULT_PERMISSIONS.to_json_value(),
        "createdat": made["createdat"],
        "expires": None,
    }
    [(stored,)] = console.database.execute("select keyhash from apikeys")
    assert bytes(stored) == hash_key(key)
    for path in ("/apikey", f"/apikey?apikeyid={made['id']}", "/apikey?investigatorid=&cursor="):
        listed = await console.get(alice, path)
        assert listed.code == 200, listed.body
        assert read_item(listed) == made
        assert not SECRETS.search(listed.body.decode())
    after = {"name": "nightly report", "permissions": DEFAULT_PERMISSIONS.member_names}
    assert console.list_audit() == [
        (alice.investigator_id, "apikey", made["id"], None, {**after, "expires": None})
    ]


@pytest_twisted.ensureDeferred
async def test_permissions_are_names_sets_or_an_object(console: Console) -> None:
    alice = console.add("alice", DEFAULT_PERMISSIONS)
    for permissions, expected in (
        ("search,agent", Permission.SEARCH | Permission.AGENT),
        ("readonly", READONLY_PERMISSIONS),
        ('{"search": true, "agent": false}', Permission.SEARCH),
        ("{}", Permission(0)),
    ):
        made = await create(console, alice, permissions=permissions)
        assert made["permissions"] == expected.to_json_value()


@pytest_twisted.ensureDeferred
async def test_an_end_is_a_duration_or_a_time(console: Console) -> None:
    alice = console.add("alice")
    made = await create(console, alice, expires="1h30m")
    [(seconds,)] = console.database.execute(
        "select extract(epoch from expiresat - now())::float from apikeys"
    )
    assert 5_100 < seconds <= 5_400
    assert made["expires"].endswith("Z")
    ahead = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 86_400))
    made = await create(console, alice, expires=f"{ahead}.25+00:00")
    assert made["expires"] == f"{ahead}.25Z"


REFUSED: dict[str, tuple[dict[str, str], int, str]] = {
    "no name": ({"name": ""}, 400, "the field name is empty"),
    "control character": ({"name": "a\nb"}, 400, "control character U+000A"),
    "long name": ({"name": "n" * 257}, 400, "name must have at most 256 characters"),
    "unknown permission": ({"permissions": "serach"}, 400, "did you mean search?"),
    "not a boolean": ({"permissions": '{"search": 1}'}, 400, "permissions.search must be true or"),
    "past": ({"expires": "2020-01-01T00:00:00Z"}, 400, "expires must be in the future"),
    "no time": ({"expires": "0d"}, 400, "or a duration such as 10m, 90d or 1h30m, not '0d'"),
    "no unit": ({"expires": "90"}, 400, "expires must be an RFC 3339 time or a duration"),
    "no zone": ({"expires": "2099-01-01T00:00:00"}, 400, "expires must be an RFC 3339 date"),
    "too far": ({"expires": "3651d"}, 400, "at most 3650 days ahead"),
    "far": ({"expires": "999999d999999h"}, 400, "at most 3650 days ahead"),
    "unknown field": ({"key": "mig_1"}, 400, "unknown field 'key'"),
    "no id": ({"investigatorid": "me"}, 400, "investigatorid must be a whole number"),
    "nobody": ({"investigatorid": "4711"}, 404, "there is no investigator 4711"),
    "huge id": ({"investigatorid": str(2**64 - 1)}, 404, "there is no investigator"),
    "beyond the owner": (
        {"investigatorid": "2", "permissions": "search,agent"},
        400,
        "permissions.agent cannot be given to a key of investigator 2",
    ),
    "of a disabled": ({"investigatorid": "3"}, 409, "investigator 3 is disabled"),
}


@pytest_twisted.ensureDeferred
async def test_other_keys_are_not_made(console: Console) -> None:
    root = console.add("root")
    console.add("searcher", Permission.SEARCH)
    console.add("former")
    console.database.execute("update investigators set status = 'disabled' where id = 3")
    before = list_state(console)
    for case, (fields, code, says) in REFUSED.items():
        answer = await console.post(root, "/apikey/create/", **{"name": "ci", **fields})
        assert answer.code == code, (case, answer.body)
        assert says in read_message(answer), case
    assert list_state(console) == before


@pytest_twisted.ensureDeferred
async def test_a_key_is_given_only_to_who_has_its_permissions(console: Console) -> None:
    """The first permission that is missing is named; another's key needs investigator_update."""
    root = console.add("root")
    alice = console.add("alice", DEFAULT_PERMISSIONS)
    helper = console.add("helper", UPDATE | Permission.SEARCH)
    other = f"this request needs the permission {UPDATE.label}"
    for caller, fields, says in (
        (alice, {"permissions": "search,loader"}, "permissions.loader cannot be given"),
        (alice, {"permissions": "admin"}, "permissions.loader cannot be given"),
        (alice, {"investigatorid": root.investigator_id}, other),
        (alice, {"investigatorid": 4711}, other),
        (helper, {"investigatorid": alice.investigator_id}, "permissions.action cannot be given"),
        (helper, {"investigatorid": root.investigator_id}, "permissions.action cannot be given"),
    ):
        before = list_state(console)
        answer = await console.post(caller, "/apikey/create/", name="x", **fields)
        assert answer.code == 403, answer.body
        assert says in read_message(answer)
        assert list_state(console) == before
    owner = alice.investigator_id
    made = await create(console, helper, investigatorid=owner, permissions="search")
    assert made["investigatorid"] == owner
    assert (await create(console, root, investigatorid=owner))["investigatorid"] == owner


async def make_key_caller(
    console: Console, owner: Caller, name: str, **fields: object
) -> tuple[Caller, int]:
    """Return a caller by a new key of ``owner``, and the id of the key."""
    made = await create(console, owner, name=name, **fields)
    row = "select permissions, extract(epoch from expiresat)::float from apikeys where id = %s"
    [(permissions, expiry)] = console.database.execute(row, (made["id"],))
    caller = replace(
        owner,
        name=name,
        permissions=Permission(permissions),
        key_id=made["id"],
        key_expiry=expiry,
    )
    return console.callers.add(caller), made["id"]


@pytest_twisted.ensureDeferred
async def test_through_a_key_only_weaker_keys_are_made(console: Console) -> None:
    root = console.add("root")
    scoped, scoped_id = await make_key_caller(
        console, root, "scoped", permissions="search,agent,investigator_update", expires="2h"
    )
    for fields, says in (
        ({"expires": "1h"}, "permissions.action cannot be given"),
        ({"permissions": "search,command", "expires": "1h"}, "permissions.command cannot be"),
        ({"permissions": "search"}, "expires must be at most 20"),
        ({"permissions": "search", "expires": "3h"}, "when the API key of this request expires"),
    ):
        before = list_state(console)
        answer = await console.post(scoped, "/apikey/create/", name="x", **fields)
        assert answer.code == 403, answer.body
        assert says in read_message(answer)
        assert list_state(console) == before
    answer = await console.post(
        scoped, "/investigator/update/", id=root.investigator_id, apikey="active"
    )
    assert answer.code == 403
    made = await create(console, scoped, permissions="search", expires="90m")
    assert made["permissions"] == Permission.SEARCH.to_json_value()
    [(key_id,)] = console.database.execute(
        "select key from audit where objectid = %s", (made["id"],)
    )
    assert key_id == scoped_id


@pytest_twisted.ensureDeferred
async def test_everybody_sees_and_revokes_their_own_keys(console: Console) -> None:
    """Whose key it is, and whether there is one, is hidden from others."""
    root = console.add("root")
    alice, bob = console.add("alice", DEFAULT_PERMISSIONS), console.add("bob", Permission(0))
    first = await create(console, alice)
    second = await create(console, bob)
    alice_id, bob_id = alice.investigator_id, bob.investigator_id
    for caller, path, ids in (
        (root, "/apikey", [second["id"], first["id"]]),
        (root, f"/apikey?investigatorid={bob_id}", [second["id"]]),
        (alice, "/apikey", [first["id"]]),
        (alice, f"/apikey?investigatorid={alice_id}", [first["id"]]),
        (bob, f"/apikey?apikeyid={second['id']}", [second["id"]]),
        (bob, f"/apikey?cursor={second['id']}", []),
    ):
        answer = await console.get(caller, path)
        assert answer.code == 200, answer.body
        found = [item["data"][0]["value"]["id"] for item in answer.document["items"]]
        assert found == ids, path
    before = list_state(console)
    refusals = [
        await console.get(alice, f"/apikey?investigatorid={bob_id}"),
        *[await console.get(alice, f"/apikey?apikeyid={n}") for n in (second["id"], 4711)],
        *[await console.post(alice, "/apikey/revoke/", id=n) for n in (second["id"], 4711)],
    ]
    assert {answer.code for answer in refusals} == {403}
    assert len({read_message(answer) for answer in refusals}) == 1
    assert f"needs the permission {UPDATE.label}" in read_message(refusals[0])
    for missing in (await console.get(root, "/apikey?apikeyid=4711"),):
        assert (missing.code, read_message(missing)) == (404, "there is no API key 4711")
    answer = await console.post(root, "/apikey/revoke/", id=2**64 - 1)
    assert answer.code == 404
    assert list_state(console) == before
    for caller, made in ((alice, first), (root, second)):
        revoked = await console.post(caller, "/apikey/revoke/", id=made["id"])
        assert revoked.code == 200, revoked.body
        value = read_item(revoked)
        assert value.pop("revokedat").endswith("Z")
        assert value == {name: made[name] for name in made if name != "key"}
        assert console.list_audit()[-1] == (
            caller.investigator_id,
            "apikey",
            made["id"],
            {
                "name": "ci",
                "permissions": [name for name, given in made["permissions"].items() if given],
                "expires": None,
            },
            None,
        )


@pytest_twisted.ensureDeferred
async def test_a_revoked_key_stays_in_the_list_and_as_it_is(console: Console) -> None:
    """Revoking it again changes nothing, and the last use is shown when it is known."""
    alice = console.add("alice")
    made = await create(console, alice)
    console.database.execute("insert into apikeyuses values (%s, '2026-01-02 03:04:05Z')", (1,))
    revoked = read_item(await console.post(alice, "/apikey/revoke/", id=made["id"]))
    before = list_state(console)
    assert read_item(await console.post(alice, "/apikey/revoke/", id=made["id"])) == revoked
    assert read_item(await console.get(alice, "/apikey")) == revoked
    assert list_state(console) == before
    assert revoked["lastused"] == "2026-01-02T03:04:05Z"


@pytest_twisted.ensureDeferred
async def test_other_parameters_are_refused(console: Console) -> None:
    root = console.add("root")
    for query, says in (
        ("limit=1", "unknown parameter 'limit'"),
        ("apikey=1", "did you mean apikeyid?"),
        ("apikeyid=x", "apikeyid must be a whole number"),
        ("cursor=1&cursor=2", "cursor is given twice"),
    ):
        answer = await console.get(root, f"/apikey?{query}")
        assert answer.code == 400
        assert says in read_message(answer)


@pytest_twisted.ensureDeferred
async def test_a_long_list_has_pages_and_keys_have_a_limit(database: TestDatabase) -> None:
    limits = Limits(listed_api_keys=2, active_api_keys=5)
    async with run_console(database, limits) as console:
        root = console.add("root")
        for number in range(5):
            await create(console, root, name=str(number), expires="1h")
        answer = await console.post(root, "/apikey/create/", name="one more")
        assert answer.code == 409
        assert "has 5 API keys that are valid; revoke one first" in read_message(answer)
        path, found = f"/apikey?investigatorid={root.investigator_id}", []
        while path:
            page = (await console.get(root, path)).document
            found += [item["data"][0]["value"]["id"] for item in page["items"]]
            path = next((link["href"] for link in page.get("links", ())), "")
        assert found == [5, 4, 3, 2, 1]
        database.execute("update apikeys set revokedat = now() where id = 1")
        database.execute("update apikeys set expiresat = now() where id = 2")
        for name in ("another", "and another"):
            assert (await console.post(root, "/apikey/create/", name=name)).code == 201
        assert (await console.post(root, "/apikey/create/", name="one more")).code == 409
        of_console = {"id": root.investigator_id, "apikey": "active"}
        assert (await console.post(root, "/investigator/update/", **of_console)).code == 409


@pytest_twisted.ensureDeferred
async def test_the_forms_are_templates(console: Console) -> None:
    nobody = console.add("nobody", Permission(0))
    for path, names in (
        ("/apikey/create/", ["investigatorid", "name", "permissions", "expires"]),
        ("/apikey/revoke/", ["id"]),
    ):
        answer = await console.get(nobody, path)
        assert answer.code == 200
        assert [data["name"] for data in answer.document["template"]["data"]] == names


@pytest_twisted.ensureDeferred
async def test_a_console_of_2017_gets_the_new_key_in_the_investigator(console: Console) -> None:
    root = console.add("root")
    alice = console.add("alice", DEFAULT_PERMISSIONS)
    update = {"id": alice.investigator_id}
    answer = await console.post(root, "/investigator/update/", **update, apikey="active")
    assert answer.code == 200, answer.body
    investigator = read_item(answer, "investigator")
    [(key_id, owner, permissions, keyhash)] = console.database.execute(
        "select id, investigatorid, permissions, keyhash from apikeys"
    )
    assert (owner, permissions) == (alice.investigator_id, DEFAULT_PERMISSIONS)
    assert parse_key(investigator["apikey"]) == key_id
    assert hash_key(investigator["apikey"]) == bytes(keyhash)
    found = await console.get(root, f"/investigator?investigatorid={alice.investigator_id}")
    assert "apikey" not in read_item(found, "investigator")
    limited = console.add("limited", UPDATE | Permission.INVESTIGATOR)
    refused = await console.post(limited, "/investigator/update/", **update, apikey="active")
    assert refused.code == 403
    assert "permissions.search cannot be given" in read_message(refused)


@pytest_twisted.ensureDeferred
async def test_disabled_revokes_all_keys_also_those_of_an_earlier_api(console: Console) -> None:
    root, alice = console.add("root"), console.add("alice", DEFAULT_PERMISSIONS)
    for name in ("one", "two"):
        await create(console, alice, name=name)
    await create(console, root)
    console.database.execute("update investigators set apikey = 'k', apisalt = 's' where id = 2")
    for _ in range(2):
        answer = await console.post(root, "/investigator/update/", id=2, apikey="disabled")
        assert answer.code == 200, answer.body
        assert "apikey" not in read_item(answer, "investigator")
    assert console.database.execute("select apikey, apisalt from investigators where id = 2") == [
        (None, None)
    ]
    assert console.database.execute(
        "select investigatorid::int, count(*), count(revokedat) from apikeys group by 1 order by 1"
    ) == [(1, 1, 0), (2, 2, 2)]
    revocations = console.list_audit()[3:]
    assert [(noun, number) for _, noun, number, *_ in revocations] == [
        ("apikey", 1),
        ("apikey", 2),
        ("investigator", 2),
    ]
    assert revocations[-1][3:] == ({"apikey": True}, {"apikey": False})


@pytest_twisted.ensureDeferred
async def test_without_authentication_no_keys_are_made_here(console: Console) -> None:
    """They can be seen and revoked, as everything can."""
    root = console.add("root")
    made = await create(console, root)
    before = list_state(console)
    anyone = console.callers.add(ANONYMOUS)
    for path, fields in (
        ("/apikey/create/", {"name": "x"}),
        ("/apikey/create/", {"name": "x", "investigatorid": 1}),
        ("/apikey/create/", {"nonsense": 1}),
        ("/investigator/update/", {"id": 1, "apikey": "active"}),
    ):
        answer = await console.post(anyone, path, **fields)
        assert answer.code == 403, answer.body
        assert "use `mig-api apikey create` on the server" in read_message(answer)
    assert list_state(console) == before
    assert read_item(await console.get(anyone, "/apikey"))["id"] == made["id"]
    assert (await console.post(anyone, "/apikey/revoke/", id=made["id"])).code == 200


@pytest_twisted.ensureDeferred
async def test_the_audit_and_the_log_have_no_key(console: Console) -> None:
    root = console.add("root")
    made = await create(console, root)
    answer = await console.post(root, "/investigator/update/", id=1, apikey="active")
    await console.post(root, "/investigator/update/", id=1, apikey="disabled")
    keys = [made["key"], read_item(answer, "investigator")["apikey"]]
    rows = console.database.execute("select to_jsonb(a)::text from audit a")
    assert len(rows) == 4
    for key in keys:
        for secret in (key, key.split("_")[2], hash_key(key).hex()):
            assert secret not in json.dumps(rows)


@pytest_twisted.ensureDeferred
async def test_the_command_line_makes_lists_and_revokes_keys(database: TestDatabase) -> None:
    """The key alone is printed to standard output."""

    async def run(*arguments: str) -> tuple[int, str, str]:
        return await deferToThread(run_cli, *arguments, "--database", database.dsn)

    assert (await run("investigator", "add", "Robot"))[1] == "added investigator 1\n"
    code, key, errors = await run(
        "apikey", "create", "1", "--name", "ci", "--permissions", "readonly", "--expires", "90d"
    )
    assert (code, errors) == (0, "")
    assert key.endswith("\n") and parse_key(key.strip()) == 1
    [(stored, permissions)] = database.execute("select keyhash, permissions from apikeys")
    assert (bytes(stored), permissions) == (hash_key(key.strip()), READONLY_PERMISSIONS)
    assert parse_key((await run("apikey", "create", "1", "--name", "all"))[1].strip()) == 2
    second, first = (line.split("\t") for line in (await run("apikey", "list"))[1].splitlines())
    assert (second[:2], first[:2]) == (["2", "1"], ["1", "1"])
    assert second[3:] == ["-", "-", "-", "all", ",".join(DEFAULT_PERMISSIONS.member_names)]
    assert first[2] < first[3] and first[4:6] == ["-", "-"]
    assert first[6:] == ["ci", ",".join(READONLY_PERMISSIONS.member_names)]
    assert await run("apikey", "revoke", "1") == (0, "API key 1 is revoked\n", "")
    assert (await run("apikey", "list"))[1].splitlines()[1].split("\t")[4].startswith("20")
    for arguments, says in (
        (("create", "9", "--name", "x"), "there is no investigator 9"),
        (("create", "x", "--name", "x"), "INVESTIGATOR must be a whole number"),
        (("create", "1", "--name", "x", "--expires", "soon"), "expires must be an RFC 3339 time"),
        (("create", "1", "--name", "x", "--permissions", "loader"), "permissions.loader cannot"),
        (("revoke", "9"), "there is no API key 9"),
    ):
        code, out, errors = await run("apikey", *arguments)
        assert (code, out) == (1, "")
        assert errors.startswith("mig-api: ") and says in errors and errors.count("\n") == 1
    code, _, errors = await run("apikey", "create", "1", "--name", "x", "--permissions", "serach")
    assert code == 2 and "did you mean search?" in errors
    audited = database.execute("select caller, callername, client, path, object from audit")
    assert {(caller, client) for caller, _, client, *_ in audited} == {(None, None)}
    assert [row[3] for row in audited] == [
        "mig-api investigator add",
        "mig-api apikey create",
        "mig-api apikey create",
        "mig-api apikey revoke",
    ]
    assert all(row[1] for row in audited)


@pytest_twisted.ensureDeferred
async def test_a_key_works_until_it_is_revoked(database: TestDatabase) -> None:
    """A program with a key makes the key that replaces it."""

    def run(*arguments: str) -> str:
        return run_cli(*arguments, "--database", database.dsn)[1].strip()

    await deferToThread(run, "investigator", "add", "Robot", "--permissions", "readonly")
    first = await deferToThread(run, "apikey", "create", "1", "--name", "first")
    api = Api(database.dsn, handoff="none", authentication=True)
    try:
        made = await api.request(
            "POST", "/apikey/create/", data={"name": "second"}, headers=with_key(first)
        )
        assert made.code == 201, made.body
        second = read_item(made)["key"]
        for key in (first, second):
            assert (await api.get("/dashboard", headers=with_key(key))).code == 200
        revoked = await api.request(
            "POST", "/apikey/revoke/", data={"id": "1"}, headers=with_key(second)
        )
        assert revoked.code == 200, revoked.body
        assert (await api.get("/dashboard", headers=with_key(first))).code == 401
        assert (await api.get("/dashboard", headers=with_key(second))).code == 200
        for method, path in (("GET", "/apikey"), ("POST", "/apikey/create/")):
            assert (await api.request(method, path)).code in (401, 415)
    finally:
        await api.stop()


@pytest_twisted.ensureDeferred
async def test_a_caller_who_lost_the_permission_changes_nothing(console: Console) -> None:
    """The gate has let the request in, and its body came after the change."""
    console.add("root")
    alice = console.add("alice")
    other = console.add("other", Permission.SEARCH)
    by_key, key_id = await make_key_caller(console, alice, "by key")
    for change, caller, code in (
        (f"update apikeys set revokedat = now() where id = {key_id}", by_key, 401),
        ("update investigators set permissions = 1 where id = 2", alice, 403),
        ("update investigators set status = 'disabled' where id = 2", alice, 401),
    ):
        console.database.execute(change)
        before = list_state(console)
        for path, fields in (
            ("/investigator/create/", {"name": "Eve", "permissions": "{}"}),
            ("/investigator/update/", {"id": other.investigator_id, "permissions": "{}"}),
        ):
            answer = await console.post(caller, path, **fields)
            assert answer.code == code, answer.body
        assert list_state(console) == before
    assert (await console.post(alice, "/apikey/revoke/", id=key_id)).code == 401
