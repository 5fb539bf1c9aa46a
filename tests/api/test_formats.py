"""Every answer with records can be had in every format, and has the same records in each."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime

import pytest
import pytest_twisted

from tests.support import fleet
from tests.support.api import Answer, Api
from tests.support.formats import (
    flatten_items,
    read_items,
    read_lines,
    read_rows,
    select_members,
)
from tests.support.json_types import JsonObject
from tests.support.postgres import MANY_COMMANDS, TestDatabase

NDJSON = "application/x-ndjson"
KINDS = ("agent", "action", "command", "investigator")
REPORT = "type=command&report=complianceitems"
SEARCHES = (*(f"type={kind}" for kind in KINDS), REPORT)
GOOD = fleet.make_results(fleet.make_hit())


@pytest.fixture
def api_with_fleet(api: Api, database: TestDatabase) -> Api:
    """The API of the recorded fleet, with records that cannot be read."""
    fleet.load_fleet(database.dsn)
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1)])
    odd_action = fleet.make_action(2, validfrom="infinity")
    fleet.insert_rows(database.dsn, "actions", [fleet.make_action(1), odd_action])
    odd = {"results": r'[{"elements":{"a":[{"file":"\u0000"}]}}]', "finishtime": "infinity"}
    missing = fleet.make_command(102, None, None, results=GOOD)
    rows = [fleet.make_command(101, 1, 1, **odd), missing]
    fleet.insert_rows(database.dsn, "commands", rows)
    return api


async def get(api: Api, path: str, *, status: int = 200, accept: str = "") -> Answer:
    answer = await api.get(path, headers={"Accept": accept} if accept else {})
    assert answer.code == status, answer.body
    return answer


@pytest_twisted.ensureDeferred
async def test_a_search_has_the_same_records_in_every_format(api_with_fleet: Api) -> None:
    for search in SEARCHES:
        path = f"/search?{search}&{fleet.ANY_TIME}"
        expected = read_items((await get(api_with_fleet, path)).document)
        assert len(expected) > 1
        lines = await get(api_with_fleet, f"{path}&format=ndjson")
        assert read_lines(lines.body) == expected
        assert lines.get_header("content-type") == NDJSON
        rows = await get(api_with_fleet, f"{path}&format=csv&raw=true")
        assert read_rows(rows.body) == flatten_items(expected, search.rpartition("=")[2])
        assert rows.get_header("content-type") == "text/csv; charset=utf-8"


@pytest_twisted.ensureDeferred
async def test_a_single_document_is_one_line_or_row(api_with_fleet: Api) -> None:
    for kind in KINDS:
        for row in fleet.FLEET[f"{kind}s"]:
            path = f"/{kind}?{kind}id={row['id']}"
            expected = read_items((await get(api_with_fleet, path)).document)
            assert read_lines((await get(api_with_fleet, f"{path}&format=ndjson")).body) == expected
            assert read_lines((await get(api_with_fleet, path, accept=NDJSON)).body) == expected
            rows = await get(api_with_fleet, f"{path}&format=csv&raw=true")
            assert read_rows(rows.body) == flatten_items(expected, kind)
            sealed = (await get(api_with_fleet, f"{path}&format=ndjson&seal=true")).body
            [found, end] = read_lines(sealed)
            assert [found] == expected
            assert end["end"] == {
                "rows": 1,
                "items": 1,
                "next": None,
                "snapshot": True,
                "sha256": hashlib.sha256(sealed[: sealed.index(b"\n") + 1]).hexdigest(),
            }


@pytest_twisted.ensureDeferred
async def test_a_download_has_a_name_with_its_type_and_date(api_with_fleet: Api) -> None:
    for path, name in (
        ("/search?", "mig-action"),
        ("/search?type=agent&", "mig-agent"),
        (f"/search?{REPORT}&", "mig-complianceitems"),
        ("/agent?agentid=1&", "mig-agent"),
    ):
        for format_ in ("ndjson", "csv"):
            before = datetime.now(UTC).date()
            answer = await get(api_with_fleet, f"{path}format={format_}")
            days = {before, datetime.now(UTC).date()}
            names = {f'attachment; filename="{name}-{day}.{format_}"' for day in days}
            assert answer.get_header("content-disposition") in names
        plain = await get(api_with_fleet, path)
        assert not plain.headers.hasHeader("content-disposition")


@pytest_twisted.ensureDeferred
async def test_the_parameter_format_wins_over_the_header_accept(api_with_fleet: Api) -> None:
    path = "/search?type=agent"
    for accept, format_, media_type in (
        (NDJSON, "", NDJSON),
        (f"{NDJSON};q=0.5, application/json;q=0.4", "", NDJSON),
        (f"application/json, {NDJSON};q=0.9", "", "application/json"),
        (NDJSON, "collection", "application/vnd.collection+json"),
        (f"{NDJSON}, application/json;q=0.1", "collection", "application/json"),
        ("text/csv", "", "text/csv; charset=utf-8"),
        (f"text/csv;header=present, {NDJSON};q=0.5", "", "text/csv; charset=utf-8"),
        (NDJSON, "csv", "text/csv; charset=utf-8"),
        ("application/vnd.collection+json", "ndjson", NDJSON),
        ("", "ndjson", NDJSON),
    ):
        answer = await get(api_with_fleet, f"{path}&format={format_}", accept=accept)
        assert answer.get_header("content-type") == media_type


@pytest_twisted.ensureDeferred
async def test_a_search_without_a_limit_is_whole(api: Api, large_database: TestDatabase) -> None:
    """Collection+JSON still has the default limit of 10,000."""
    path = f"/search?type=command&{fleet.ANY_TIME}"
    lines = (await get(api, f"{path}&format=ndjson")).body.count(b"\n")
    assert lines == MANY_COMMANDS > 10_000
    assert len(read_rows((await get(api, f"{path}&format=csv")).body)) == MANY_COMMANDS
    assert len((await get(api, path)).document["items"]) == 10_000 + 1


@pytest_twisted.ensureDeferred
async def test_a_client_follows_the_seals_to_the_end(api_with_fleet: Api) -> None:
    """The same lines come as without a limit, and each page proves that it is whole."""
    for search in ("type=command", REPORT):
        await follow_seals(api_with_fleet, search)


async def follow_seals(api: Api, search: str) -> None:
    path = f"/search?{search}&{fleet.ANY_TIME}&format=ndjson"
    whole = (await get(api, path)).body
    found, rows = b"", 0
    url: str | None = f"{path}&limit=2"
    while url:
        answer = await get(api, url)
        if not answer.body.rpartition(b'{"end":')[1]:
            found += answer.body
            break
        lines, mark, end = answer.body.rpartition(b'{"end":')
        seal: JsonObject = json.loads(mark + end)["end"]
        assert seal["sha256"] == hashlib.sha256(lines).hexdigest()
        assert (seal["rows"], seal["items"]) == (2, lines.count(b"\n"))
        assert seal["snapshot"] is True
        found, rows, url = found + lines, rows + 2, seal["next"]
    assert found == whole
    sealed = (await get(api, f"{path}&seal=true")).body
    assert sealed.startswith(whole)
    end = read_lines(sealed)[-1]["end"]
    assert end["next"] is None and end["items"] == whole.count(b"\n") and end["rows"] > rows
    assert end["sha256"] == hashlib.sha256(whole).hexdigest()


@pytest_twisted.ensureDeferred
async def test_an_empty_answer_has_no_line_but_its_seal(api: Api) -> None:
    for search in SEARCHES:
        assert (await get(api, f"/search?{search}&format=ndjson&limit=5")).body == b""
        sealed = (await get(api, f"/search?{search}&format=ndjson&seal=true")).body
        [line] = read_lines(sealed)
        assert line["end"] == {
            "rows": 0,
            "items": 0,
            "next": None,
            "snapshot": True,
            "sha256": hashlib.sha256().hexdigest(),
        }


@pytest_twisted.ensureDeferred
async def test_ids_are_strings_when_a_client_wants_text(api_with_fleet: Api) -> None:
    paths = [f"/search?{search}&{fleet.ANY_TIME}" for search in SEARCHES]
    paths += [f"/{kind}?{kind}id={fleet.FLEET[f'{kind}s'][0]['id']}" for kind in KINDS]
    for path in (*paths, f"{paths[2]}&actionid={fleet.FLEET['actions'][0]['id']}", "/dashboard?"):
        await compare_ids(api_with_fleet, path)


async def compare_ids(api: Api, path: str) -> None:
    formats = ("collection",) if "dashboard" in path else ("collection", "ndjson")
    for format_ in formats:
        plain = (await get(api, f"{path}&format={format_}")).body.decode()
        text = (await get(api, f"{path}&format={format_}&ids=text")).body.decode()
        plain, text = (
            re.sub(r'"counts age".*?\}|"href":"[^"]*"', "", each) for each in (plain, text)
        )
        numbers = re.compile(r'"((?:action|agent|command|investigator)?id)":([0-9]+)')
        assert not numbers.search(text)
        assert numbers.sub(r'"\1":"\2"', plain) == text
        again = (await get(api, f"{path}&format={format_}&ids=number")).body.decode()
        assert re.sub(r'"counts age".*?\}|"href":"[^"]*"', "", again) == plain


@pytest_twisted.ensureDeferred
async def test_an_answer_has_only_the_fields_that_a_client_wants(api_with_fleet: Api) -> None:
    one = f"/action?actionid={fleet.FLEET['actions'][0]['id']}"
    for path, fields, has_whole in (
        (f"/search?type=agent&{fleet.ANY_TIME}", "id,name,status", True),
        (f"/search?type=command&{fleet.ANY_TIME}", "action,agent.name,id", False),
        (f"/search?{REPORT}&{fleet.ANY_TIME}", "policy,check.test.value,compliance", True),
        (one, "name,threat", True),
    ):
        wanted = fields.split(",")
        whole = read_rows((await get(api_with_fleet, f"{path}&format=csv")).body)
        some = read_rows((await get(api_with_fleet, f"{path}&format=csv&fields={fields}")).body)
        selected = [
            {name: cell for name, cell in row.items() if is_below(name, wanted)} for row in whole
        ]
        assert some == selected
        lines = read_lines((await get(api_with_fleet, f"{path}&format=ndjson")).body)
        less = read_lines((await get(api_with_fleet, f"{path}&format=ndjson&fields={fields}")).body)
        assert len(lines) == len(less) == len(whole)
        for line, found in zip(lines, less, strict=True):
            if "unreadable" in line:
                assert found == line
            elif has_whole:
                assert found == select_members(line, wanted)
            else:
                assert list(found) == ["id", "action", "agent"]
                assert list(found["action"]) == ["id", "name"]
                assert found["agent"] == {"name": line["agent"].get("name")}
    for path in ("/search?type=agent", "/agent?agentid=1", f"/search?{REPORT}"):
        refused = await get(api_with_fleet, f"{path}&format=csv&fields=nothing", status=400)
        message = refused.document["error"]["message"]
        assert "fields must be names of fields, not 'nothing'" in message and "unread" in message
        await get(api_with_fleet, f"{path}&fields=id", status=400)


def is_below(name: str, wanted: list[str]) -> bool:
    return any(f"{name}.".startswith(f"{each}.") for each in wanted)


@pytest_twisted.ensureDeferred
async def test_the_total_is_in_the_seal_and_in_a_header(api_with_fleet: Api) -> None:
    path = f"/search?type=command&{fleet.ANY_TIME}&total=true&limit=2"
    count = len(fleet.FLEET["commands"]) + 2
    lines = await get(api_with_fleet, f"{path}&format=ndjson")
    assert read_lines(lines.body)[-1]["end"]["total"] == count
    for answer in (lines, await get(api_with_fleet, f"{path}&format=csv")):
        assert answer.get_header("x-total-count") == str(count)


@pytest_twisted.ensureDeferred
async def test_an_option_that_does_not_fit_is_refused_naming_both(api: Api) -> None:
    for query, names in (
        ("seal=true", ("seal", "collection", "ndjson")),
        ("seal=true&format=csv", ("seal", "csv", "ndjson")),
        ("raw=true", ("raw", "collection", "csv")),
        ("bom=false&format=ndjson", ("bom", "ndjson", "csv")),
        ("ids=text&format=csv", ("ids", "csv", "collection", "ndjson")),
        ("format=xml", ("format", "collection", "ndjson", "csv")),
        ("format=ndjson&seal=yes", ("seal", "true", "false")),
        ("ids=hex", ("ids", "number", "text")),
        ("format=ndjson&format=ndjson", ("format", "twice")),
    ):
        for path in ("/search?", f"/search?{REPORT}&", "/agent?agentid=1&"):
            answer = await get(api, path + query, status=400)
            assert answer.get_header("content-type") == "application/vnd.collection+json"
            assert not answer.headers.hasHeader("content-disposition")
            message = answer.document["error"]["message"]
            assert all(name in message for name in names), message


@pytest_twisted.ensureDeferred
async def test_csv_has_a_header_line_without_rows_too(api: Api) -> None:
    for search in SEARCHES:
        answer = await get(api, f"/search?{search}&format=csv")
        assert answer.body.count(b"\r\n") == 1 and answer.body.endswith(b",unreadable\r\n")
        assert not answer.headers.hasHeader("x-limit")
        marked = await get(api, f"/search?{search}&format=csv&bom=true&limit=3")
        assert marked.body == b"\xef\xbb\xbf" + answer.body
        assert marked.get_header("x-limit") == "3"


@pytest_twisted.ensureDeferred
async def test_no_cell_runs_in_a_spreadsheet_unless_it_is_raw(
    api: Api, database: TestDatabase
) -> None:
    command = "=HYPERLINK(\"http://evil\", 'x')"
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1, name=command)])
    path = f"/search?type=agent&{fleet.ANY_TIME}&format=csv"
    assert read_rows((await get(api, path)).body)[0]["name"] == f"'{command}"
    assert read_rows((await get(api, f"{path}&raw=true")).body)[0]["name"] == command


@pytest_twisted.ensureDeferred
async def test_errors_are_collection_json_in_every_format(api: Api) -> None:
    for path, status in (
        ("/search?format=ndjson&limit=0", 400),
        ("/search?format=ndjson&offset=0", 404),
        ("/agent?agentid=1&format=ndjson", 404),
        ("/dashboard?format=ndjson", 400),
        ("/heartbeat?format=ndjson", 400),
    ):
        answer = await get(api, path, status=status, accept=NDJSON)
        assert answer.get_header("content-type") == "application/vnd.collection+json"
        assert not answer.headers.hasHeader("content-disposition")
        assert answer.document["error"]["message"]


@pytest_twisted.ensureDeferred
async def test_the_dashboard_names_the_format_that_it_has(api: Api) -> None:
    answer = await get(api, "/dashboard?format=ndjson", status=400)
    assert "format must be collection" in answer.document["error"]["message"]
    assert (await get(api, "/dashboard", accept=NDJSON)).document["items"]


@pytest_twisted.ensureDeferred
async def test_a_head_request_has_the_headers_of_the_format(api: Api) -> None:
    for path in ("/search?type=agent&limit=7&format=csv", "/search?type=agent&format=ndjson"):
        head = await api.request("HEAD", path)
        whole = await api.get(path)
        for name in ("content-type", "content-disposition", "vary", "x-limit"):
            assert head.headers.getRawHeaders(name) == whole.headers.getRawHeaders(name)
        assert head.headers.hasHeader("x-limit") == ("limit" in path)
