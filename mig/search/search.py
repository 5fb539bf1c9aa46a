"""A search, parsed from a query string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from msgspec import UNSET
from whenever import Instant

from mig.compliance.grouping import DEFAULT_NAMES, OF_COMMANDS, Grouping
from mig.compliance.selection import ItemSelection, LatestAnswers
from mig.errors import InvalidInputError
from mig.model.search import DEFAULT_LIMIT, SearchParameters
from mig.search.kinds import MAX_COUNT, MAX_REPETITIONS, ParseContext
from mig.search.order import Order, PagePosition, get_usual_order, make_cursor_error
from mig.search.parameters import (
    COMPLIANCE_SUMMARY,
    PARAMETERS,
    PARAMETERS_BY_NAME,
    SEARCH_TYPES,
    Parameter,
    find_parameter,
    is_of_offset_client,
)
from mig.values import suggest_name

_ECHOED_NAMES: Final = frozenset(SearchParameters.__struct_fields__)
"""The parameters in the item "search parameters": clients of 2014 do not know paging."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A parsed search.

    ``texts`` are the parameters that were set, as text, with relative times as absolute ones;
    ``parsed_values`` are their values, and ``effective_values`` also has the defaults of the
    others. ``targeted_agents`` are the ids of the agents that fulfil ``target``, as PostgreSQL
    arrays, once they have been found. ``latest`` keeps the answers of a report that takes only the
    newest ones. ``is_continued`` tells that it is for the rest of an answer. ``default_limit`` is
    the limit of a search that sets none.
    """

    type: str
    texts: Mapping[str, Sequence[str]]
    parsed_values: Mapping[str, Any]
    effective_values: Mapping[str, Any]
    targeted_agents: Sequence[str] | None = None
    latest: LatestAnswers | None = None
    is_continued: bool = False
    default_limit: int = DEFAULT_LIMIT

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
        limit: int = self.parsed_values.get("limit", self.default_limit)
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
    def order(self) -> Order:
        """The order of the rows."""
        order: Order = self.parsed_values.get("sort", get_usual_order(self.type))
        return order

    @property
    def has_total(self) -> bool:
        """Whether all results are counted."""
        has_total: bool = self.parsed_values.get("total", False)
        return has_total and not self.is_continued

    @property
    def takes_latest(self) -> bool:
        """Whether a report takes only the newest answer of each agent to each check."""
        takes_latest: bool = self.parsed_values.get("latest", False)
        return takes_latest

    @property
    def needs_earlier_rows(self) -> bool:
        """Whether what a page has depends on the rows of the pages before it."""
        return self.latest is not None and not self.is_continued

    def select_items(self) -> ItemSelection:
        """Return which items of a report are asked for."""
        values = self.parsed_values
        return ItemSelection(
            compliance=values.get("compliance"),
            policies=values.get("policy", ()),
            levels=values.get("level", ()),
            checks=values.get("check", ()),
            latest=self.latest,
        )

    @property
    def grouping(self) -> Grouping:
        """What a summary is grouped by."""
        return Grouping(self.parsed_values.get("groupby", DEFAULT_NAMES))

    @property
    def max_age(self) -> timedelta | None:
        """How old an answer may be in a summary, or ``None`` for any age."""
        max_age: timedelta | None = self.parsed_values.get("maxage")
        return max_age

    @property
    def counts_unasked_agents(self) -> bool:
        """Whether a summary also counts agents without a command."""
        return "scope" in self.parsed_values

    @property
    def report(self) -> str:
        """The name of a report, or empty for the records themselves."""
        report: str = self.parsed_values.get("report", "")
        return report

    def continue_after(self, position: PagePosition, row_count: int) -> Search:
        """Return the search for what follows ``position``, after ``row_count`` results."""
        remaining = {"cursor": position, "offset": 0, "limit": self.limit - row_count}
        values = {**self.parsed_values, **remaining}
        return replace(self, parsed_values=values, is_continued=True)

    def without_pages(self) -> Search:
        """Return the search for all results at once."""
        return self.with_limit(MAX_COUNT)

    def with_limit(self, limit: int) -> Search:
        """Return the search for ``limit`` results, from the first one on."""
        first = {"cursor": None, "offset": 0, "limit": limit}
        return replace(self, parsed_values={**self.parsed_values, **first})

    def echo_parameters(self, total: int | None = None) -> SearchParameters:
        """Return the parameters as the answer repeats them, with the total number of results."""
        echoed: dict[str, Any] = {
            name: find_parameter(name).to_json_value(value)
            for name, value in self.effective_values.items()
            if name in _ECHOED_NAMES and value is not None
        }
        echoed["total"] = UNSET if total is None else total
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
    found: dict[str, Parameter] = {}
    for name, text in pairs:
        try:
            found[name] = find_parameter(name, parameters)
        except KeyError:
            hint = suggest_name(
                name.lower(), parameters, f"the parameters are {', '.join(parameters)}"
            )
            raise InvalidInputError(f"unknown parameter {name!r}; {hint}", name) from None
        if name in texts:
            _check_repetition(found[name], name, len(texts[name]) + bool(text))
        texts.setdefault(name, []).extend(filter(None, [text]))
    texts = {name: each for name, each in texts.items() if each}
    context = ParseContext(type=_parse_type(texts, now), now=now)
    values = {name: found[name].parse_texts(name, each, context) for name, each in texts.items()}
    formatted = {name: found[name].format_texts(each, values[name]) for name, each in texts.items()}
    return formatted, values


def parse_search(pairs: Sequence[tuple[str, str]], now: Instant) -> Search:
    """Return the search of the ``pairs`` of a query string; an empty value sets nothing.

    :raises InvalidInputError: for a parameter that is unknown, repeated or not for the searched
        type, and for a value that it does not accept; the message names the parameter.
    """
    texts, values = parse_values(pairs, PARAMETERS_BY_NAME, now)
    type_ = values.get("type", SEARCH_TYPES[0])
    for name in values:
        if type_ not in find_parameter(name).types:
            types = " and ".join(find_parameter(name).types)
            raise InvalidInputError(f"{name} is only for searches of type {types}", name)
    defaults = {p.name: p.default(type_, values, now) for p in PARAMETERS if p.default is not None}
    search = Search(
        type=type_, texts=texts, parsed_values=values, effective_values=defaults | values
    )
    _check_combinations(search)
    return search


def _check_combinations(search: Search) -> None:
    """Refuse parameters that mean nothing together.

    :raises InvalidInputError: naming one of them.
    """
    for name in search.parsed_values:
        parameter = find_parameter(name)
        if parameter.reports and search.report not in parameter.reports:
            reports = " or ".join(parameter.reports)
            raise InvalidInputError(f"{name} is only for report={reports}", name)
        if parameter.is_of_pages and search.report == COMPLIANCE_SUMMARY:
            raise InvalidInputError(
                f"{name} is not for report={COMPLIANCE_SUMMARY}, which is of all commands", name
            )
    if search.cursor is not None:
        search.order.check_position(search.cursor)
        if search.cursor.items and not search.report:
            raise make_cursor_error()
    if search.takes_latest and search.order != get_usual_order(search.type):
        raise InvalidInputError(
            "latest=true is only for the order newest first, which is that without sort", "latest"
        )
    if search.takes_latest and search.offset:
        raise InvalidInputError(
            "latest=true has no offset: follow the next links instead", "latest"
        )
    if search.counts_unasked_agents and set(OF_COMMANDS).intersection(search.grouping.names):
        raise InvalidInputError(
            f"scope=agents is not for groupby={' or '.join(OF_COMMANDS)}: an agent without a"
            " command belongs to no such group",
            "scope",
        )


def _parse_type(texts: Mapping[str, Sequence[str]], now: Instant) -> str:
    """Return the searched type, on which the meaning of other parameters depends."""
    default = SEARCH_TYPES[0]
    kind = PARAMETERS_BY_NAME["type"].kind
    context = ParseContext(type=default, now=now)
    type_: str = kind.parse_text("type", texts.get("type", [default])[0], context)
    return type_


def _check_repetition(parameter: Parameter, name: str, count: int) -> None:
    if not parameter.kind.is_repeatable:
        raise InvalidInputError(f"{name} is given twice", name)
    if count > MAX_REPETITIONS:
        raise InvalidInputError(f"{name} must have at most {MAX_REPETITIONS} values", name)
