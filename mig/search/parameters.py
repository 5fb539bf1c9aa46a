"""The parameters of a search: one table for parsing, documentation and filters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from whenever import Instant

from mig.compliance.grouping import DEFAULT_NAMES
from mig.formats import FORMATS
from mig.model.action import FINISHED_COMMAND_STATUSES
from mig.model.search import DEFAULT_LIMIT
from mig.search.condition import Condition
from mig.search.kinds import (
    MAX_KEY_CHARACTERS,
    MAX_REPETITIONS,
    ChoiceKind,
    CountKind,
    CursorKind,
    FieldsKind,
    FlagKind,
    IdKind,
    MemberPatternKind,
    ParameterKind,
    ParseContext,
    PatternKind,
    SortKind,
    StatusKind,
    TargetKind,
    TimeKind,
)
from mig.search.member import build_member_sql
from mig.search.summary_kinds import AgeKind, GroupByKind

SEARCH_TYPES: Final = ("action", "command", "agent", "investigator")
COMPLIANCE_ITEMS: Final = "complianceitems"
COMPLIANCE_SUMMARY: Final = "compliancesummary"
REPORT_NAMES: Final = (COMPLIANCE_ITEMS, COMPLIANCE_SUMMARY)

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
    ``types`` are the searched types that the parameter is for, and ``reports`` the reports; without
    any, it is for all searches of these types. With ``is_of_pages`` it is not for a summary, which
    is of all commands and has no pages.
    When ``searched_table_only`` is set, only the condition on the searched table counts.
    ``default`` returns the value when the parameter is not set, from the searched type, the names
    of those that are set, and the current time; ``None`` sets no condition. ``meaning`` describes
    the parameter to clients, without the values that it takes. ``formats`` are those of the answers
    that it is for, by default all. With ``is_of_documents`` it is for single documents, too.
    """

    name: str
    kind: ParameterKind[Any]
    meaning: str
    types: Sequence[str] = SEARCH_TYPES
    reports: Sequence[str] = ()
    is_of_pages: bool = False
    conditions: Mapping[str, str] = field(default_factory=dict)
    searched_table_only: bool = False
    default: Callable[[str, Collection[str], Instant], object] | None = None
    formats: Collection[str] | None = None
    is_of_documents: bool = False

    @property
    def values(self) -> str:
        """What the values are, in words."""
        values = self.kind.description
        return f"{values}, up to {MAX_REPETITIONS} times" if self.kind.is_repeatable else values

    @property
    def prompt(self) -> str:
        """The meaning and the values, in words."""
        return f"{self.meaning} ({self.values})"

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
        meaning=f"the id of {article} {noun} that the results belong to, also through others",
    )


