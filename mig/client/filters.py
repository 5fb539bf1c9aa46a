"""The filters of a search, typed, and the query string that they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias, TypedDict

Noun: TypeAlias = Literal["action", "command", "agent", "investigator"]
"""What a search is for."""

Patterns: TypeAlias = str | Sequence[str]
"""One pattern, in which ``%`` matches any text, or several of which any may match."""

Time: TypeAlias = datetime | timedelta | str
"""A time with a zone, how long ago it was, or the text of either, such as ``-7d``."""


class Filters(TypedDict, total=False):
    """The filters of a search, named as the parameters of the API (docs/reference.md).

    Without ``limit``, everything is returned, however many pages it has.
    """

    actionid: int
    actionname: Patterns
    after: Time
    agentid: int
    agentname: Patterns
    agentversion: Patterns
    before: Time
    check: Patterns
    commandid: int
    compliance: bool
    environment: Mapping[str, str]
    finishedafter: Time
    finishedbefore: Time
    foundanything: bool
    investigatorid: int
    investigatorname: Patterns
    latest: bool
    level: Patterns
    limit: int
    os: Patterns
    policy: Patterns
    sort: str
    status: Patterns
    tag: Mapping[str, str]
    target: str
    threatfamily: Patterns


_FAMILIES: Final = ("environment", "tag")


def build_query(filters: Filters) -> list[tuple[str, str]]:
    """Return the parameters of a query string.

    :raises TypeError: for a name that is not a filter, and for a value that no filter takes.
    :raises ValueError: for a time without a zone.
    """
    query: list[tuple[str, str]] = []
    for name, value in filters.items():
        if name not in Filters.__annotations__:
            known = ", ".join(Filters.__annotations__)
            raise TypeError(f"{name} is not a filter; filters are {known}")
        if name in _FAMILIES and isinstance(value, Mapping):
            for key, pattern in value.items():
                query.append((f"{name}.{key}", _format_value(name, pattern)))
        else:
            query.extend((name, text) for text in _format_values(name, value))
    return query


def _format_values(name: str, value: object) -> list[str]:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_format_value(name, each) for each in value]
    return [_format_value(name, value)]


def _format_value(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | str):
        return str(value)
    if isinstance(value, timedelta):
        return f"-{max(0, int(value.total_seconds()))}s"
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{name} must have a time zone, for example datetime.now(UTC)")
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    raise TypeError(f"{name} cannot be {value!r}")
