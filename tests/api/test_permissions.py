"""Permissions of investigators, as the consoles of 2016 and 2017 and the CLI set them."""

from __future__ import annotations

import json

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from mig.model.permissions import DEFAULT_PERMISSIONS, Permission
from tests.support.api import Answer, Api
from tests.support.chosen_callers import insert_investigator
from tests.support.cli import run_cli
from tests.support.fleet import VECTORS
from tests.support.json_types import Json
from tests.support.postgres import TestDatabase

BOB = (VECTORS / "keys" / "bob.asc").read_bytes()
DEFAULT = DEFAULT_PERMISSIONS.to_json_value()
NOTHING = Permission(0).to_json_value()
STORED = "select name, permissions, publickey is null, status from investigators"


async def create(api: Api, *, key: bytes | None = None, **fields: str) -> Answer:
    """Post the form as a console does: multipart, with the key as a file if there is one."""
    files = {"publickey": ("key.asc", "application/octet-stream", key)} if key else None
    data = {"name": "Bob", **fields}
    if files is None:
        return await api.request("POST", "/investigator/create/", data=data)
    return await api.request("POST", "/investigator/create/", data=data, files=files)


async def update(api: Api, **fields: str) -> Answer:
    return await api.request("POST", "/investigator/update/", data={"id": "1", **fields})


def read_investigator(answer: Answer) -> Json:
    return answer.document["items"][0]["data"][0]["value"]


@pytest_twisted.ensureDeferred
async def test_a_console_of_2017_creates_an_account_without_a_key(
    api: Api, database: TestDatabase
) -> None:
    """It sends all 19 names; the account is served with an empty key."""
    answer = await create(api, permissions=json.dumps(DEFAULT))
    assert answer.code == 201, answer.body
    investigator = read_investigator(answer)
    assert investigator["permissions"] == DEFAULT
    assert (investigator["publickey"], investigator["pgpfingerprint"]) == ("", "")
    assert database.execute(STORED) == [("Bob", 63, True, "active")]
    assert (await create(api, permissions=json.dumps(DEFAULT), publickey="")).code == 201


@pytest_twisted.ensureDeferred
async def test_absent_permissions_are_the_default_set(api: Api, database: TestDatabase) -> None:
    """The console of 2016 sends isadmin, and false means nothing."""
    answer = await create(api, key=BOB, isadmin="false")
    assert answer.code == 201, answer.body
    assert read_investigator(answer)["permissions"] == DEFAULT
    assert database.execute(STORED) == [("Bob", 63, False, "active")]


@pytest_twisted.ensureDeferred
async def test_permissions_may_be_an_object_in_a_json_body(api: Api) -> None:
    body = {"name": "Bob", "publickey": BOB.decode(), "permissions": {"search": True}}
    answer = await api.request("POST", "/investigator/create/", json=body)
    assert answer.code == 201, answer.body
    assert read_investigator(answer)["permissions"] == {**NOTHING, "search": True}


