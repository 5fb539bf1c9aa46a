"""A search, parsed from a query string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from msgspec import UNSET
from whenever import Instant

from mig.errors import InvalidInputError
from mig.model.search import DEFAULT_LIMIT, SearchParameters
from mig.search.kinds import MAX_REPETITIONS, ParseContext
from mig.search.order import Order, PagePosition, get_usual_order
from mig.search.parameters import (
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
    arrays, once they have been found.
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
    def order(self) -> Order:
        """The order of the rows."""
        order: Order = self.parsed_values.get("sort", get_usual_order(self.type))
        return order

    @property
    def has_total(self) -> bool:
        """Whether all results are counted."""
        has_total: bool = self.parsed_values.get("total", False)
        return has_total

    @property
    def report(self) -> str:
        """The name of a report, or empty for the records themselves."""
        report: str = self.parsed_values.get("report", "")
        return report

    def continue_after(self, position: PagePosition, row_count: int) -> Search:
        """Return the search for what follows ``position``, after ``row_count`` results."""
        limit = self.limit - row_count
        remaining = {"cursor": position, "offset": 0, "limit": limit, "total": False}
        return replace(self, parsed_values={**self.parsed_values, **remaining})

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
    if search.cursor is not None:
        search.order.check_position(search.cursor)
    return search


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
