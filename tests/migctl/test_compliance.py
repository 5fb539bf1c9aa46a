"""Compliance reports, for people, spreadsheets and CI."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest_twisted

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
