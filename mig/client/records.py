"""The records that the client library returns, with the names that the documents have.

Members that an older API leaves out have a default, so that its answers are read, too; ids are
whole numbers, exact to the last digit (docs/decisions/0090).
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

import msgspec

from mig.model.compliance import AgentCounts, Check, ItemCounts, Policy, Test

__all__ = [
    "Action",
    "Agent",
    "AgentCounts",
    "ApiKey",
    "Check",
    "Command",
    "ComplianceItem",
    "ComplianceSummary",
    "Dashboard",
    "Investigator",
    "ItemCounts",
    "JsonValue",
    "Policy",
    "Record",
    "Test",
]

JsonValue: TypeAlias = Any
"""Any JSON value. Its content depends on modules and agents, so it has no narrower type."""

_TARGET_OF_ONE_AGENT: Final = re.compile(r"agents\.name='((?:[^']|'')*)'")


class Record(msgspec.Struct, kw_only=True):
    """The base class of all records."""


class Investigator(Record, omit_defaults=True):
    """An investigator.

    ``permissions`` and ``publickey``, in base64, are empty where a document leaves them out.
    ``apikey`` is a new API key, only in the answer to the request that has made it.
    """

    id: int
    name: str = ""
    pgpfingerprint: str = ""
    status: str = ""
    createdat: str = ""
    lastmodified: str = ""
    permissions: dict[str, bool] = {}
    publickey: str = ""
    apikey: str = ""


class Action(Record):
    """An action; its ``id`` is 0 in a command whose action is not in the database."""

    id: int = 0
    name: str = ""
    target: str = ""
    description: JsonValue = None
    threat: JsonValue = None
    validfrom: str = ""
    expireafter: str = ""
    operations: JsonValue = None
    pgpsignatures: list[str] = []
    investigators: list[Investigator] = []
    status: str = ""
    starttime: str = ""
    finishtime: str = ""
    lastupdatetime: str = ""
    counters: dict[str, int] = {}
    syntaxversion: int = 0


class Agent(Record):
    """An agent; its ``id`` is 0 in a command whose agent is not in the database."""

    id: int = 0
    name: str = ""
    queueloc: str = ""
    os: str = ""
    version: str = ""
    pid: int = 0
    starttime: str = ""
    destructiontime: str = ""
    heartbeatts: str = ""
    status: str = ""
    environment: JsonValue = None
    tags: JsonValue = None
    mode: str = ""
    refreshts: str = ""
    loadername: str = ""


class Command(Record):
    """A command, with its action and agent."""

    id: int
    action: Action
    agent: Agent
    status: str = ""
    results: JsonValue = None
    starttime: str = ""
    finishtime: str = ""


class ComplianceItem(Record):
    """The result of one check on one agent.

    ``target`` is the condition that selects the agent. ``utctimestamp`` is when the command
    finished; ``link`` is the command's URL.
    """

    target: str
    policy: Policy
    check: Check
    compliance: bool
    link: str = ""
    timestamp: str = ""
    utctimestamp: str = ""

    @property
    def agent_name(self) -> str:
        """The name of the agent; all of ``target`` when that is another condition."""
        match = _TARGET_OF_ONE_AGENT.fullmatch(self.target)
        return match[1].replace("''", "'") if match else self.target


class ComplianceSummary(Record):
    """The summary of a group of items, and of the agents that were asked for them.

    ``group`` has the values that the group shares; the last one, of everything, has none.
    ``rate`` is the part of the agents that pass, ``None`` without agents; ``first`` and ``last``
    are when the first and the last command with an item finished.
    """

    group: dict[str, str | None]
    items: ItemCounts
    agents: AgentCounts
    rate: float | None = None
    first: str | None = None
    last: str | None = None


class ApiKey(Record):
    """An API key; ``key``, its text, is only in the answer to the request that has made it.

    ``expires`` and the other times are empty where there are none.
    """

    id: int
    investigatorid: int
    name: str = ""
    permissions: dict[str, bool] = {}
    createdat: str = ""
    expires: str = ""
    revokedat: str = ""
    lastused: str = ""
    key: str = ""


class Dashboard(Record):
    """The dashboard: its ``values`` by name, and the last ``actions``."""

    values: dict[str, JsonValue]
    actions: list[Action]
