"""Compliance items: what one check says of one agent."""

from __future__ import annotations

import msgspec

from mig.model.record import Record, Time


class Policy(msgspec.Struct):
    """The policy that an action checks: its threat's level and type, its description's url."""

    level: str
    name: str
    url: str


class Test(msgspec.Struct):
    """How a check decides: the method or module, and what it was asked."""

    type: str
    value: str


class Check(msgspec.Struct):
    """One check of an action, and where on the agent it looked."""

    ref: str
    description: str
    location: str
    name: str
    test: Test


class ComplianceItem(Record):
    """Whether one agent complies with one check (specification, section 2).

    ``target`` is the condition that selects the agent. ``timestamp`` and ``utctimestamp``, the same
    instant, are when the command finished; ``link`` is the command's URL. A report is made without
    these records, since they would cost twenty times as much as what it does instead:
    :mod:`mig.compliance.encoder` is proven to write what they say.
    """

    noun = "compliance item"
    target: str
    policy: Policy
    check: Check
    compliance: bool
    link: str
    timestamp: Time
    utctimestamp: Time
