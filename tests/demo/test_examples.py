"""The example requests of the specification are answered by the demo."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.support.api import Api
from tests.support.demo import Demo
from tests.support.json_types import Json

SINGLE = {
    "/action?actionid=6019232215298562584": "action",
    "/agent?agentid=6074883012002259968": "agent",
    "/command?commandid=6019232259520546404": "command",
    "/investigator?investigatorid=1": "investigator",
}
COMPLIANCE = (
    "/search?type=command&threatfamily=compliance&status=done"
    "&report=complianceitems&limit=100000"
    "&after=2014-05-30T00:00:00-04:00&before=2014-05-30T23:59:59-04:00"
)
SEARCHES = {
    COMPLIANCE: "compliance item",
    "/search?type=agent&after=2014-05-30T15:00:00-04:00&limit=200": "agent",
    "/search?type=action&status=sent"
    "&after=2014-05-01T00:00:00-00:00&before=2014-05-30T00:00:00-00:00": "action",
    "/search?investigatorname=%25bob%25smith%25&limit=10&type=command": "command",
}


async def find_data(api: Api, path: str) -> list[Json]:
    """Return the data of each item that is a result."""
    found = await api.get_collection(path)
    data = [item["data"][0] for item in found["items"]]
    return [each for each in data if each["name"] != "search parameters"]


@pytest.mark.parametrize("path", [*SINGLE, *SEARCHES])
@pytest_twisted.ensureDeferred
async def test_each_example_of_the_specification_finds_something(
    api: Api, demo: Demo, path: str
) -> None:
    name = {**SINGLE, **SEARCHES}[path]
    found = await find_data(api, path)
    assert found and {each["name"] for each in found} == {name}
    if path in SINGLE:
        [record] = found
        assert path.endswith(f"id={record['value']['id']}")


@pytest_twisted.ensureDeferred
async def test_the_report_has_the_item_that_the_specification_shows(api: Api, demo: Demo) -> None:
    items = [each["value"] for each in await find_data(api, COMPLIANCE)]
    check = {
        "description": "compliance check for openssh",
        "location": "/etc/ssh/sshd_config",
        "name": "check for verbose logging (logs fingerprints)",
        "test": {"type": "regex", "value": "(?i)^loglevel verbose$"},
    }
    [item] = [
        item
        for item in items
        if item["target"] == "agents.name='server1.prod.example.net'"
        and item["check"]["name"] == check["name"]
    ]
    assert item["policy"] == {
        "level": "medium",
        "name": "system",
        "url": "https://link.to.compliance.reference/index.html",
    }
    assert check.items() <= item["check"].items()
    assert item["compliance"] is True
    assert item["link"] == f"{api.base}/command?commandid=6019232265601776819"
    assert item["timestamp"] == "2014-05-30T14:55:41.907745Z"
    assert {each["compliance"] for each in items} == {True, False}


@pytest_twisted.ensureDeferred
async def test_the_commands_of_the_example_belong_to_its_action(api: Api, demo: Demo) -> None:
    commands = await find_data(
        api, "/search?type=command&actionid=6019232215298562584&after=2014-05-01T00:00:00Z"
    )
    ids = {each["value"]["id"] for each in commands}
    assert {6019232259520546404, 6019232265601776819} <= ids and len(ids) == 20


@pytest_twisted.ensureDeferred
async def test_bob_smith_has_signed_what_ran_in_the_last_hours(api: Api, demo: Demo) -> None:
    found = await find_data(api, "/search?investigatorname=%25bob%25smith%25&limit=10&type=command")
    assert len(found) == 10
    assert {each["value"]["action"]["name"] for each in found} != {"compliance check for openssh"}
    assert all(each["value"]["starttime"].startswith("2098-05-30") for each in found)
