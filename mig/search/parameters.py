"""The parameters of a search: one table that parses, documents and filters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

from whenever import Instant

from mig.errors import InvalidInput
from mig.values import parse_id, parse_time

TYPES: Final = ("action", "command", "agent", "investigator")
REPORTS: Final = ("complianceitems",)
DEFAULT_LIMIT: Final = 10_000
MAX_COUNT: Final = 2**63 - 1
LONGEST_PATTERN: Final = 256
MOST_WILDCARDS: Final = 8

WEEK_DAYS: Final = 7
FOREVER_YEARS: Final = 1_000

FINISHED_COMMAND: Final = ("success", "cancelled", "expired", "failed", "timeout")
STATUS_WORDS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "command": {"done": FINISHED_COMMAND},
    "action": {"done": ("completed",), "sent": ("inflight", "completed")},
}
"""Words that, as a whole status filter, stand for several stored statuses (by type)."""

_COUNT = re.compile(r"[0-9]{1,20}", re.ASCII)
_STORED_TIME = re.compile(
    r"-?infinity|[0-9]{4,6}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?\+00( BC)?",
    re.ASCII,
)

_STORED_ID = re.compile(r"NaN|-?[0-9]{1,1000}(\.[0-9]{1,100})?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Where a page ended: the sort time as PostgreSQL writes it, and the id, of its last row."""

    time: str
    id: str

    def __str__(self) -> str:
        return f"{self.time},{self.id}"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter: what it takes, what it means, and the condition that it adds.

    ``conditions`` maps the table that a condition is about to its SQL, with one ``%s`` for the
    value. A parameter about the searched type itself (``status``, ``after``, ``before``) has one
    condition for each type.
    """

    name: str
    parse: Callable[[str, str], Any]
    prompt: str
    unset: Any = ""
    types: Sequence[str] = TYPES
    conditions: Mapping[str, str] = field(default_factory=dict)
    own: bool = False


def _choice(words: Sequence[str]) -> Callable[[str, str], str]:
    def parse(name: str, text: str) -> str:
        if text in words:
            return text
        near = get_close_matches(text, words, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InvalidInput(f"{name} must be one of {', '.join(words)}{hint}", name)

    return parse


def _count(lowest: int) -> Callable[[str, str], int]:
    def parse(name: str, text: str) -> int:
        if _COUNT.fullmatch(text) and lowest <= int(text) <= MAX_COUNT:
            return int(text)
        raise InvalidInput(f"{name} must be a whole number from {lowest} to {MAX_COUNT}", name)

    return parse


def _boolean(name: str, text: str) -> bool:
    return _choice(("true", "false"))(name, text) == "true"


def _pattern(name: str, text: str) -> str:
    if len(text) > LONGEST_PATTERN or text.count("%") > MOST_WILDCARDS:
        raise InvalidInput(
            f"{name} must be an ILIKE pattern of at most {LONGEST_PATTERN} letters"
            f" and {MOST_WILDCARDS} %",
            name,
        )
    if (len(text) - len(text.rstrip("\\"))) % 2:
        raise InvalidInput(
            f"{name} must not end in a single backslash, which escapes nothing", name
        )
    return text


def _cursor(name: str, text: str) -> Cursor:
    time, _, id = text.rpartition(",")
    if _STORED_TIME.fullmatch(time) and _STORED_ID.fullmatch(id):
        return Cursor(time=time, id=id)
    raise InvalidInput(f"{name} must be taken from the next link of an earlier page", name)


_LONE_SURROGATES = (
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def member_text(column: str, member: str) -> str:
    """SQL for a member of a json column as text, where one odd row must not fail the query.

    ``->>`` refuses U+0000 and half surrogate pairs anywhere in the document: they are replaced,
    once no escaped backslash is left that could be taken for the beginning of one.
    """
    odd = rf"\\u0000|{_LONE_SURROGATES}"
    return (
        rf"(case when {column}::text ~ '\\u(0000|[dD][89a-fA-F])'"
        rf" then regexp_replace(replace({column}::text, '\\', '\u005c'), '{odd}', '\\ufffd', 'g')"
        "::json"
        f" else {column} end ->> '{member}')"
    )


PARAMETERS: Final[tuple[Parameter, ...]] = (
    Parameter(
        name="type",
        parse=_choice(TYPES),
        unset="action",
        prompt="what to search for: action (default), command, agent or investigator",
    ),
    Parameter(
        name="actionid",
        parse=parse_id,
        unset="∞",
        conditions={"actions": "id = %s"},
        prompt="an action's id, 1 to 18446744073709551615",
    ),
    Parameter(
        name="actionname",
        parse=_pattern,
        unset="%",
        conditions={"actions": "name ilike %s"},
        prompt="an action's name, as an ILIKE pattern",
    ),
    Parameter(
        name="after",
        parse=parse_time,
        own=True,
        conditions={
            "actions": "validfrom >= %s",
            "commands": "starttime >= %s",
            "agents": "heartbeattime >= %s",
            "investigators": "createdat >= %s",
        },
        prompt="an RFC 3339 date; default 7 days ago (investigators: 1,000 years)."
        " Actions valid from then on, commands started, agents heard of, investigators created",
    ),
    Parameter(
        name="agentid",
        parse=parse_id,
        unset="∞",
        conditions={"agents": "id = %s"},
        prompt="an agent's id, 1 to 18446744073709551615",
    ),
    Parameter(
        name="agentname",
        parse=_pattern,
        unset="%",
        conditions={"agents": "name ilike %s"},
        prompt="an agent's name, as an ILIKE pattern",
    ),
    Parameter(
        name="before",
        parse=parse_time,
        own=True,
        conditions={
            "actions": "expireafter <= %s",
            "commands": "starttime <= %s",
            "agents": "heartbeattime <= %s",
            "investigators": "lastmodified <= %s",
        },
        prompt="an RFC 3339 date; default no bound. Actions that expire until then,"
        " commands started, agents heard of, investigators modified",
    ),
    Parameter(
        name="commandid",
        parse=parse_id,
        unset="∞",
        conditions={"commands": "id = %s"},
        prompt="a command's id, 1 to 18446744073709551615",
    ),
    Parameter(
        name="foundanything",
        parse=_boolean,
        unset=False,
        types=("command",),
        conditions={"commands": r"results::text ~ ('[{,]\s*\"foundanything\"\s*:\s*' || %s)"},
        prompt="true or false: commands with a result whose foundanything is that",
    ),
    Parameter(
        name="investigatorid",
        parse=parse_id,
        unset="∞",
        conditions={"investigators": "id = %s"},
        prompt="an investigator's id, 1 to 18446744073709551615",
    ),
    Parameter(
        name="investigatorname",
        parse=_pattern,
        unset="%",
        conditions={"investigators": "name ilike %s"},
        prompt="an investigator's name, as an ILIKE pattern",
    ),
    Parameter(
        name="limit",
        parse=_count(1),
        unset=DEFAULT_LIMIT,
        prompt="at most so many results; default 10000. A report's limit counts commands",
    ),
    Parameter(
        name="offset",
        parse=_count(0),
        unset=0,
        prompt="leave out so many results first; following next links is faster",
    ),
    Parameter(
        name="cursor",
        parse=_cursor,
        prompt="where an earlier page ended, as its next link says",
    ),
    Parameter(
        name="report",
        parse=_choice(REPORTS),
        types=("command",),
        prompt="complianceitems: one item for each check that a command's results hold",
    ),
    Parameter(
        name="status",
        parse=_pattern,
        unset="%",
        own=True,
        conditions={
            "actions": "status ilike %s",
            "commands": "status ilike %s",
            "agents": "status ilike %s",
            "investigators": "status ilike %s",
        },
        prompt="a status, as an ILIKE pattern; done is every finished status",
    ),
    Parameter(
        name="threatfamily",
        parse=_pattern,
        unset="%",
        types=("action", "command"),
        conditions={"actions": f"{member_text('threat', 'family')} ilike %s"},
        prompt="the threat family of the action, as an ILIKE pattern",
    ),
)

BY_NAME: Final = {parameter.name: parameter for parameter in PARAMETERS}
NOT_SHOWN: Final = frozenset({"offset", "cursor"})
"""Parameters that the item "search parameters" of the existing clients does not know."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search asks: the values of the parameters that were given, and the defaults."""

    type: str
    given: Mapping[str, str]
    values: Mapping[str, Any]
    after: Instant
    limit: int
    offset: int
    cursor: Cursor | None
    report: str

    def shown(self) -> dict[str, Any]:
        """The item "search parameters", as existing clients parse it."""
        values: dict[str, Any] = {
            parameter.name: self.values.get(parameter.name, parameter.unset)
            for parameter in PARAMETERS
            if parameter.name not in NOT_SHOWN
        }
        values["after"] = self.after.format_iso()
        before = self.values.get("before")
        values["before"] = before.format_iso() if before else "9999-12-31T23:59:59Z"
        return values


