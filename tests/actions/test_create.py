"""Actions that clients of both generations signed, posted to the real service."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from tests.conftest import Api, TestDatabase
from tests.fleet import VECTORS, load

ACTIONS = sorted((VECTORS / "actions").glob("*.json"))


def spooled(api: Api) -> list[Path]:
    assert api.spool
    return sorted((api.spool / "action" / "new").iterdir())


async def post(api: Api, action: Any, **kw: Any) -> Any:
    text = action if isinstance(action, str) else json.dumps(action)
    response = await api.request("POST", "/action/create/", data={"action": text}, **kw)
    response.document = json.loads(response.body)["collection"]
    return response


@pytest.mark.parametrize("path", ACTIONS, ids=lambda path: path.stem)
@pytest_twisted.ensureDeferred
async def test_every_recorded_action_is_taken_stored_and_handed_over(
    api: Api, database: TestDatabase, path: Path
) -> None:
    load(database.dsn)
    response = await post(api, path.read_text())
    assert response.code == 202, response.body
    (item,) = response.document["items"]
    assert response.headers.getRawHeaders("Location") == [item["href"]]
    served = item["data"][0]["value"]
    assert served["status"] == "init" and served["investigators"][0]["name"] == "Bob Kelso"
    (file,) = spooled(api)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    given, handed = json.loads(path.read_text()), json.loads(file.read_text())
    assert handed.pop("id") == served["id"] < 2**53
    assert file.name == f"{served['id']}.json"
    assert handed == {
        **{name: given[name] for name in handed if name in given},
        "status": "init",
        "starttime": "0011-01-11T11:11:11.000000011Z",
        "finishtime": "9998-01-11T11:11:11.000000011Z",
        "lastupdatetime": "0011-01-11T11:11:11.000000011Z",
    }
