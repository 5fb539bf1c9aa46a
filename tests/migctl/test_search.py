"""Searches print all results, in a format for whoever reads them."""

from __future__ import annotations

import csv
import json
from datetime import datetime
from pathlib import Path

import pytest
import pytest_twisted

from mig.client.filters import NOUNS
from mig.migctl.exits import ExitStatus
from mig.migctl.output import open_complete
from tests.support import fleet
from tests.support.api import Api
from tests.support.migctl import run_migctl
from tests.support.postgres import TestDatabase


@pytest_twisted.ensureDeferred
async def test_a_pipe_gets_lines_with_tabs(service: TestDatabase) -> None:
    ended = await run_migctl("search", "agents", "--agentname", "web1", "--agentname", "web3")
    assert (ended.status, ended.errors) == (0, "")
    cells = [line.split("\t") for line in ended.output.splitlines()]
    assert sorted(cell[1] for cell in cells) == ["web1", "web3"]
    assert {tuple(cell[2:5]) for cell in cells} == {("linux", "1", "heartbeating")}


@pytest_twisted.ensureDeferred
async def test_what_controls_a_terminal_is_escaped(service: TestDatabase) -> None:
    service.execute("update agents set name = E'\\x1b]0;title\\x07' || E'a\\tb\\nc'")
    ended = await run_migctl("search", "agents", "--limit", "1")
    assert "\\x1b]0;title\\x07a\\tb\\nc" in ended.output
    assert "\x1b" not in ended.output


@pytest_twisted.ensureDeferred
async def test_json_has_the_records_with_exact_ids(service: TestDatabase) -> None:
    large = 2**63 + 12_345
    agent = fleet.make_agent(5, name="big", queueloc="big", heartbeattime="now")
    fleet.insert_rows(service.dsn, "agents", [{**agent, "id": large}])
    ended = await run_migctl("search", "agents", "--agentid", str(large), "--format", "json")
    [found] = json.loads(ended.output)
    assert (found["id"], found["name"]) == (large, "big")
    lines = await run_migctl("search", "agents", "--format", "ndjson")
    assert {json.loads(line)["id"] for line in lines.output.splitlines()} == {1, 2, 3, large}
    nothing = await run_migctl("search", "agents", "--os", "plan9", "--format", "json")
    assert (nothing.status, json.loads(nothing.output)) == (0, [])


@pytest.mark.parametrize("noun", NOUNS)
@pytest_twisted.ensureDeferred
async def test_csv_has_the_columns_of_the_service(
    api: Api, database: TestDatabase, monkeypatch: pytest.MonkeyPatch, noun: str
) -> None:
    fleet.load_fleet(database.dsn)
    monkeypatch.setenv("MIG_URL", api.base)
    ended = await run_migctl("search", f"{noun}s", "--after", "-36000d", "--format", "csv")
    assert (ended.status, ended.errors) == (0, "")
    served = await api.get(f"/search?type={noun}&format=csv&{fleet.ANY_TIME}")
    rows = list(csv.DictReader(ended.output.splitlines()))
    expected = list(csv.DictReader(served.body.decode().splitlines()))
    assert [row["id"] for row in rows] == [row["id"] for row in expected]
    assert [*rows[0], "unreadable"] == list(expected[0])


