"""Compliance items, each the result of one check on one agent, and summaries of them."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

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


class ItemCounts(msgspec.Struct, gc=False):
    """How many items of a report pass, and how many fail."""

    passed: int = msgspec.field(name="pass")
    failed: int = msgspec.field(name="fail")


class AgentCounts(msgspec.Struct, gc=False):
    """How many agents have each verdict; every agent counts once, so they add up to ``total``."""

    passed: int = msgspec.field(name="pass")
    failed: int = msgspec.field(name="fail")
    unknown: int
    pending: int
    stale: int
    notasked: int
    total: int


class ComplianceSummary(Record, gc=False):
    """The summary of a group of items, and of the agents that were asked for them.

    ``group`` has the values that the items of the group share; an empty one is of all items.
    ``rate`` is the part of the agents that pass. ``first`` and ``last`` are when the first and the
    last command with an item finished. All three are null where there are none.
    """

    noun = "compliance summary"
    group: dict[str, str | None]
    items: ItemCounts
    agents: AgentCounts
    rate: float | None
    first: Time | None
    last: Time | None


@lru_cache(maxsize=128)
def make_summary_type(names: tuple[str, ...]) -> type[ComplianceSummary]:
    """Return the kind of summary whose groups have values under these names.

    Each of them is a field of its own in rows of a table.
    """
    summary = msgspec.defstruct(
        ComplianceSummary.__name__,
        [],
        bases=(ComplianceSummary,),
        namespace={"noun": ComplianceSummary.noun, "members": {"group": names}},
        gc=False,
    )
    return cast(type[ComplianceSummary], summary)
