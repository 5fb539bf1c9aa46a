"""Single documents and searches over the recorded fleet, compared with the original's answers."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.support import fleet
from tests.support.api import Api
from tests.support.documents import Json, JsonObject
from tests.support.postgres import TestDatabase

RECORDED_BASE = "http://localhost:12346/api/v1"


@pytest.fixture
def api_with_fleet(api: Api, database: TestDatabase) -> Api:
    fleet.load(database.dsn)
    return api


def recorded_collection(name: str, base: str) -> Json:
    def here(value: Json) -> Json:
        if isinstance(value, str):
            value = value.replace("http://127.0.0.1:12346/api/v1", base)
            return value.replace(RECORDED_BASE, base)
        if isinstance(value, list):
            return [here(v) for v in value]
        if isinstance(value, dict):
            return {k: here(v) for k, v in value.items()}
        return value

    return here(fleet.recorded(name)["body"]["collection"])


def stored(table: str, id: int) -> Json:
    [row] = [row for row in fleet.FLEET[table] if row["id"] == id]
    return row


def agent_now(recorded: JsonObject) -> JsonObject:
    """The recorded agent with what the original dropped (platform.md)."""
    row = stored("agents", recorded["id"])
    times = {
        "starttime": short(row["starttime"]),
        "destructiontime": short(row["destructiontime"] or "0001-01-01T00:00:00.000000Z"),
        "heartbeatts": short(row["heartbeattime"]),
    }
    rest = {name: row[name] for name in ("pid", "status", "environment", "tags")}
    return {**recorded, **times, **rest}


def action_now(recorded: JsonObject, nested: bool) -> JsonObject:
    row = stored("actions", recorded["id"])
    times = {n: short(row[n]) for n in ("starttime", "finishtime", "lastupdatetime")}
    signers = [
        {
            **{n: i[n] for n in ("id", "name", "pgpfingerprint", "status")},
            **{n: short(i[n]) for n in ("createdat", "lastmodified")},
        }
        for i in fleet.FLEET["investigators"]
        if i["id"] in row["signers"]
    ]
    counters: JsonObject = {"counters": {}} if nested else {}
    return {**recorded, **times, "status": row["status"], "investigators": signers, **counters}


def command_now(recorded: JsonObject) -> JsonObject:
    row = stored("commands", recorded["id"])
    return {
        **recorded,
        "action": action_now(recorded["action"], nested=True),
        "agent": agent_now(recorded["agent"]),
        "results": row["results"] or [],
    }


def short(time: str) -> str:
    return time.rstrip("Z").rstrip("0").rstrip(".") + "Z"


@pytest.mark.parametrize(
    ("name", "now"),
    [
        ("action", lambda v: action_now(v, nested=False)),
        ("action-two-signers", lambda v: action_now(v, nested=False)),
        ("agent", agent_now),
        ("command", command_now),
        ("command-sent", command_now),
        ("investigator", lambda v: v),
    ],
)
@pytest_twisted.ensureDeferred
async def test_single_documents_are_the_recorded_ones(
    api_with_fleet: Api, name: str, now: Json
) -> None:
    expected = recorded_collection(name, api_with_fleet.base)["items"]
    expected[0]["data"][0]["value"] = now(expected[0]["data"][0]["value"])
    path = fleet.recorded(name)["request"]["path"]
    collection = await api_with_fleet.collection(path)
    assert collection["items"] == expected
    assert collection["href"] == api_with_fleet.base + path
    assert set(collection) == {"version", "href", "items"}


@pytest.mark.parametrize(
    ("name", "noun", "now"),
    [
        ("search-action", "action", lambda v: action_now(v, nested=False)),
        ("search-agent", "agent", agent_now),
        ("search-investigator", "investigator", lambda v: v),
        ("search-command-limit", "command", command_now),
    ],
)
@pytest_twisted.ensureDeferred
async def test_searches_hold_the_recorded_records(
    api_with_fleet: Api, name: str, noun: str, now: Json
) -> None:
    *expected, parameters = recorded_collection(name, api_with_fleet.base)["items"]
    path = fleet.recorded(name)["request"]["path"].replace("limit=2&", "")
    *items, shown = (await api_with_fleet.collection(path))["items"]
    assert shown["data"][0]["name"] == parameters["data"][0]["name"] == "search parameters"
    assert set(shown["data"][0]["value"]) == set(parameters["data"][0]["value"])
    found = {item["href"]: item["data"] for item in items}
    for item in expected:
        value = now(item["data"][0]["value"])
        assert found[item["href"]] == [{"name": noun, "value": value}]


@pytest_twisted.ensureDeferred
async def test_the_compliance_report_has_the_recorded_items(api_with_fleet: Api) -> None:
    *expected, _ = recorded_collection("compliance", api_with_fleet.base)["items"]
    path = fleet.recorded("compliance")["request"]["path"]
    items = (await api_with_fleet.collection(path))["items"]
    assert {item["data"][0]["name"] for item in items} == {"compliance item"}
    values = [item["data"][0]["value"] for item in items]
    assert [item["href"] for item in items] == [value["link"] for value in values]
    ours = [v for v in values if v["check"]["test"]["type"] != "netstat"]
    assert len(ours) == len(expected) == 9

    def key(value: JsonObject) -> str:
        return f"{value['link']} {value['check']['test']['value']}"

    theirs = sorted((item["data"][0]["value"] for item in expected), key=key)
    for one, recorded in zip(sorted(ours, key=key), theirs, strict=True):
        quoted = recorded["target"].replace("'", "''")
        assert one.pop("timestamp") == recorded["utctimestamp"]
        assert one == {**recorded, "target": f"agents.name='{quoted}'"}
    assert [v["link"] for v in values] == sorted((v["link"] for v in values), key=_newest)


def _newest(link: str) -> tuple[str, int]:
    id = int(link.rpartition("=")[2])
    day = -int(stored("commands", id)["starttime"][8:10])
    seconds = -int(stored("commands", id)["starttime"][17:19])
    return (f"{100 + day}", seconds * 10**15 - id)


@pytest.mark.parametrize("noun", ["action", "agent", "command", "investigator"])
@pytest_twisted.ensureDeferred
async def test_ids(api: Api, noun: str) -> None:
    unknown = await api.collection(f"/{noun}?{noun}id=18446744073709551615", 404)
    assert unknown["error"]["message"] == f"there is no {noun} 18446744073709551615"
    for bad in ("", "=", "=0", "=-1", "=1%20", "=18446744073709551616", "=%D9%A3", "=1&x=1"):
        error = (await api.collection(f"/{noun}?{noun}id{bad}", 400))["error"]
        assert error["title"] == "Bad Request"
    twice = await api.collection(f"/{noun}?{noun}id=1&{noun}id=1", 400)
    assert twice["error"]["message"] == f"{noun}id is given twice"


@pytest_twisted.ensureDeferred
async def test_the_largest_id_is_exact(api: Api, database: TestDatabase) -> None:
    id = 18446744073709551615
    fleet.insert(database.dsn, "agents", [fleet.agent(id)])
    response = await api.get(f"/agent?agentid={id}")
    assert b'"id":18446744073709551615,' in response.body


@pytest_twisted.ensureDeferred
async def test_a_command_without_action_or_agent_is_served(
    api: Api, database: TestDatabase
) -> None:
    fleet.insert(database.dsn, "commands", [fleet.command(7, None, None)])
    [item] = (await api.collection("/command?commandid=7"))["items"]
    value = item["data"][0]["value"]
    assert (value["id"], value["action"], value["agent"]) == (7, {}, {})
    search = await api.collection(f"/search?type=command&{fleet.ALWAYS}")
    assert search["items"][0] == item
    report = await api.collection(f"/search?type=command&report=complianceitems&{fleet.ALWAYS}")
    [item] = report["items"]
    assert item["data"][0]["name"] == "unreadable command"


@pytest_twisted.ensureDeferred
async def test_stored_json_is_served_to_the_letter(api: Api, database: TestDatabase) -> None:
    results = r'[ {"a": 1.0, "b": 9007199254740993, "c": "\u0000\ud800", "c": 1e400} ]'
    fleet.insert(database.dsn, "commands", [fleet.command(7, None, None, results=results)])
    response = await api.get("/command?commandid=7")
    assert results.encode() in response.body