def parse_search(given: Sequence[tuple[str, str]], now: Instant) -> Search:
    """The search that a query string asks for; an empty value means that it was not given.

    :raises InvalidInput: naming the parameter, for an unknown or repeated one, for one that the
        type cannot use, and for a value that it does not take.
    """
    texts: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, text in given:
        if name not in BY_NAME:
            near = get_close_matches(name.lower(), BY_NAME, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(BY_NAME)}"
            raise InvalidInput(f"unknown parameter {name!r}; {hint}", name)
        if name in texts:
            raise InvalidInput(f"{name} is given twice", name)
        texts[name] = text
        if text:
            values[name] = BY_NAME[name].parse(name, text)
    type = values.get("type", "action")
    for name in values:
        if type not in BY_NAME[name].types:
            takers = " and ".join(BY_NAME[name].types)
            raise InvalidInput(f"{name} fits only searches of type {takers}", name)
    return Search(
        type=type,
        given={name: text for name, text in texts.items() if text},
        values=values,
        after=values.get("after") or _default_after(type, now),
        limit=values.get("limit", DEFAULT_LIMIT),
        offset=values.get("offset", 0),
        cursor=values.get("cursor"),
        report=values.get("report", ""),
    )


def _default_after(type: str, now: Instant) -> Instant:
    if type == "investigator":
        return now.subtract(hours=24 * 365.25 * FOREVER_YEARS)
    return now.subtract(hours=24 * WEEK_DAYS)
