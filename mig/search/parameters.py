"""The parameters of a search: one table for parsing, documentation and filters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from whenever import Instant

from mig.errors import InvalidInputError
from mig.model.action import FINISHED_COMMAND_STATUSES
from mig.model.search import DEFAULT_LIMIT, SearchParameters
from mig.search.condition import Condition
from mig.search.kinds import (
    MAX_REPETITIONS,
    ChoiceKind,
    CountKind,
    CursorKind,
    FlagKind,
    IdKind,
    PagePosition,
    ParameterKind,
    ParseContext,
    PatternKind,
    StatusKind,
    TargetKind,
    TimeKind,
)
from mig.values import suggest_name

SEARCH_TYPES: Final = ("action", "command", "agent", "investigator")
COMPLIANCE_ITEMS: Final = "complianceitems"
REPORT_NAMES: Final = (COMPLIANCE_ITEMS,)

DEFAULT_WINDOW_DAYS: Final = 7
INVESTIGATOR_WINDOW_YEARS: Final = 1_000
OFFSET_CLIENT_WINDOW_HOURS: Final = 39_600
"""The default window of the service that clients of 2015 to 2017 were made for."""

_TABLES: Final = ("actions", "commands", "agents", "investigators")
_STATUS_WORDS: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    "commands": {"done": FINISHED_COMMAND_STATUSES},
    "actions": {"done": ("completed",), "sent": ("inflight", "completed")},
}
"""By table, words that as a whole status filter mean several statuses (docs/decisions/0013)."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A search parameter: the values that it accepts, its meaning, and its condition.

    ``conditions`` maps a table to the condition on its rows, in SQL with one ``%s`` for the value;
    of a pattern, it is the text that must match.
    When ``searched_table_only`` is set, only the condition on the searched table counts.
    ``default`` returns the value when the parameter is not set, from the searched type, the names
    of those that are set, and the current time; ``None`` sets no condition. ``prompt`` describes
    the parameter to clients.
    """

    name: str
    kind: ParameterKind[Any]
    prompt: str
    types: Sequence[str] = SEARCH_TYPES
    conditions: Mapping[str, str] = field(default_factory=dict)
    searched_table_only: bool = False
    default: Callable[[str, Collection[str], Instant], object] | None = None

    def parse_texts(self, name: str, texts: Sequence[str], context: ParseContext) -> object:
        """Return the value of ``texts``, or the tuple of all values if it may have several.

        :raises InvalidInputError: as :meth:`ParameterKind.parse_text` does.
        """
        values = tuple(self.kind.parse_text(name, text, context) for text in texts)
        return values if self.kind.is_repeatable else values[0]

    def format_texts(self, texts: Sequence[str], value: Any) -> Sequence[str]:
        """Return the texts of a value for a later request, made from those of this one."""
        return tuple(map(self.kind.format_text, texts, self._list_values(value)))

    def build_condition(self, table: str, value: Any) -> Condition:
        """Return the condition that a value of :meth:`parse_texts` sets on the rows of a table."""
        sql = self.conditions.get(table)
        if sql is None:
            return Condition()
        return self.kind.build_condition(table, sql, self._list_values(value))

    def to_json_value(self, value: Any) -> object:
        """Return a value as the item "search parameters" repeats it: of several, the first."""
        return self.kind.to_json_value(self._list_values(value)[0])

    def _list_values(self, value: Any) -> Sequence[Any]:
        return value if self.kind.is_repeatable else (value,)


def _make_id_parameter(noun: str, article: str) -> Parameter:
    return Parameter(
        name=f"{noun}id",
        kind=IdKind(),
        conditions={f"{noun}s": "id = %s"},
        prompt=f"{article} {noun}'s id, 1 to 18446744073709551615",
    )


def _make_name_parameter(noun: str, article: str) -> Parameter:
    return Parameter(
        name=f"{noun}name",
        kind=PatternKind(),
        conditions={f"{noun}s": "name"},
        prompt=f"{article} {noun}'s name, as an ILIKE pattern",
    )


def _choose_default_after(type_: str, names: Collection[str], now: Instant) -> Instant | None:
    if type_ == "investigator":
        return now.subtract(hours=24 * 365.25 * INVESTIGATOR_WINDOW_YEARS)
    if {"finishedafter", "finishedbefore", "target"} & set(names):
        return None
    if is_of_offset_client(names):
        return now.subtract(hours=OFFSET_CLIENT_WINDOW_HOURS)
    return now.subtract(hours=24 * DEFAULT_WINDOW_DAYS)


# the other statuses have a time in the future
_IS_FINISHED: Final = "status in ({})".format(
    ", ".join(f"'{status}'" for status in FINISHED_COMMAND_STATUSES)
)


def is_of_offset_client(names: Collection[str]) -> bool:
    """Return whether a search that sets ``names`` is of a client of 2015 to 2017.

    Only those send ``offset``. They page until they get 404, and expect a longer default window.
    """
    return "offset" in names and "cursor" not in names


_LONE_SURROGATES = (
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def build_member_sql(column: str, member: str) -> str:
    """Return SQL for a member of a json column as text, which no odd row can make fail.

    ``->>`` fails when U+0000 or a lone surrogate is anywhere in the document
    (docs/decisions/0012). In such documents the SQL replaces each by U+FFFD.
    """
    # escaped backslashes are replaced first: one of them may precede the characters "u0000"
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
        kind=ChoiceKind(SEARCH_TYPES),
        prompt="what to search for: action (default), command, agent or investigator",
    ),
    _make_id_parameter("action", "an"),
    _make_name_parameter("action", "an"),
    Parameter(
        name="after",
        kind=TimeKind("ceil"),
        searched_table_only=True,
        default=_choose_default_after,
        conditions={
            "actions": "validfrom >= %s",
            "commands": "starttime >= %s",
            "agents": "heartbeattime >= %s",
            "investigators": "createdat >= %s",
        },
        prompt="an RFC 3339 date; default 7 days ago (investigators: 1,000 years)."
        " The earliest start of an action's validity, start of a command, heartbeat of an agent or"
        " creation of an investigator",
    ),
    _make_id_parameter("agent", "an"),
    _make_name_parameter("agent", "an"),
    Parameter(
        name="agentversion",
        kind=PatternKind(),
        conditions={"agents": "version"},
        prompt="an agent's version, as an ILIKE pattern",
    ),
    Parameter(
        name="before",
        kind=TimeKind("floor"),
        searched_table_only=True,
        conditions={
            "actions": "expireafter <= %s",
            "commands": "starttime <= %s",
            "agents": "heartbeattime <= %s",
            "investigators": "lastmodified <= %s",
        },
        prompt="an RFC 3339 date; no bound by default. The latest expiry of an action, start of a"
        " command, heartbeat of an agent or change of an investigator",
    ),
    _make_id_parameter("command", "a"),
    Parameter(
        name="finishedafter",
        kind=TimeKind("ceil"),
        types=("command",),
        conditions={"commands": f"({_IS_FINISHED} and finishtime >= %s)"},
        prompt="an RFC 3339 date: commands that finished at or after it. With it, after has no"
        " default",
    ),
    Parameter(
        name="finishedbefore",
        kind=TimeKind("floor"),
        types=("command",),
        conditions={"commands": f"({_IS_FINISHED} and finishtime <= %s)"},
        prompt="an RFC 3339 date: commands that finished at or before it. With it, after has no"
        " default",
    ),
    Parameter(
        name="foundanything",
        kind=FlagKind(),
        types=("command",),
        conditions={"commands": r"results::text ~ ('[{,]\s*\"foundanything\"\s*:\s*' || %s)"},
        prompt="true or false: commands that have a result with this foundanything",
    ),
    _make_id_parameter("investigator", "an"),
    _make_name_parameter("investigator", "an"),
    Parameter(
        name="limit",
        kind=CountKind(1),
        prompt=f"the maximum number of results; default {DEFAULT_LIMIT}."
        " In a report it counts commands",
    ),
    Parameter(
        name="offset",
        kind=CountKind(0),
        prompt="the number of results to skip; following next links is faster",
    ),
    Parameter(
        name="cursor",
        kind=CursorKind(),
        prompt="the end of an earlier page, as in its next link",
    ),
    Parameter(
        name="report",
        kind=ChoiceKind(REPORT_NAMES),
        types=("command",),
        prompt="complianceitems: one item for each check in a command's results",
    ),
    Parameter(
        name="status",
        kind=StatusKind(words=_STATUS_WORDS),
        searched_table_only=True,
        conditions=dict.fromkeys(_TABLES, "status"),
        prompt="a status, as an ILIKE pattern; done means every finished status",
    ),
    Parameter(
        name="target",
        kind=TargetKind(),
        types=("agent",),
        prompt="a condition on agents in SQL, as the target of an action: the agents that are"
        " online, idle or heartbeating and fulfil it, one for each queueloc. With it, after has no"
        " default",
    ),
    Parameter(
        name="threatfamily",
        kind=PatternKind(),
        types=("action", "command"),
        conditions={"actions": build_member_sql("threat", "family")},
        prompt="the threat family of the action, as an ILIKE pattern",
    ),
)

PARAMETERS_BY_NAME: Final = {parameter.name: parameter for parameter in PARAMETERS}
_ECHOED_NAMES: Final = frozenset(SearchParameters.__struct_fields__)
"""The parameters in the item "search parameters": clients of 2014 do not know paging."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A parsed search.

    ``texts`` are the parameters that were set, as text, with relative times as absolute ones;
    ``parsed_values`` are their values, and ``effective_values`` also has the defaults of the
    others. ``targeted_agents`` are the ids of
    the agents that fulfil ``target``, as PostgreSQL arrays, once they have been found.
    """

    type: str
    texts: Mapping[str, Sequence[str]]
    parsed_values: Mapping[str, Any]
    effective_values: Mapping[str, Any]
    targeted_agents: Sequence[str] | None = None

    @property
    def after(self) -> Instant | None:
        """The start of the time window, or ``None``."""
        after: Instant | None = self.effective_values["after"]
        return after

    @property
    def is_of_offset_client(self) -> bool:
        """Whether a client of 2015 to 2017 sent the search: :func:`is_of_offset_client`."""
        return is_of_offset_client(self.parsed_values)

    @property
    def target(self) -> str | None:
        """A condition on agents in SQL, or ``None``."""
        target: str | None = self.parsed_values.get("target")
        return target

    @property
    def must_find_something(self) -> bool:
        """Whether the answer without any row is 404, as clients of 2015 to 2017 expect it."""
        return self.is_of_offset_client or (self.target is not None and self.cursor is None)

    @property
    def limit(self) -> int:
        """The maximum number of results."""
        limit: int = self.parsed_values.get("limit", DEFAULT_LIMIT)
        return limit

    @property
    def offset(self) -> int:
        """The number of results to skip."""
        offset: int = self.parsed_values.get("offset", 0)
        return offset

    @property
    def cursor(self) -> PagePosition | None:
        """The end of an earlier page, or ``None``."""
        cursor: PagePosition | None = self.parsed_values.get("cursor")
        return cursor

    @property
    def report(self) -> str:
        """The name of a report, or empty for the records themselves."""
        report: str = self.parsed_values.get("report", "")
        return report

    def continue_after(self, position: PagePosition, row_count: int) -> Search:
        """Return the search for what follows ``position``, after ``row_count`` results."""
        remaining = {"cursor": position, "offset": 0, "limit": self.limit - row_count}
        return replace(self, parsed_values={**self.parsed_values, **remaining})

    def echo_parameters(self) -> SearchParameters:
        """Return the parameters as the answer repeats them for existing clients."""
        echoed: dict[str, Any] = {
            name: PARAMETERS_BY_NAME[name].to_json_value(value)
            for name, value in self.effective_values.items()
            if name in _ECHOED_NAMES and value is not None
        }
        return SearchParameters(**{**echoed, "type": self.type})


def parse_values(
    pairs: Sequence[tuple[str, str]], parameters: Mapping[str, Parameter], now: Instant
) -> tuple[dict[str, Sequence[str]], dict[str, Any]]:
    """Return the texts and the values of those ``parameters`` that have one in a query string.

    The texts are for a later request: a relative time is an absolute one.

    :raises InvalidInputError: for a parameter that is unknown or repeated, and for a value that it
        does not accept; the message names the parameter.
    """
    texts: dict[str, list[str]] = {}
    for name, text in pairs:
        if name not in parameters:
            hint = suggest_name(
                name.lower(), parameters, f"the parameters are {', '.join(parameters)}"
            )
            raise InvalidInputError(f"unknown parameter {name!r}; {hint}", name)
        if name in texts:
            _check_repetition(parameters[name], len(texts[name]) + bool(text))
        texts.setdefault(name, []).extend(filter(None, [text]))
    texts = {name: found for name, found in texts.items() if found}
    context = ParseContext(type=_parse_type(texts, now), now=now)
    values = {
        name: parameters[name].parse_texts(name, found, context) for name, found in texts.items()
    }
    formatted = {
        name: parameters[name].format_texts(found, values[name]) for name, found in texts.items()
    }
    return formatted, values


def parse_search(pairs: Sequence[tuple[str, str]], now: Instant) -> Search:
    """Return the search of the ``pairs`` of a query string; an empty value sets nothing.

    :raises InvalidInputError: for a parameter that is unknown, repeated or not for the searched
        type, and for a value that it does not accept; the message names the parameter.
    """
    texts, values = parse_values(pairs, PARAMETERS_BY_NAME, now)
    type_ = values.get("type", SEARCH_TYPES[0])
    for name in values:
        if type_ not in PARAMETERS_BY_NAME[name].types:
            types = " and ".join(PARAMETERS_BY_NAME[name].types)
            raise InvalidInputError(f"{name} is only for searches of type {types}", name)
    defaults = {p.name: p.default(type_, values, now) for p in PARAMETERS if p.default is not None}
    return Search(type=type_, texts=texts, parsed_values=values, effective_values=defaults | values)


def _parse_type(texts: Mapping[str, Sequence[str]], now: Instant) -> str:
    """Return the searched type, on which the meaning of other parameters depends."""
    default = SEARCH_TYPES[0]
    kind = PARAMETERS_BY_NAME["type"].kind
    context = ParseContext(type=default, now=now)
    type_: str = kind.parse_text("type", texts.get("type", [default])[0], context)
    return type_


def _check_repetition(parameter: Parameter, count: int) -> None:
    name = parameter.name
    if not parameter.kind.is_repeatable:
        raise InvalidInputError(f"{name} is given twice", name)
    if count > MAX_REPETITIONS:
        raise InvalidInputError(f"{name} must have at most {MAX_REPETITIONS} values", name)
