"""A summary over HTTP: every format, the links to its items, and what it refuses."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable
from urllib.parse import parse_qsl, urlencode

import pytest
import pytest_twisted

from mig.limits import Limits
from tests.support import fleet
from tests.support.api import Api
from tests.support.json_types import JsonObject
from tests.support.postgres import TestDatabase

SUMMARY = "/search?type=command&report=compliancesummary&after=2025-12-01T00:00:00Z"
LABELS: JsonObject = {"searches": {"ssh": {}, "50%_\\": {}}}
NEWER = {"starttime": "2026-01-02T00:00:00Z", "finishtime": "2026-01-02T00:00:01.5Z"}


@pytest.fixture
def api_with_commands(api: Api, database: TestDatabase) -> Api:
    """Three agents that were asked for two checks, and one that was not."""
    action = fleet.make_action(
        1,
        threat={"type": "system", "level": "high"},
        operations=[{"module": "file", "parameters": LABELS}],
    )
    fleet.insert_rows(database.dsn, "actions", [action])
    agents = [fleet.make_agent(n, os="linux", tags={"team": f"T{n % 2}"}) for n in range(1, 4)]
    fleet.insert_rows(database.dsn, "agents", [*agents, fleet.make_agent(4, os="bsd", tags={})])
    both = fleet.make_results(fleet.make_hit())
    both[0]["elements"] = {"ssh": [fleet.make_hit()], "50%_\\": [fleet.make_hit("")]}
    commands = [
        fleet.make_command(1, 1, 1, results=both),
        fleet.make_command(2, 1, 2, results=both, **NEWER),
        fleet.make_command(3, 1, 3, status="expired", **NEWER),
    ]
    fleet.insert_rows(database.dsn, "commands", commands)
    return api


async def summarize(api: Api, parameters: str = "") -> list[JsonObject]:
    """Return the groups of a summary, after comparing NDJSON and CSV with Collection+JSON."""
    document = await api.get_collection(SUMMARY + parameters)
    data = [item["data"][0] for item in document["items"]]
    assert {each["name"] for each in data} == {"compliance summary"}
    found = [each["value"] for each in data]
    lines = (await api.get(f"{SUMMARY}{parameters}&format=ndjson")).body.splitlines()
    assert list(map(json.loads, lines)) == found
    answer = await api.get(f"{SUMMARY}{parameters}&format=csv")
    rows = list(csv.DictReader(io.StringIO(answer.body.decode(), newline="")))
    names = dict(parse_qsl(parameters)).get("groupby", "policy,check").split(",")
    assert rows == [
        {
            **{f"group.{name}": each["group"].get(name) or "" for name in names},
            **{f"items.{name}": str(count) for name, count in each["items"].items()},
            **{f"agents.{name}": str(count) for name, count in each["agents"].items()},
            **{
                name: str(each[name] or "" if each[name] != 0 else 0.0)
                for name in ("rate", "first", "last")
            },
            "unreadable": "",
        }
        for each in found
    ]
    return found


@pytest_twisted.ensureDeferred
async def test_a_summary_tells_who_passes_and_who_did_not_answer(api_with_commands: Api) -> None:
    unasked = {"pass": 0, "fail": 0, "unknown": 1, "pending": 0, "stale": 0, "notasked": 0}
    failed, passed, totals = await summarize(api_with_commands)
    times = {"first": "2026-01-01T00:00:01Z", "last": "2026-01-02T00:00:01.5Z"}
    assert failed == {
        "group": {"policy": "system", "check": "50%_\\"},
        "items": {"pass": 0, "fail": 2},
        "agents": {**unasked, "fail": 2, "total": 3},
        "rate": 0.0,
        **times,
    }
    assert passed == {
        "group": {"policy": "system", "check": "ssh"},
        "items": {"pass": 2, "fail": 0},
        "agents": {**unasked, "pass": 2, "total": 3},
        "rate": 2 / 3,
        **times,
    }
    assert totals == {**failed, "group": {}, "items": {"pass": 2, "fail": 2}}
    *groups, _ = await summarize(api_with_commands, "&groupby=os,tag.team&scope=agents")
    assert [(each["group"], each["agents"]["total"]) for each in groups] == [
        ({"os": "linux", "tag.team": "T0"}, 1),
        ({"os": "linux", "tag.team": "T1"}, 2),
        ({"os": "bsd", "tag.team": None}, 1),
    ]
    assert await summarize(api_with_commands, "&agentid=4") == [
        {**totals, "items": {"pass": 0, "fail": 0}, "agents": {**unasked, "unknown": 0, "total": 0}}
        | {"rate": None, "first": None, "last": None}
    ]


@pytest_twisted.ensureDeferred
async def test_a_summary_by_a_tag_with_any_name(api_with_commands: Api) -> None:
    for name in ('"', "\\", "\n", "\x7f\x01", "a.b", "<b>", "é😀", "=1+1", "%s", "{0}", "group"):
        groupby = f"tag.{name}"
        *groups, _ = await summarize(api_with_commands, "&" + urlencode({"groupby": groupby}))
        assert [each["group"] for each in groups] == [{groupby: None}]
        fields = urlencode({"groupby": groupby, "fields": f"group.{groupby},rate"})
        answer = await api_with_commands.get(f"{SUMMARY}&{fields}&format=ndjson")
        assert json.loads(answer.body.splitlines()[0]) == {"group": {groupby: None}, "rate": 0.0}
        page = await api_with_commands.get(
            f"{SUMMARY}&{urlencode({'groupby': groupby})}", headers={"Accept": "text/html"}
        )
        assert page.code == 200 and b"<b>" not in page.body


@pytest_twisted.ensureDeferred
async def test_a_group_links_to_its_items_in_the_report(api_with_commands: Api) -> None:
    for groupby in ("policy,check", "level,action", "os,version", "tag.team,check", "day"):
        parameters = f"&groupby={groupby}&check=ssh&check=50\\%25\\_%25&tag.team=T%25&total=true"
        document = await api_with_commands.get_collection(SUMMARY + parameters)
        for item in document["items"]:
            [link] = item["links"]
            assert (link["rel"], link["href"]) == ("items", item["href"])
            report = await api_with_commands.get_collection(item["href"])
            compliances = [each["data"][0]["value"]["compliance"] for each in report["items"]]
            counts = item["data"][0]["value"]["items"]
            if groupby != "day":
                assert counts == {"pass": compliances.count(True), "fail": compliances.count(False)}


@pytest_twisted.ensureDeferred
async def test_a_summary_in_ndjson_has_a_seal_and_selected_fields(api_with_commands: Api) -> None:
    options = "&groupby=tag.team&fields=group,rate&seal=true&total=true&format=ndjson"
    answer = await api_with_commands.get(SUMMARY + options)
    *lines, end = map(json.loads, answer.body.splitlines())
    assert lines[:2] == [
        {"group": {"tag.team": "T0"}, "rate": 0.0},
        {"group": {"tag.team": "T1"}, "rate": 0.0},
    ]
    assert (end["end"]["rows"], end["end"]["items"], end["end"]["total"]) == (3, 3, 3)
    name = answer.get_header("content-disposition")
    assert "mig-compliancesummary-" in name and name.endswith('.ndjson"')


@pytest_twisted.ensureDeferred
async def test_a_summary_that_needs_too_much_memory_is_refused(
    start_api: Callable[[Limits], Api], api_with_commands: Api
) -> None:
    api = start_api(Limits(summary_bytes=3_000))
    refused = await api.get(SUMMARY)
    assert refused.code == 400
    assert "groups that take at most 3000 bytes" in refused.document["error"]["message"]
    assert (await api.get(f"{SUMMARY}&{urlencode({'check': 'ssh'})}")).code == 200


@pytest_twisted.ensureDeferred
async def test_a_browser_sees_the_worst_groups_and_a_link_to_all(
    api: Api, database: TestDatabase
) -> None:
    agents = [fleet.make_agent(n, version=f"{n:03}") for n in range(1, 501)]
    fleet.insert_rows(database.dsn, "agents", agents)
    path = f"{SUMMARY}&groupby=version&scope=agents"
    page = (await api.get(path, headers={"Accept": "text/html"})).body.decode()
    assert page.count("</tr>") == 1 + 499 + 1  # the titles, and the totals
    assert ">499<" in page and ">500</td>" in page
    assert "the first of 500 groups are here; all of them as CSV" in page
    *_, href = re.findall(r'href="([^"]*format=csv)"', page)
    whole = await api.get(html.unescape(href).removeprefix("/api/v1"))
    assert whole.body.count(b"\n") == 1 + 500 + 1