def _make_name_parameter(noun: str, article: str) -> Parameter:
    return Parameter(
        name=f"{noun}name",
        kind=PatternKind(),
        conditions={f"{noun}s": "name"},
        meaning=f"the name of {article} {noun} that the results belong to, also through others",
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


_ENVIRONMENT_OS: Final = build_member_sql("environment", "'os'")


def _make_member_parameter(noun: str, column: str, what: str) -> Parameter:
    return Parameter(
        name=f"{noun}.NAME",
        kind=MemberPatternKind(),
        types=("agent", "command"),
        conditions={"agents": build_member_sql(column, "%s")},
        meaning=f"{what}; NAME is its key, of at most {MAX_KEY_CHARACTERS} characters",
    )


def _make_item_parameter(name: str, what: str) -> Parameter:
    return Parameter(
        name=name, kind=PatternKind(), types=("command",), reports=REPORT_NAMES, meaning=what
    )


PARAMETERS: Final[tuple[Parameter, ...]] = (
    Parameter(
        name="type",
        kind=ChoiceKind(SEARCH_TYPES),
        meaning="what to search for; default action",
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
        meaning="the earliest validfrom of actions, starttime of commands, heartbeat of agents,"
        " createdat of investigators; default 7 days ago, for investigators 1,000 years, with"
        " finishedafter, finishedbefore or target none",
    ),
    _make_id_parameter("agent", "an"),
    _make_name_parameter("agent", "an"),
    Parameter(
        name="agentversion",
        kind=PatternKind(),
        conditions={"agents": "version"},
        meaning="the version of the agent",
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
        meaning="the latest expireafter of actions, starttime of commands, heartbeat of agents,"
        " lastmodified of investigators",
    ),
    _make_item_parameter("check", "the name of the check of an item"),
    _make_id_parameter("command", "a"),
    Parameter(
        name="compliance",
        kind=FlagKind(),
        types=("command",),
        reports=(COMPLIANCE_ITEMS,),
        meaning="the items with this compliance",
    ),
    _make_member_parameter("environment", "environment", "a value in the environment of the agent"),
    Parameter(
        name="finishedafter",
        kind=TimeKind("ceil"),
        types=("command",),
        conditions={"commands": f"({_IS_FINISHED} and finishtime >= %s)"},
        meaning="the earliest finishtime of commands that have finished, for clients that poll for"
        " results",
    ),
    Parameter(
        name="finishedbefore",
        kind=TimeKind("floor"),
        types=("command",),
        conditions={"commands": f"({_IS_FINISHED} and finishtime <= %s)"},
        meaning="the latest finishtime of commands that have finished",
    ),
    Parameter(
        name="foundanything",
        kind=FlagKind(),
        types=("command",),
        conditions={"commands": r"results::text ~ ('[{,]\s*\"foundanything\"\s*:\s*' || %s)"},
        meaning="commands whose results have a member foundanything with this value, at any depth",
    ),
    Parameter(
        name="fields",
        kind=FieldsKind(),
        formats=("ndjson", "csv"),
        is_of_documents=True,
        meaning="which fields of a record the answer has, in the order of the record; default all",
    ),
    Parameter(
        name="format",
        kind=ChoiceKind(FORMATS),
        is_of_documents=True,
        meaning="the format of the answer; by default the header Accept decides",
    ),
    Parameter(
        name="groupby",
        kind=GroupByKind(),
        types=("command",),
        reports=(COMPLIANCE_SUMMARY,),
        meaning="what the items of a summary are grouped by; action is its name, and day the UTC"
        f" date on which the command finished; default {','.join(DEFAULT_NAMES)}",
    ),
    Parameter(
        name="ids",
        kind=ChoiceKind(("number", "text")),
        formats=("collection", "ndjson"),
        is_of_documents=True,
        meaning="how JSON has ids: text is for programs that round large numbers; default number",
    ),
    _make_id_parameter("investigator", "an"),
    _make_name_parameter("investigator", "an"),
    Parameter(
        name="latest",
        kind=FlagKind(),
        types=("command",),
        reports=REPORT_NAMES,
        meaning="whether to take, of each agent, policy and check, only the items of the newest"
        " command that answers it",
    ),
    _make_item_parameter("level", "the level of the policy of an item"),
    Parameter(
        name="limit",
        is_of_pages=True,
        kind=CountKind(1),
        meaning=f"the maximum number of results, in a report of commands; default {DEFAULT_LIMIT},"
        " in ndjson and csv none",
    ),
    Parameter(
        name="maxage",
        kind=AgeKind(),
        types=("command",),
        reports=(COMPLIANCE_SUMMARY,),
        meaning="how old an answer may be before its agent counts as stale; default any age",
    ),
    Parameter(
        name="offset",
        is_of_pages=True,
        kind=CountKind(0),
        meaning="how many results to skip, for clients of 2015 to 2017; default 0",
    ),
    Parameter(
        name="cursor",
        is_of_pages=True,
        kind=CursorKind(),
        meaning="the end of an earlier page",
    ),
    Parameter(
        name="os",
        kind=PatternKind(),
        types=("agent", "command"),
        # agents of 2017 report it in their environment
        conditions={"agents": f"coalesce(nullif(os, ''), {_ENVIRONMENT_OS})"},
        meaning="the operating system of the agent",
    ),
    _make_item_parameter("policy", "the name of the policy of an item"),
    Parameter(
        name="report",
        kind=ChoiceKind(REPORT_NAMES),
        types=("command",),
        meaning="complianceitems makes one item of each check in a command's results, and"
        " compliancesummary counts them and their agents by groups",
    ),
    Parameter(
        name="raw",
        kind=FlagKind(),
        formats=("csv",),
        is_of_documents=True,
        meaning="whether texts that a spreadsheet would run stay as they are, without apostrophe",
    ),
    Parameter(
        name="bom",
        kind=FlagKind(),
        formats=("csv",),
        is_of_documents=True,
        meaning="whether the answer begins with a byte order mark, by which Excel knows UTF-8",
    ),
    Parameter(
        name="scope",
        kind=ChoiceKind(("agents",)),
        types=("command",),
        reports=(COMPLIANCE_SUMMARY,),
        meaning="whether a summary also counts the agents that no command has asked",
    ),
    Parameter(
        name="seal",
        kind=FlagKind(),
        formats=("ndjson",),
        is_of_documents=True,
        meaning="whether the answer ends with its seal also when the limit has not cut it",
    ),
    Parameter(
        name="status",
        kind=StatusKind(words=_STATUS_WORDS),
        searched_table_only=True,
        conditions=dict.fromkeys(_TABLES, "status"),
        meaning="the status; done is every finished one, and sent of an action is inflight or"
        " completed",
    ),
    Parameter(
        name="sort",
        is_of_pages=True,
        kind=SortKind(),
        meaning="the order; by default newest first, by the first of these",
    ),
    _make_member_parameter("tag", "tags", "a tag of the agent"),
    Parameter(
        name="target",
        kind=TargetKind(),
        types=("agent",),
        meaning="the agents on which an action with this target would run",
    ),
    Parameter(
        name="threatfamily",
        kind=PatternKind(),
        types=("action", "command"),
        conditions={"actions": build_member_sql("threat", "'family'")},
        meaning="the threat family of the action",
    ),
    Parameter(
        name="total",
        kind=FlagKind(),
        meaning="whether to count all results, whatever the limit; in a report, commands",
    ),
)

PARAMETERS_BY_NAME: Final = {parameter.name: parameter for parameter in PARAMETERS}
DOCUMENT_PARAMETERS: Final = {p.name: p for p in PARAMETERS if p.is_of_documents}
"""The parameters of a single document, besides its id, by name."""


def find_parameter(
    name: str, parameters: Mapping[str, Parameter] = PARAMETERS_BY_NAME
) -> Parameter:
    """Return the parameter ``name``; ``environment.os`` is one of those named ``environment.NAME``.

    :raises KeyError: when there is none.
    """
    family, dot, _ = name.partition(".")
    return parameters[f"{family}.NAME" if dot else name]
