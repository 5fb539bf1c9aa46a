"""A record encodes what is stored to the character, and its schema says what that is."""

from __future__ import annotations

import json

import pytest
from msgspec import Raw

from mig.model.action import Action
from mig.model.agent import Agent, AgentRow
from mig.model.apikey import ApiKey
from mig.model.audit import AuditEntry
from mig.model.command import Command
from mig.model.compliance import ComplianceItem, ComplianceSummary
from mig.model.investigator import Investigator
from mig.model.record import Record
from mig.model.search import SearchParameters
from mig.values import MAX_ID

RECORDS: list[type[Record]] = [
    Action,
    Agent,
    ApiKey,
    AuditEntry,
    Command,
    ComplianceItem,
    ComplianceSummary,
    Investigator,
    SearchParameters,
]
ROW = AgentRow(
    id="18446744073709551615",
    name="agent",
    queueloc="linux",
    os=None,
    version="1",
    pid=1,
    starttime="2026-01-01 00:00:00.5+00",
    destructiontime=None,
    heartbeattime="2026-01-01 00:00:00+00",
    status=None,
    environment='{"os" : "linux", "n": 1.0, "big": 12345678901234567890123}',
    tags=None,
    mode="",
    refreshtime="0001-01-01 00:00:00+00",
    loadername=None,
)


@pytest.mark.parametrize("record", RECORDS)
def test_the_schema_of_a_record_has_every_member(record: type[Record]) -> None:
    schemas = record.build_json_schema()
    schema = schemas[record.__name__]
    assert isinstance(schema, dict)
    assert tuple(schema["properties"]) == record.__struct_encode_fields__
    if "id" in schema["properties"]:
        member = schema["properties"]["id"]
        assert (member["minimum"], member["maximum"]) == (1, MAX_ID)
        assert member["type"] == ["integer", "string"]  # as the client wants it


def test_stored_json_and_ids_pass_through_to_the_character() -> None:
    encoded = Agent.from_row(ROW).encode()
    assert b'"id":18446744073709551615,' in encoded
    assert b'"environment":{"os" : "linux", "n": 1.0, "big": 12345678901234567890123},' in encoded
    assert json.loads(encoded)["os"] == "linux"


def test_what_an_agent_of_2014_does_not_have_is_left_out() -> None:
    members = json.loads(Agent.from_row(ROW).encode())
    assert not {"mode", "refreshts", "loadername"} & members.keys()
    newer = ROW._replace(mode="daemon", refreshtime="2026-01-01 00:00:00+00", loadername="x")
    members = json.loads(Agent.from_row(newer).encode())
    assert (members["mode"], members["refreshts"]) == ("daemon", "2026-01-01T00:00:00Z")


def test_a_command_without_its_action_and_agent_has_empty_objects() -> None:
    command = Command(Raw("1"), Raw("{}"), Raw("{}"), "sent", Raw("[]"), "t", "t")
    assert json.loads(command.encode())["action"] == {}