@pytest_twisted.ensureDeferred
async def test_a_file_gets_the_format_of_its_suffix_when_it_is_complete(
    service: TestDatabase, tmp_path: Path
) -> None:
    service.execute("update agents set name = '=1+1' where id = 1")
    file = tmp_path / "agents.csv"
    ended = await run_migctl("search", "agents", "--output", str(file))
    assert (ended.status, ended.output) == (0, "")
    names = {row["name"] for row in csv.DictReader(file.read_text().splitlines())}
    assert names == {"'=1+1", "web2", "web3"}
    before = file.read_bytes()
    failed = await run_migctl("search", "agents", "--after", "soon", "-o", str(file))
    assert failed.status == ExitStatus.REFUSED
    assert file.read_bytes() == before
    assert list(tmp_path.glob(".agents*")) == []
    told = await run_migctl("search", "agents", "--output", str(file.with_suffix(".xml")))
    assert told.status == ExitStatus.USAGE
    assert ".xml is not a format" in told.errors and "--format" in told.errors
    nowhere = tmp_path / "nowhere" / "agents.csv"
    refused = await run_migctl("search", "agents", "--output", str(nowhere))
    assert (refused.status, refused.output) == (ExitStatus.USAGE, "")
    assert refused.errors == f"migctl: {nowhere} cannot be written: No such file or directory\n"


@pytest_twisted.ensureDeferred
async def test_a_dash_is_standard_output_for_records_and_no_file(
    service: TestDatabase,
) -> None:
    printed = await run_migctl("search", "agents", "--format", "csv")
    assert await run_migctl("search", "agents", "--format", "csv", "-o", "-") == printed
    refused = await run_migctl("compliance", "--junit", "-")
    assert refused.status == ExitStatus.USAGE
    assert refused.errors == (
        "migctl: - is not the name of a file\nhint: write ./- for a file of this name\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        ("search", "agents", "--output"),
        ("compliance", "--junit"),
        ("run", "--module", "ping", "--target", "true", "--yes", "--output"),
        ("action", "sign", "action.json", "--output"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_file_that_cannot_be_made_is_refused_first(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Before an action is submitted, and before a service is asked at all."""
    path = tmp_path / "missing" / "file.csv"
    ended = await run_migctl(*command, str(path), MIG_URL="http://localhost:1/")
    assert ended.status == ExitStatus.USAGE
    assert ended.errors == f"migctl: {path} cannot be written: No such file or directory\n"


@pytest_twisted.ensureDeferred
async def test_a_device_is_written_to_as_it_is(service: TestDatabase) -> None:
    ended = await run_migctl("search", "agents", "--format", "csv", "--output", "/dev/null")
    assert (ended.status, ended.errors) == (0, "")
    assert Path("/dev/null").is_char_device()


def test_an_interrupted_file_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_complete(tmp_path / "report.json") as file:
        file.write(b"[")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [tmp_path / "home"]


@pytest_twisted.ensureDeferred
async def test_filters_by_members_and_flags_are_options(service: TestDatabase) -> None:
    service.execute(
        """update agents set tags = '{"operator": "IT"}', environment = '{"arch": "arm64"}'"""
        " where id = 2"
    )
    ended = await run_migctl(
        "search", "agents", "--tag", "operator=it", "--environment", "arch=arm%", "--after", "-1d"
    )
    assert [line.split("\t")[1] for line in ended.output.splitlines()] == ["web2"]
    wrong = await run_migctl("search", "agents", "--tag", "operator")
    assert wrong.status == ExitStatus.USAGE
    assert "it must be NAME=PATTERN, not 'operator'" in wrong.errors


@pytest_twisted.ensureDeferred
async def test_single_records_and_the_dashboard_are_printed(service: TestDatabase) -> None:
    action = fleet.make_action(7, name="look for it", validfrom=datetime.now().isoformat())
    fleet.insert_rows(service.dsn, "actions", [action])
    fleet.insert_rows(service.dsn, "commands", [fleet.make_command(9, 7, 2)])
    shown = await run_migctl("command", "show", "9")
    assert "action name  look for it\n" in shown.output
    assert "agent name   web2\n" in shown.output
    as_json = await run_migctl("agent", "show", "2", "--format", "json")
    assert json.loads(as_json.output)["name"] == "web2"
    assert "name            look for it\n" in (await run_migctl("action", "show", "7")).output
    status = await run_migctl("status")
    assert "\n7\tlook for it\tcompleted\t" in status.output
    assert "online agents" in status.output
