"""Compliance items: the result of one check on one agent."""

from __future__ import annotations

import msgspec

from mig.model.record import Record, Time


class Policy(msgspec.Struct):
    """The policy that an action checks: the level and type of its threat, and a URL."""

    level: str
    name: str
    url: str


class Test(msgspec.Struct):
    """The test of a check: the method or module, and its parameters."""

    type: str
    value: str


class Check(msgspec.Struct):
    """One check of an action, and the place on the agent that it looked at."""

    ref: str
    description: str
    location: str
    name: str
    test: Test


class ComplianceItem(Record):
    """An item of a compliance report: whether an agent complies with a check.

    (The specification, section 2.) ``target`` is the condition that selects the agent.
    ``timestamp`` and ``utctimestamp`` are both the time at which the command finished; ``link`` is
    the command's URL. A report does not create these records, which would take twenty times as
    long: :mod:`mig.compliance.encoder` writes the same bytes directly (docs/decisions/0014).
    """

    noun = "compliance item"
    target: str
    policy: Policy
    check: Check
    compliance: bool
    link: str
    timestamp: Time
    utctimestamp: Time
