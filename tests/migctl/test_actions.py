"""Actions are checked, signed, submitted and followed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_twisted

from mig.client.signer import Action
from mig.migctl.exits import ExitStatus
from mig.model.permissions import ALL_PERMISSIONS
from tests.support.api import Api
from tests.support.callers import add_api_key, add_investigator
from tests.support.json_types import Json
from tests.support.keys import Keys
from tests.support.migctl import ANSWERED, Ended, run_migctl
from tests.support.postgres import TestDatabase

SEARCH = {"searches": {"s": {"paths": ["/etc"], "names": ["passwd"]}}}


def write_action(folder: Path, **members: Json) -> str:
    file = folder / "action.json"
    operations = [{"module": "file", "parameters": SEARCH}]
    action = {"name": "find it", "target": "name <> 'web2'", "operations": operations, **members}
    file.write_text(json.dumps(action))
    return str(file)


@pytest.fixture
def signer(keys: Keys, service: TestDatabase) -> tuple[str, ...]:
    """Return the options of Alice, who is an investigator of the service."""
    add_investigator(service, "Alice", keys.alice)
    return ("--key", keys.alice.fingerprint, "--gpg-home", str(keys.home))


@pytest_twisted.ensureDeferred
async def test_an_action_is_checked_with_its_signatures_and_agents(
    signer: tuple[str, ...], keys: Keys, tmp_path: Path
) -> None:
    file = write_action(tmp_path)
    unsigned = await run_migctl("action", "check", file, *signer)
    assert unsigned.status == 0, unsigned.errors
    assert "signed by  nobody yet\nagents     2: web" in unsigned.output
    signed = await run_migctl("action", "sign", file, *signer, "--output", file)
    assert (signed.status, signed.output, signed.errors) == (0, "", "")
    checked = await run_migctl("action", "check", "-i", file, "--offline", *signer)
    assert checked.status == 0
    assert keys.alice.fingerprint in checked.output
    assert "agents  " not in checked.output
    twice = await run_migctl("action", "sign", file, *signer)
    assert len(json.loads(twice.output)["pgpsignatures"]) == 2
    changed = json.loads(Path(file).read_text()) | {"target": "true"}
    Path(file).write_text(json.dumps(changed))
    spoiled = await run_migctl("action", "check", file, "--offline", *signer)
    assert spoiled.status == ExitStatus.FAILED
    assert "a signature is not good" in spoiled.errors


@pytest.mark.parametrize(
    ("members", "options", "status", "says"),
    [
        ({"name": ""}, [], 1, "name must not be empty"),
        ({"operations": 5}, [], 1, "operations"),
        (
            {"validfrom": "2014-01-01T00:00:00Z", "expireafter": "2014-01-02T00:00:00Z"},
            [],
            1,
            "the action has expired: 2014-01-02T00:00:00Z\nhint: give it new dates: --expires 1h",
        ),
        (
            {"validfrom": "2014-01-01T00:00:00Z", "expireafter": "2014-01-02T00:00:00Z"},
            ["--expires", "2h"],
            0,
            "",
        ),
        ({}, ["--expires", "soon"], 1, "expires must be a duration"),
        ({"pgpsignatures": ["x"]}, ["--expires", "1h"], 2, "a signed action cannot change"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_check_names_what_is_wrong(
    tmp_path: Path, members: Json, options: list[str], status: int, says: str
) -> None:
    file = write_action(tmp_path, **members)
    ended = await run_migctl("action", "check", "--offline", file, *options)
    assert ended.status == status, ended.errors
    assert says in ended.errors


@pytest_twisted.ensureDeferred
async def test_an_action_without_dates_expires_after_an_hour(
    signer: tuple[str, ...], tmp_path: Path
) -> None:
    ended = await run_migctl("action", "sign", write_action(tmp_path), *signer)
    action = Action.parse(ended.output)
    validity = [datetime.fromisoformat(text) for text in (action.validfrom, action.expireafter)]
    assert validity[1] - validity[0] == timedelta(hours=1, minutes=1)
    assert abs(validity[1] - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=10)


@pytest_twisted.ensureDeferred
async def test_one_command_signs_and_submits_as_the_original_generator(
    signer: tuple[str, ...], keys: Keys, api: Api, service: TestDatabase, tmp_path: Path
) -> None:
    """The key may be named by its user id."""
    options = ("-k", "alice@example.net", "--gpg-home", str(keys.home), "--url", api.base)
    file = write_action(tmp_path)
    ended = await run_migctl("action", "create", "-i", file, *options, MIG_URL="")
    assert ended.status == 0, ended.errors
    [[stored]] = service.execute("select name from actions where id = %s", (ended.output,))
    assert stored == "find it"
    assert f"hint: follow it: migctl action follow {ended.output}" in ended.errors
    nobody = await run_migctl("action", "create", "-i", file, "-k", "nobody@example.net")
    assert nobody.status == ExitStatus.USAGE
    assert "no secret key of gpg fits 'nobody@example.net'" in nobody.errors


async def run_module(*options: str) -> Ended:
    module = ("--module", "file", "--parameters", json.dumps(SEARCH))
    return await run_migctl("run", *module, "--target", "name <> 'web2'", *options)


@pytest_twisted.ensureDeferred
async def test_a_run_prints_what_the_agents_answer(
    signer: tuple[str, ...], service: TestDatabase, tmp_path: Path
) -> None:
    service.execute(ANSWERED.replace("STATUS", "success"))
    ended = await run_module("--yes", *signer)
    assert ended.status == 0, ended.errors
    assert sorted(line.split("\t")[1:] for line in ended.output.splitlines()) == [
        ["web1", "success", "yes", "/etc/passwd"],
        ["web3", "success", "yes", "/etc/passwd"],
    ]
    assert "completed: 2 success\n" in ended.errors
    [[action_id]] = service.execute("select id::bigint from actions")
    assert f"migctl: submitted as action {action_id}\n" in ended.errors
    again = await run_migctl("action", "follow", str(action_id), "--format", "ndjson")
    assert {json.loads(line)["agent"]["name"] for line in again.output.splitlines()} == {
        "web1",
        "web3",
    }


@pytest_twisted.ensureDeferred
async def test_a_run_fails_when_an_agent_did_not_answer(
    signer: tuple[str, ...], service: TestDatabase, tmp_path: Path
) -> None:
    service.execute(ANSWERED.replace("STATUS", "timeout"))
    file = write_action(tmp_path)
    await run_migctl("action", "sign", file, *signer, "--output", file)
    signed = Path(file).read_text()
    ended = await run_migctl("run", file, "--yes", *signer)
    assert ended.status == ExitStatus.FAILED
    assert "migctl: 1 of 2 agents did not answer with success\n" in ended.errors
    [[signature]] = service.execute("select pgpsignature from signatures")
    assert [signature] == json.loads(signed)["pgpsignatures"]


@pytest_twisted.ensureDeferred
async def test_a_run_without_a_terminal_needs_yes(service: TestDatabase, tmp_path: Path) -> None:
    ended = await run_module()
    assert ended.status == ExitStatus.USAGE
    assert "hint: submit it with --yes" in ended.errors
    nobody = await run_migctl("run", write_action(tmp_path, target="false"), "--yes")
    assert nobody.status == ExitStatus.FAILED
    assert "no agent matches the target" in nobody.errors
    assert service.execute("select from actions") == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give a FILE, or --module and --target"),
        (["--module", "file"], "--module needs --target"),
        (["--module", "file", "--target", "true", "--parameters", "{"], "--parameters is not JSON"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_run_says_what_it_needs(arguments: list[str], says: str) -> None:
    ended = await run_migctl("run", "--yes", *arguments)
    assert ended.status == ExitStatus.USAGE
    assert says in ended.errors


@pytest_twisted.ensureDeferred
async def test_investigators_and_keys_are_managed(database: TestDatabase, keys: Keys) -> None:
    administrator = add_investigator(database, "Root", permissions=ALL_PERMISSIONS)
    api = Api(database.dsn, authentication=True)
    service = {"MIG_URL": api.base, "MIG_API_KEY": add_api_key(database, administrator)}
    try:
        made = await run_migctl("investigator", "add", "Job", "--permissions", "search", **service)
        investigator = made.output.strip()
        shown = await run_migctl("investigator", "show", investigator, **service)
        assert "permissions   search\n" in shown.output
        options = ("--investigator", investigator, "--expires", "90d")
        key = await run_migctl("apikey", "create", "nightly", *options, **service)
        own = {**service, "MIG_API_KEY": key.output.strip()}
        assert (await run_migctl("search", "agents", **own)).status == 0
        listed = await run_migctl("apikey", "list", "--investigator", investigator, **service)
        [[key_id, owner, name, *_]] = [line.split("\t") for line in listed.output.splitlines()]
        assert (owner, name) == (investigator, "nightly")
        revoked = await run_migctl("apikey", "revoke", key_id, **service)
        assert revoked.output == f"API key {key_id} is revoked\n"
        assert (await run_migctl("search", "agents", **own)).status == ExitStatus.REFUSED
        disabled = await run_migctl("investigator", "disable", investigator, **service)
        assert disabled.output == f"investigator {investigator} is disabled\n"
        enabled = await run_migctl("investigator", "enable", investigator, **service)
        assert enabled.output == f"investigator {investigator} is active\n"
    finally:
        await api.stop()
