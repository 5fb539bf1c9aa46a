"""Compliance reports, for people, spreadsheets and CI."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import pytest_twisted

from mig.migctl.exits import ExitStatus
from mig.migctl.summary import fit_bar
from tests.support import fleet
from tests.support.migctl import run_migctl
from tests.support.postgres import TestDatabase

AGENTS = 25


def insert_report(database: TestDatabase) -> None:
    """Add an action whose check 25 agents fail and web1 passes."""
    agents = [
        fleet.make_agent(number, name=f"db{number:02}", queueloc=f"db{number}")
        for number in range(100, 100 + AGENTS)
    ]
    fleet.insert_rows(database.dsn, "agents", agents)
    threat = {"family": "compliance", "type": "system", "level": "high"}
    action = fleet.make_action(7, threat=threat, operations=[{"module": "file", "parameters": {}}])
    fleet.insert_rows(database.dsn, "actions", [action])
    commands = [
        fleet.make_command(
            1_000 + agent,
            7,
            agent,
            starttime="now",
            results=fleet.make_results(fleet.make_hit("" if agent > 1 else "/etc/a"), label="sshd"),
        )
        for agent in (1, *range(100, 100 + AGENTS))
    ]
    fleet.insert_rows(database.dsn, "commands", commands)


@pytest_twisted.ensureDeferred
async def test_a_report_is_written_for_people_and_for_ci(
    service: TestDatabase, tmp_path: Path
) -> None:
    insert_report(service)
    table, junit = tmp_path / "report.csv", tmp_path / "compliance.xml"
    ended = await run_migctl("compliance", "--output", str(table), "--junit", str(junit))
    assert (ended.status, ended.output, ended.errors) == (0, "", "")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["compliance"] for row in rows].count("false") == AGENTS
    assert {(row["policy.name"], row["check.name"]) for row in rows} == {("system", "sshd")}
    [suite] = ElementTree.parse(junit).getroot()
    assert suite.attrib == {"name": "system", "tests": "1", "failures": "1"}
    [case] = suite
    assert case.attrib == {"classname": "system", "name": "sshd"}
    [failure] = case
    assert failure.attrib["message"] == f"{AGENTS} of {AGENTS + 1} answers do not comply"
    named = (failure.text or "").splitlines()
    assert named[-1] == "and others"
    assert len(set(named[:-1])) == 20
    assert set(named[:-1]) <= {f"db{number}" for number in range(100, 100 + AGENTS)}


@pytest_twisted.ensureDeferred
async def test_items_are_chosen_and_printed(service: TestDatabase) -> None:
    insert_report(service)
    ended = await run_migctl("compliance", "--latest", "--compliance", "--level", "high")
    [line] = ended.output.splitlines()
    assert line.split("\t")[:4] == ["web1", "system", "sshd", "compliant"]
    failed = await run_migctl("compliance", "--no-compliance", "--limit", "2", "--format", "json")
    assert {item["compliance"] for item in json.loads(failed.output)} <= {False}


@pytest_twisted.ensureDeferred
async def test_a_summary_counts_the_agents_in_scope(service: TestDatabase, tmp_path: Path) -> None:
    """web2 and web3 have not been asked."""
    insert_report(service)
    ended = await run_migctl("compliance", "--summary")
    assert ended.status == 0, ended.errors
    group = ["system", "sshd", "3.5 %", "1", str(AGENTS), "0", "0", "0", "2", str(AGENTS + 3)]
    assert [line.split("\t") for line in ended.output.splitlines()] == [
        group,
        ["all", "", *group[2:]],
    ]
    file = tmp_path / "summary.csv"
    await run_migctl("compliance", "--summary", "--groupby", "check", "--output", str(file))
    [row, totals] = csv.DictReader(file.read_text().splitlines())
    assert (row["group.check"], row["agents.fail"], row["items.fail"]) == ("sshd", "25", "25")
    assert (totals["group.check"], totals["agents.notasked"]) == ("", "2")
    as_json = await run_migctl("compliance", "--summary", "--format", "json", "--maxage", "1s")
    assert json.loads(as_json.output)[-1]["agents"]["stale"] == AGENTS + 1


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["--fail-under", "3.5"], 0, "migctl: 1 of 28 agents in scope comply: 3.5 %\n"),
        (
            ["--fail-under", "3.6"],
            1,
            "migctl: 1 of 28 agents in scope comply: 3.5 %, less than 3.6 %\n",
        ),
        (["--agentname", "web1", "--fail-under", "100"], 0, "comply: 100.0 %\n"),
        (["--agentname", "web%", "--fail-under", "50"], 1, "1 of 3 agents"),
        (["--agentname", "none", "--fail-under", "0"], 1, "no agent is in scope\n"),
        (["--fail-under", "101"], 2, "--fail-under"),
        (["--fail-under", "nan"], 2, "--fail-under"),
        (["--groupby", "check"], 2, "--groupby and --maxage are for --summary"),
        (["--summary", "--groupby", "moon"], 3, "groupby"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_gate_counts_the_unknown_as_not_compliant(
    service: TestDatabase, options: list[str], status: int, says: str
) -> None:
    insert_report(service)
    ended = await run_migctl("compliance", *options)
    assert (ended.status, ended.output) == (ExitStatus(status), "")
    assert says in ended.errors


@pytest.mark.parametrize(
    ("counts", "widths"),
    [
        ([10, 0, 0], [20, 0, 0]),
        ([1, 99, 0], [1, 19, 0]),
        ([999_997, 1, 2], [18, 1, 1]),
        ([50, 25, 25], [10, 5, 5]),
        ([1, 1, 1], [8, 6, 6]),
        ([0, 0, 0], [0, 0, 0]),
    ],
)
def test_a_bar_shows_every_count_that_is_not_zero(counts: list[int], widths: list[int]) -> None:
    ends = fit_bar(counts, 20)
    assert [end - begin for begin, end in zip([0, *ends], ends, strict=False)] == widths
    assert ends[-1] in (0, 20)
