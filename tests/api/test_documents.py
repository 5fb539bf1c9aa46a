"""Documents and searches over the recorded fleet equal the original's answers."""

from __future__ import annotations

import pytest
import pytest_twisted

from mig.model.permissions import Permission
from tests.support import fleet
from tests.support.api import Api
from tests.support.json_types import Json, JsonObject
from tests.support.postgres import TestDatabase

RECORDED_BASE = "http://localhost:12346/api/v1"


@pytest.fixture
def api_with_fleet(api: Api, database: TestDatabase) -> Api:
    fleet.load_fleet(database.dsn)
    return api


def read_recorded_collection(name: str, base: str) -> Json:
    def replace_base(value: Json) -> Json:
        if isinstance(value, str):
            value = value.replace("http://127.0.0.1:12346/api/v1", base)
            return value.replace(RECORDED_BASE, base)
        if isinstance(value, list):
            return [replace_base(v) for v in value]
        if isinstance(value, dict):
            return {k: replace_base(v) for k, v in value.items()}
        return value

    return replace_base(fleet.read_recording(name)["body"]["collection"])


def find_row(table: str, row_id: int) -> Json:
    [row] = [row for row in fleet.FLEET[table] if row["id"] == row_id]
    return row


def update_agent(recorded: JsonObject) -> JsonObject:
    """Add to the recorded agent what the original left out."""
    row = find_row("agents", recorded["id"])
    times = {
        "starttime": shorten_time(row["starttime"]),
        "destructiontime": shorten_time(row["destructiontime"] or "0001-01-01T00:00:00.000000Z"),
        "heartbeatts": shorten_time(row["heartbeattime"]),
    }
    missing = {name: row[name] for name in ("pid", "status", "environment", "tags")}
    return {**recorded, **times, **missing}


def update_action(recorded: JsonObject, nested: bool) -> JsonObject:
    row = find_row("actions", recorded["id"])
    times = {n: shorten_time(row[n]) for n in ("starttime", "finishtime", "lastupdatetime")}
    signers = [
        {
            **{n: i[n] for n in ("id", "name", "pgpfingerprint", "status")},
            **{n: shorten_time(i[n]) for n in ("createdat", "lastmodified")},
        }
        for i in fleet.FLEET["investigators"]
        if i["id"] in row["signers"]
    ]
    counters: JsonObject = {"counters": {}} if nested else {}
    return {**recorded, **times, "status": row["status"], "investigators": signers, **counters}


def update_command(recorded: JsonObject) -> JsonObject:
    row = find_row("commands", recorded["id"])
    return {
        **recorded,
        "action": update_action(recorded["action"], nested=True),
        "agent": update_agent(recorded["agent"]),
        "results": row["results"] or [],
    }


def shorten_time(time: str) -> str:
    return time.rstrip("Z").rstrip("0").rstrip(".") + "Z"


def update_investigator(recorded: JsonObject) -> JsonObject:
    """Add the permissions, which the original of 2014 did not have."""
    permissions = find_row("investigators", recorded["id"]).get("permissions", 0)
    return {**recorded, "permissions": Permission(permissions).to_json_value()}


@pytest.mark.parametrize(
    ("name", "now"),
    [
        ("action", lambda v: update_action(v, nested=False)),
        ("action-two-signers", lambda v: update_action(v, nested=False)),
        ("agent", update_agent),
        ("command", update_command),
        ("command-sent", update_command),
        ("investigator", update_investigator),
    ],
)
@pytest_twisted.ensureDeferred
async def test_single_documents_match_the_recorded_ones(
    api_with_fleet: Api, name: str, now: Json
) -> None:
    expected = read_recorded_collection(name, api_with_fleet.base)["items"]
    expected[0]["data"][0]["value"] = now(expected[0]["data"][0]["value"])
    path = fleet.read_recording(name)["request"]["path"]
    collection = await api_with_fleet.get_collection(path)
    assert collection["items"] == expected
    assert collection["href"] == api_with_fleet.base + path
    assert set(collection) == {"version", "href", "items"}


