"""Compliance as the results of tests, as CI systems read them (JUnit's XML)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from mig.values import escape_unprintable

if TYPE_CHECKING:
    from mig.client.records import ComplianceItem

MAX_NAMED_AGENTS: Final = 20


@dataclass
class _Case:
    items: int = 0
    failures: int = 0
    agents: dict[str, None] = field(default_factory=dict)
    """The first agents that do not comply, in the order of the report."""
    has_others: bool = False


class JUnitReport:
    """A suite for each policy, and a case for each of its checks, which fails with any item."""

    def __init__(self) -> None:
        self._suites: dict[str, dict[str, _Case]] = {}

    def add(self, item: ComplianceItem) -> None:
        """Count an item of a report."""
        suite = self._suites.setdefault(item.policy.name, {})
        case = suite.setdefault(item.check.name, _Case())
        case.items += 1
        if not item.compliance:
            case.failures += 1
            agent = item.agent_name
            if len(case.agents) < MAX_NAMED_AGENTS:
                case.agents[agent] = None
            elif agent not in case.agents:
                case.has_others = True

    def to_xml(self) -> bytes:
        """Return the document."""
        root = Element("testsuites", name="compliance")
        for policy, cases in sorted(self._suites.items()):
            name = escape_unprintable(policy)
            failed = sum(1 for case in cases.values() if case.failures)
            attributes = {"name": name, "tests": str(len(cases)), "failures": str(failed)}
            suite = SubElement(root, "testsuite", attributes)
            for check, case in sorted(cases.items()):
                _add_case(suite, name, escape_unprintable(check), case)
        indent(root)
        return bytes(tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _add_case(suite: Element, policy: str, check: str, case: _Case) -> None:
    element = SubElement(suite, "testcase", classname=policy, name=check)
    if not case.failures:
        return
    message = f"{case.failures} of {case.items} answers do not comply"
    failure = SubElement(element, "failure", message=message)
    lines = [escape_unprintable(name) for name in case.agents]
    if case.has_others:
        lines.append("and others")
    failure.text = "\n".join(lines)
