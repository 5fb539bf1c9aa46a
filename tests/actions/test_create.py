"""The real service accepts actions that clients of both generations signed."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from mig.actions.submission import parse_operations
from mig.errors import InvalidInputError
from mig.signing.canonical import encode_operations
from mig.values import parse_json
from tests.support.api import Answer, Api
from tests.support.fleet import VECTORS, load_fleet
from tests.support.json_types import Json, JsonObject
from tests.support.keys import Keys
from tests.support.postgres import TestDatabase
from tests.support.submissions import Case, make_action

ACTIONS = sorted((VECTORS / "actions").glob("*.json"))


def list_spool(api: Api) -> list[Path]:
    assert api.spool
    return sorted((api.spool / "action" / "new").iterdir())


async def post_action(api: Api, action: Json) -> Answer:
    text = action if isinstance(action, str) else json.dumps(action)
    return await api.request("POST", "/action/create/", data={"action": text})


@pytest.mark.parametrize("path", ACTIONS, ids=lambda path: path.stem)
@pytest_twisted.ensureDeferred
async def test_a_recorded_action_is_accepted_stored_and_handed_over(
    api: Api, database: TestDatabase, path: Path
) -> None:
    load_fleet(database.dsn)
    response = await post_action(api, path.read_text())
    assert response.code == 202, response.body
    (item,) = response.document["items"]
    assert response.get_header("Location") == item["href"]
    served = item["data"][0]["value"]
    assert served["status"] == "init" and served["investigators"][0]["name"] == "Bob Kelso"
    (file,) = list_spool(api)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    posted, handed = json.loads(path.read_text()), json.loads(file.read_text())
    assert handed.pop("id") == served["id"] < 2**53
    assert file.name == f"{served['id']}.json"
    assert handed == {
        **{name: posted[name] for name in handed if name in posted},
        "status": "init",
        "starttime": "0009-01-11T11:11:11.000000011Z",
        "finishtime": "9998-01-11T11:11:11.000000011Z",
        "lastupdatetime": "0009-01-11T11:11:11.000000011Z",
    }


def edit_action(value: Json) -> Iterator[Json]:
    """Yield copies of *value* with one part changed, each of which nobody has signed."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from ({**value, name: other} for other in edit_action(inner))
            yield {key: value[key] for key in value if key != name}
        yield {**value, "added": 1}
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            yield from ([*value[:n], other, *value[n + 1 :]] for other in edit_action(inner))
            yield [*value[:n], *value[n + 1 :]]
        yield [*value, "added"]
        if value != value[::-1]:
            yield value[::-1]
    elif isinstance(value, bool) or value is None:
        yield not value
    elif isinstance(value, str):
        yield value + "x"
        yield value[:-1] if value else " "
    else:
        yield value + 1 if abs(value) < 1e15 else value * 2


def make_edits(action: JsonObject) -> Iterator[JsonObject]:
    for name in ("name", "target", "operations"):
        yield from ({**action, name: other} for other in edit_action(action[name]))
    for name in ("validfrom", "expireafter"):
        for digits, other in (("04:05", "04:06"), ("04:05", "05:05"), ("-0", "-1")):
            yield {**action, name: action[name].replace(digits, other, 1)}


def has_same_operations(action: JsonObject, other: JsonObject) -> bool:
    """Whether only operations differ, and mean the same: null parameters are as none."""
    if other != {**action, "operations": other["operations"]}:
        return False
    try:
        mine, theirs = parse_operations(action["operations"]), parse_operations(other["operations"])
        return encode_operations(mine) == encode_operations(theirs)
    except InvalidInputError:
        return False


@pytest.mark.parametrize("path", ACTIONS, ids=lambda path: path.stem)
@pytest_twisted.ensureDeferred
async def test_a_recorded_action_is_refused_when_any_signed_part_is_changed(
    api: Api, database: TestDatabase, path: Path
) -> None:
    load_fleet(database.dsn)
    before = database.execute("select count(*) from actions")
    action = parse_json(path.read_text(), "action")
    tried = 0
    for other in make_edits(action):
        if has_same_operations(action, other):
            continue
        response = await post_action(api, other)
        assert response.code == 400, (other, response.body)
        tried += 1
    assert tried > 25
    assert database.execute("select count(*) from actions") == before
    assert database.execute("select count(*) from submissions") == [(0,)]
    assert not list_spool(api)
    assert (await post_action(api, action)).code == 202


@pytest_twisted.ensureDeferred
async def test_an_action_of_several_megabytes_is_handed_over_as_it_was_signed(
    api: Api, database: TestDatabase, keys: Keys
) -> None:
    """Policies of MIG's own module scribe are larger than 1 MiB."""
    case = Case(keys, database)
    text = "".join(f"<rule {n}>é\U0001f510" for n in range(150_000))
    operations = [{"module": "scribe", "parameters": {"policy": text}}]
    action = case.sign_action(make_action(operations=operations))
    response = await post_action(api, action)
    assert response.code == 202, response.body
    (item,) = response.document["items"]
    assert item["data"][0]["value"]["operations"] == operations
    (file,) = list_spool(api)
    assert json.loads(file.read_text())["operations"] == operations
    again = await post_action(api, action)
    assert again.code == 202 and again.document["items"][0]["href"] == item["href"]