REFUSED: dict[str, tuple[dict[str, str], int, str]] = {
    "no key and no permissions": ({}, 400, "the field publickey is missing"),
    "unknown name": ({"permissions": '{"serach": true}'}, 400, "did you mean search?"),
    "capital letters": ({"permissions": '{"SEARCH": true}'}, 400, "unknown name 'SEARCH'"),
    "not a boolean": ({"permissions": '{"search": 1}'}, 400, "permissions.search must be true or"),
    "not an object": ({"permissions": '["search"]'}, 400, "permissions must be a JSON object"),
    "not JSON": ({"permissions": "search"}, 400, "permissions"),
    "a name twice": ({"permissions": '{"agent": true, "agent": false}'}, 400, "twice"),
    "beyond the default set": (
        {"permissions": '{"search": true, "investigator_create": true}'},
        403,
        "permissions.investigator_create cannot be true here while there is no authentication",
    ),
    "administrator": ({"permissions": "{}", "isadmin": "true"}, 403, "`mig-api investigator`"),
    "isadmin": ({"permissions": "{}", "isadmin": "1"}, 400, "isadmin must be true or false"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest_twisted.ensureDeferred
async def test_other_permissions_are_refused(api: Api, database: TestDatabase, case: str) -> None:
    fields, code, says = REFUSED[case]
    data = {"name": "Bob", **fields}
    answer = await api.request("POST", "/investigator/create/", data=data)
    assert answer.code == code, answer.body
    assert says in answer.document["error"]["message"]
    assert database.execute(STORED) == []


@pytest_twisted.ensureDeferred
async def test_status_and_permissions_change_alone_or_together(
    api: Api, database: TestDatabase
) -> None:
    assert (await create(api, permissions="{}")).code == 201
    for fields, permissions, status in (
        ({"permissions": '{"search": true}'}, 1, "active"),
        ({"status": "disabled"}, 1, "disabled"),
        ({"status": "active", "permissions": '{"agent": true}'}, 16, "active"),
    ):
        answer = await update(api, **fields)
        assert answer.code == 200, answer.body
        assert read_investigator(answer)["status"] == status
        assert database.execute(STORED) == [("Bob", permissions, True, status)]


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({}, 400, "the fields status, permissions and apikey are all missing"),
        ({"status": "", "permissions": ""}, 400, "are all missing or empty"),
        ({"apikey": "on"}, 400, "apikey must be active or disabled"),
        ({"apikey": "active"}, 403, "use `mig-api apikey create` on the server"),
        ({"status": "gone", "permissions": "{}"}, 400, "status must be active or disabled"),
        ({"status": "disabled", "permissions": '{"x": true}'}, 400, "unknown name 'x'"),
        ({"status": "disabled", "permissions": '{"loader": true}'}, 403, "permissions.loader"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_refused_update_changes_nothing(
    api: Api, database: TestDatabase, fields: dict[str, str], code: int, says: str
) -> None:
    assert (await create(api, permissions="{}")).code == 201
    answer = await update(api, **fields)
    assert answer.code == code, answer.body
    assert says in answer.document["error"]["message"]
    assert database.execute(STORED) == [("Bob", 0, True, "active")]


@pytest_twisted.ensureDeferred
async def test_the_command_line_gives_any_permissions(api: Api, database: TestDatabase) -> None:
    key = str(VECTORS / "keys" / "bob.asc")

    async def run(*arguments: str) -> tuple[int, str, str]:
        options = ("--database", database.dsn)
        return await deferToThread(run_cli, "investigator", *arguments, *options)

    code, out, says = await run("add", "Bob", key, "--permissions", "search,investigator_update")
    assert (code, out) == (0, "added investigator 1\n")
    assert says == (
        "mig-api: who may create or change investigators: 1 'Bob' (investigator_update)\n"
    )
    assert database.execute("select permissions from investigators") == [(1 | 1 << 18,)]
    assert (await run("permissions", "1"))[1] == "investigator 1 may: search, investigator_update\n"
    for option, names, may in (
        ("--grant", "agent, command", "search, command, agent, investigator_update"),
        ("--revoke", "search,agent", "command, investigator_update"),
        ("--set", "readonly", "search, action, command, agent, dashboard"),
        ("--set", "", "nothing"),
    ):
        code, out, _ = await run("permissions", "1", option, names)
        assert (code, out) == (0, f"investigator 1 may: {may}\n")
    code, _, error = await run("permissions", "1", "--grant", "agents")
    assert code == 2
    assert "unknown name 'agents'; did you mean agent?" in error
    for arguments in (
        ("permissions", "1", "--grant", "agent", "--revoke", "agent"),
        ("add", "Eve", "--admin", "--permissions", "agent"),
    ):
        code, _, error = await run(*arguments)
        assert code == 2 and "exclude each other" in error
    assert database.execute("select permissions from investigators") == [(0,)]
    assert (await run("permissions", "7", "--grant", "agent"))[0] == 1
    assert (await run("add", "Root", "--admin"))[1] == "added investigator 2\n"
    assert database.execute("select permissions from investigators where id = 2") == [(2**19 - 1,)]


@pytest_twisted.ensureDeferred
async def test_the_command_line_may_remove_the_last_administrator_and_says_so(
    database: TestDatabase,
) -> None:
    insert_investigator(database, "root")
    for verb in (("disable", "1"), ("permissions", "1", "--set", "default")):
        options = ("--database", database.dsn)
        code, _, says = await deferToThread(run_cli, "investigator", *verb, *options)
        assert code == 0
        who, left = says.splitlines()
        assert who.startswith("mig-api: who may create or change investigators: nobody (")
        assert left.endswith("`mig-api investigator permissions ID --set admin` makes one")
        database.execute("update investigators set status = 'active', permissions = 2^19 - 1")
