"""The columns of tables of records."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from mig.values import UNSET_TIME, escape_unprintable

_FRACTION: Final = re.compile(r"\.\d+")


class Column(NamedTuple):
    """A column: its title, and a function that reads the text of a cell from a record.

    One that ``is_flexible`` may be cut where the terminal is narrow.
    """

    title: str
    read: Callable[[Any], str]
    is_flexible: bool = True

    def format_cell(self, record: object) -> str:
        """Return the text of a cell, on one line and without anything that controls a terminal."""
        return escape_unprintable(self.read(record))


def format_moment(text: str) -> str:
    """Return a time for people: to the second; ``-`` when it is not set."""
    return "-" if text in ("", UNSET_TIME) else _FRACTION.sub("", text)


def format_flag(value: bool) -> str:
    """Return yes or no."""
    return "yes" if value else "no"


def find_anything(results: object) -> str:
    """Return whether the results of a command have found anything; ``-`` when they do not say."""
    answers = [
        result["foundanything"]
        for result in (results if isinstance(results, list) else ())
        if isinstance(result, dict) and isinstance(result.get("foundanything"), bool)
    ]
    return format_flag(any(answers)) if answers else "-"


def summarize_results(results: object) -> str:
    """Return the errors of each result of a command, or the files found, or else its elements."""
    parts = []
    for result in results if isinstance(results, list) else ():
        if not isinstance(result, dict):
            continue
        elements = result.get("elements")
        if errors := result.get("errors"):
            parts.append("; ".join(map(str, errors)) if isinstance(errors, list) else str(errors))
        elif files := list(_find_files(elements)):
            parts.append(", ".join(files))
        elif elements and result.get("foundanything"):
            parts.append(json.dumps(elements, ensure_ascii=False))
    return "; ".join(parts)


def _find_files(elements: object) -> Iterator[str]:
    """Yield the files in the elements of the module file."""
    for entries in elements.values() if isinstance(elements, dict) else ():
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("file"), str) and entry["file"]:
                yield entry["file"]


def _make_id_column(title: str = "id") -> Column:
    return Column(title, lambda record: str(record.id), is_flexible=False)


DASHBOARD_ACTIONS: Final = (
    _make_id_column("last actions"),
    Column("name", lambda action: action.name),
    Column("status", lambda action: action.status, is_flexible=False),
    Column("valid from", lambda action: format_moment(action.validfrom)),
    Column("sent", lambda action: str(action.counters.get("sent", 0)), is_flexible=False),
    Column("done", lambda action: str(action.counters.get("done", 0)), is_flexible=False),
)
"""The columns of the last actions of the dashboard, which alone have counters."""

COLUMNS: Final[Mapping[str, Sequence[Column]]] = {
    "action": (
        _make_id_column(),
        Column("name", lambda action: action.name),
        Column("status", lambda action: action.status, is_flexible=False),
        Column("valid from", lambda action: format_moment(action.validfrom)),
        Column("expires after", lambda action: format_moment(action.expireafter)),
        Column("signed by", lambda action: ", ".join(each.name for each in action.investigators)),
    ),
    "command": (
        _make_id_column(),
        Column("action", lambda command: command.action.name),
        Column("agent", lambda command: command.agent.name),
        Column("status", lambda command: command.status, is_flexible=False),
        Column("found", lambda command: find_anything(command.results), is_flexible=False),
        Column("finished", lambda command: format_moment(command.finishtime)),
    ),
    "answer": (
        _make_id_column("command"),
        Column("agent", lambda command: command.agent.name),
        Column("status", lambda command: command.status, is_flexible=False),
        Column("found", lambda command: find_anything(command.results), is_flexible=False),
        Column("results", lambda command: summarize_results(command.results)),
    ),
    "agent": (
        _make_id_column(),
        Column("name", lambda agent: agent.name),
        Column("os", lambda agent: agent.os),
        Column("version", lambda agent: agent.version),
        Column("status", lambda agent: agent.status, is_flexible=False),
        Column("heartbeat", lambda agent: format_moment(agent.heartbeatts)),
    ),
    "investigator": (
        _make_id_column(),
        Column("name", lambda investigator: investigator.name),
        Column("status", lambda investigator: investigator.status, is_flexible=False),
        Column("fingerprint", lambda investigator: investigator.pgpfingerprint or "-"),
        Column("created", lambda investigator: format_moment(investigator.createdat)),
    ),
    "compliance item": (
        Column("agent", lambda item: item.agent_name),
        Column("policy", lambda item: item.policy.name),
        Column("check", lambda item: item.check.name),
        Column(
            "result",
            lambda item: "compliant" if item.compliance else "not compliant",
            is_flexible=False,
        ),
        Column("finished", lambda item: format_moment(item.utctimestamp or item.timestamp)),
    ),
    "apikey": (
        _make_id_column(),
        Column("of", lambda key: str(key.investigatorid), is_flexible=False),
        Column("name", lambda key: key.name),
        Column("created", lambda key: format_moment(key.createdat)),
        Column("expires", lambda key: format_moment(key.expires)),
        Column("revoked", lambda key: format_moment(key.revokedat)),
        Column("last used", lambda key: format_moment(key.lastused)),
        Column("may", lambda key: ",".join(name for name, may in key.permissions.items() if may)),
    ),
}
"""By noun, the columns of a table."""