@pytest.mark.parametrize(
    ("name", "noun", "now"),
    [
        ("search-action", "action", lambda v: update_action(v, nested=False)),
        ("search-agent", "agent", update_agent),
        ("search-investigator", "investigator", update_investigator),
        ("search-command-limit", "command", update_command),
    ],
)
@pytest_twisted.ensureDeferred
async def test_searches_return_the_recorded_records(
    api_with_fleet: Api, name: str, noun: str, now: Json
) -> None:
    *expected, parameters = read_recorded_collection(name, api_with_fleet.base)["items"]
    path = fleet.read_recording(name)["request"]["path"].replace("limit=2&", "")
    *items, found_parameters = (await api_with_fleet.get_collection(path))["items"]
    assert (
        found_parameters["data"][0]["name"] == parameters["data"][0]["name"] == "search parameters"
    )
    assert set(found_parameters["data"][0]["value"]) == set(parameters["data"][0]["value"])
    found = {item["href"]: item["data"] for item in items}
    for item in expected:
        value = now(item["data"][0]["value"])
        assert found[item["href"]] == [{"name": noun, "value": value}]


@pytest_twisted.ensureDeferred
async def test_the_compliance_report_has_the_recorded_items(api_with_fleet: Api) -> None:
    *expected, _ = read_recorded_collection("compliance", api_with_fleet.base)["items"]
    path = fleet.read_recording("compliance")["request"]["path"]
    items = (await api_with_fleet.get_collection(path))["items"]
    assert {item["data"][0]["name"] for item in items} == {"compliance item"}
    values = [item["data"][0]["value"] for item in items]
    assert [item["href"] for item in items] == [value["link"] for value in values]
    served = [v for v in values if v["check"]["test"]["type"] != "netstat"]
    assert len(served) == len(expected) == 9

    def key(value: JsonObject) -> str:
        return f"{value['link']} {value['check']['test']['value']}"

    recorded_values = sorted((item["data"][0]["value"] for item in expected), key=key)
    for one, recorded in zip(sorted(served, key=key), recorded_values, strict=True):
        quoted = recorded["target"].replace("'", "''")
        assert one.pop("timestamp") == recorded["utctimestamp"]
        assert one == {**recorded, "target": f"agents.name='{quoted}'"}
    assert [v["link"] for v in values] == sorted(
        (v["link"] for v in values), key=_order_newest_first
    )


def _order_newest_first(link: str) -> tuple[str, int]:
    record_id = int(link.rpartition("=")[2])
    day = -int(find_row("commands", record_id)["starttime"][8:10])
    seconds = -int(find_row("commands", record_id)["starttime"][17:19])
    return (f"{100 + day}", seconds * 10**15 - record_id)


@pytest.mark.parametrize("noun", ["action", "agent", "command", "investigator"])
@pytest_twisted.ensureDeferred
async def test_unknown_and_malformed_ids_are_refused(api: Api, noun: str) -> None:
    unknown = await api.get_collection(f"/{noun}?{noun}id=18446744073709551615", 404)
    assert unknown["error"]["message"] == f"there is no {noun} 18446744073709551615"
    for bad in ("", "=", "=0", "=-1", "=1%20", "=18446744073709551616", "=%D9%A3", "=1&x=1"):
        error = (await api.get_collection(f"/{noun}?{noun}id{bad}", 400))["error"]
        assert error["title"] == "Bad Request"
    twice = await api.get_collection(f"/{noun}?{noun}id=1&{noun}id=1", 400)
    assert twice["error"]["message"] == f"{noun}id is given twice"


@pytest_twisted.ensureDeferred
async def test_the_largest_id_is_served_exactly(api: Api, database: TestDatabase) -> None:
    record_id = 18446744073709551615
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(record_id)])
    response = await api.get(f"/agent?agentid={record_id}")
    assert b'"id":18446744073709551615,' in response.body


@pytest_twisted.ensureDeferred
async def test_a_command_without_action_or_agent_is_served(
    api: Api, database: TestDatabase
) -> None:
    fleet.insert_rows(database.dsn, "commands", [fleet.make_command(7, None, None)])
    [item] = (await api.get_collection("/command?commandid=7"))["items"]
    value = item["data"][0]["value"]
    assert (value["id"], value["action"], value["agent"]) == (7, {}, {})
    search = await api.get_collection(f"/search?type=command&{fleet.ANY_TIME}")
    assert search["items"][0] == item
    report = await api.get_collection(
        f"/search?type=command&report=complianceitems&{fleet.ANY_TIME}"
    )
    [item] = report["items"]
    assert item["data"][0]["name"] == "unreadable command"


@pytest_twisted.ensureDeferred
async def test_stored_json_is_served_unchanged(api: Api, database: TestDatabase) -> None:
    results = r'[ {"a": 1.0, "b": 9007199254740993, "c": "\u0000\ud800", "c": 1e400} ]'
    fleet.insert_rows(
        database.dsn, "commands", [fleet.make_command(7, None, None, results=results)]
    )
    response = await api.get("/command?commandid=7")
    assert results.encode() in response.body
