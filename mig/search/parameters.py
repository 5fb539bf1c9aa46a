"""The parameters of a search: one table that parses, documents and filters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from whenever import Instant

from mig.errors import InvalidInputError
from mig.model.action import FINISHED_COMMAND_STATUSES
from mig.model.search import SearchParameters
from mig.search.kinds import (
    Choice,
    Count,
    Cursor,
    Flag,
    Id,
    Kind,
    Pattern,
    Position,
    Status,
    Time,
)
from mig.values import suggest_name

TYPES: Final = ("action", "command", "agent", "investigator")
REPORTS: Final = ("complianceitems",)
DEFAULT_LIMIT: Final = 10_000

WEEK_DAYS: Final = 7
FOREVER_YEARS: Final = 1_000

_TABLES: Final = ("actions", "commands", "agents", "investigators")
_STATUS_WORDS: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    "commands": {"done": FINISHED_COMMAND_STATUSES},
    "actions": {"done": ("completed",), "sent": ("inflight", "completed")},
}
"""Words that, as a whole status filter, stand for several stored statuses (by table)."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter: what it takes, what it means, and the condition that it adds.

    ``conditions`` maps the table that a condition is about to its SQL, with one ``%s`` for the
    value. A parameter about the searched type itself is ``own``: of its conditions only the one
    of the searched table counts. ``default`` is the value for a type when none is set.
    """

    name: str
    kind: Kind[Any]
    prompt: str
    types: Sequence[str] = TYPES
    conditions: Mapping[str, str] = field(default_factory=dict)
    own: bool = False
    default: Callable[[str, Instant], object] | None = None


def _id_of(noun: str, article: str) -> Parameter:
    return Parameter(
        name=f"{noun}id",
        kind=Id(),
        conditions={f"{noun}s": "id = %s"},
        prompt=f"{article} {noun}'s id, 1 to 18446744073709551615",
    )


def _name_of(noun: str, article: str) -> Parameter:
    return Parameter(
        name=f"{noun}name",
        kind=Pattern(),
        conditions={f"{noun}s": "name ilike %s"},
        prompt=f"{article} {noun}'s name, as an ILIKE pattern",
    )


def _default_after(type_: str, now: Instant) -> Instant:
    if type_ == "investigator":
        return now.subtract(hours=24 * 365.25 * FOREVER_YEARS)
    return now.subtract(hours=24 * WEEK_DAYS)


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
        kind=Choice(TYPES),
        prompt="what to search for: action (default), command, agent or investigator",
    ),
    _id_of("action", "an"),
    _name_of("action", "an"),
    Parameter(
        name="after",
        kind=Time("ceil"),
        own=True,
        default=_default_after,
        conditions={
            "actions": "validfrom >= %s",
            "commands": "starttime >= %s",
            "agents": "heartbeattime >= %s",
            "investigators": "createdat >= %s",
        },
        prompt="an RFC 3339 date; default 7 days ago (investigators: 1,000 years)."
        " Actions valid from then on, commands started, agents heard of, investigators created",
    ),
    _id_of("agent", "an"),
    _name_of("agent", "an"),
    Parameter(
        name="before",
        kind=Time("floor"),
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
    _id_of("command", "a"),
    Parameter(
        name="foundanything",
        kind=Flag(),
        types=("command",),
        conditions={"commands": r"results::text ~ ('[{,]\s*\"foundanything\"\s*:\s*' || %s)"},
        prompt="true or false: commands with a result whose foundanything is that",
    ),
    _id_of("investigator", "an"),
    _name_of("investigator", "an"),
    Parameter(
        name="limit",
        kind=Count(1),
        prompt="at most so many results; default 10000. A report's limit counts commands",
    ),
    Parameter(
        name="offset",
        kind=Count(0),
        prompt="leave out so many results first; following next links is faster",
    ),
    Parameter(
        name="cursor",
        kind=Cursor(),
        prompt="where an earlier page ended, as its next link says",
    ),
    Parameter(
        name="report",
        kind=Choice(REPORTS),
        types=("command",),
        prompt="complianceitems: one item for each check that a command's results hold",
    ),
    Parameter(
        name="status",
        kind=Status(words=_STATUS_WORDS),
        own=True,
        conditions=dict.fromkeys(_TABLES, "status ilike %s"),
        prompt="a status, as an ILIKE pattern; done is every finished status",
    ),
    Parameter(
        name="threatfamily",
        kind=Pattern(),
        types=("action", "command"),
        conditions={"actions": f"{member_text('threat', 'family')} ilike %s"},
        prompt="the threat family of the action, as an ILIKE pattern",
    ),
)

BY_NAME: Final = {parameter.name: parameter for parameter in PARAMETERS}
_REPEATED: Final = frozenset(SearchParameters.__struct_fields__)
"""The parameters that the item "search parameters" has: clients of 2014 know no paging."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search asks.

    ``texts`` are the parameters that were set, as they came, and ``values`` what these mean;
    ``effective`` also has the defaults of the others.
    """

    type: str
    texts: Mapping[str, str]
    values: Mapping[str, Any]
    effective: Mapping[str, Any]

    @property
    def after(self) -> Instant:
        """Return from when on things are found."""
        after: Instant = self.effective["after"]
        return after

    @property
    def limit(self) -> int:
        """Return how many results are asked for."""
        limit: int = self.values.get("limit", DEFAULT_LIMIT)
        return limit

    @property
    def offset(self) -> int:
        """Return how many results are left out first."""
        offset: int = self.values.get("offset", 0)
        return offset

    @property
    def cursor(self) -> Position | None:
        """Return where an earlier page ended."""
        cursor: Position | None = self.values.get("cursor")
        return cursor

    @property
    def report(self) -> str:
        """Return which report is asked for, if not the records themselves."""
        report: str = self.values.get("report", "")
        return report

    def parameters(self) -> SearchParameters:
        """Return the record that repeats the search, as existing clients parse it."""
        shown: dict[str, Any] = {
            name: BY_NAME[name].kind.show(value)
            for name, value in self.effective.items()
            if name in _REPEATED
        }
        return SearchParameters(**{**shown, "type": self.type})


def parse_search(pairs: Sequence[tuple[str, str]], now: Instant) -> Search:
    """Return the search that the *pairs* of a query string ask for; an empty value sets nothing.

    :raises InvalidInputError: naming the parameter, for an unknown or repeated one, for one that
        the type cannot use, and for a value that it does not take.
    """
    texts: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name not in BY_NAME:
            hint = suggest_name(name.lower(), BY_NAME, f"there are {', '.join(BY_NAME)}")
            raise InvalidInputError(f"unknown parameter {name!r}; {hint}", name)
        if name in texts:
            raise InvalidInputError(f"{name} is given twice", name)
        texts[name] = text
        if text:
            values[name] = BY_NAME[name].kind.parse(name, text)
    type_ = values.get("type", "action")
    for name in values:
        if type_ not in BY_NAME[name].types:
            takers = " and ".join(BY_NAME[name].types)
            raise InvalidInputError(f"{name} fits only searches of type {takers}", name)
    defaults = {p.name: p.default(type_, now) for p in PARAMETERS if p.default is not None}
    return Search(
        type=type_,
        texts={name: text for name, text in texts.items() if text},
        values=values,
        effective=defaults | values,
    )
