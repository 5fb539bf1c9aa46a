"""The filters of a search, typed, and the query string that they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import (
    Annotated,
    Final,
    Literal,
    NamedTuple,
    TypeAlias,
    TypedDict,
    cast,
    get_args,
    get_type_hints,
)

Noun: TypeAlias = Literal["action", "command", "agent", "investigator"]
"""What a search is for."""

NOUNS: Final[Sequence[Noun]] = get_args(Noun)

Patterns: TypeAlias = str | Sequence[str]
"""One pattern, in which ``%`` matches any text, or several of which any may match."""

Time: TypeAlias = datetime | timedelta | str
"""A time with a zone, how long ago it was, or the text of either, such as ``-7d``."""


class Filter(NamedTuple):
    """What a filter means, in words, and which searches have it.

    ``is_of_reports`` is set when only compliance reports have it.
    """

    meaning: str
    nouns: Sequence[Noun] = NOUNS
    is_of_reports: bool = False


_OF_COMMANDS: Final[Sequence[Noun]] = ("command",)
_OF_AGENTS: Final[Sequence[Noun]] = ("agent", "command")


class Filters(TypedDict, total=False):
    """The filters of a search, named as the parameters of the API (docs/reference.md).

    Without ``limit``, everything is returned, however many pages it has.
    """

    actionid: Annotated[
        int,
        Filter("the id of an action that the results belong to, also through others"),
    ]
    actionname: Annotated[
        Patterns,
        Filter("the name of an action that the results belong to, also through others"),
    ]
    after: Annotated[
        Time,
        Filter(
            "the earliest validfrom of actions, starttime of commands, heartbeat of"
            " agents, createdat of investigators; default 7 days ago, for investigators"
            " 1,000 years, with finishedafter, finishedbefore or target none"
        ),
    ]
    agentid: Annotated[
        int,
        Filter("the id of an agent that the results belong to, also through others"),
    ]
    agentname: Annotated[
        Patterns,
        Filter("the name of an agent that the results belong to, also through others"),
    ]
    agentversion: Annotated[
        Patterns,
        Filter("the version of the agent"),
    ]
    before: Annotated[
        Time,
        Filter(
            "the latest expireafter of actions, starttime of commands, heartbeat of"
            " agents, lastmodified of investigators"
        ),
    ]
    check: Annotated[
        Patterns,
        Filter("the name of the check of an item", _OF_COMMANDS, is_of_reports=True),
    ]
    commandid: Annotated[
        int,
        Filter("the id of a command that the results belong to, also through others"),
    ]
    compliance: Annotated[
        bool,
        Filter("the items with this compliance", _OF_COMMANDS, is_of_reports=True),
    ]
    environment: Annotated[
        Mapping[str, str],
        Filter(
            "a value in the environment of the agent; NAME is its key, of at most 64 characters",
            _OF_AGENTS,
        ),
    ]
    finishedafter: Annotated[
        Time,
        Filter(
            "the earliest finishtime of commands that have finished, for clients that"
            " poll for results",
            _OF_COMMANDS,
        ),
    ]
    finishedbefore: Annotated[
        Time,
        Filter("the latest finishtime of commands that have finished", _OF_COMMANDS),
    ]
    foundanything: Annotated[
        bool,
        Filter(
            "commands whose results have a member foundanything with this value, at any depth",
            _OF_COMMANDS,
        ),
    ]
    investigatorid: Annotated[
        int,
        Filter("the id of an investigator that the results belong to, also through others"),
    ]
    investigatorname: Annotated[
        Patterns,
        Filter("the name of an investigator that the results belong to, also through others"),
    ]
    latest: Annotated[
        bool,
        Filter(
            "whether to take, of each agent, policy and check, only the items of the"
            " newest command that answers it",
            _OF_COMMANDS,
            is_of_reports=True,
        ),
    ]
    level: Annotated[
        Patterns,
        Filter("the level of the policy of an item", _OF_COMMANDS, is_of_reports=True),
    ]
    limit: Annotated[
        int,
        Filter("the maximum number of results, in a report of commands; default none"),
    ]
    os: Annotated[
        Patterns,
        Filter("the operating system of the agent", _OF_AGENTS),
    ]
    policy: Annotated[
        Patterns,
        Filter("the name of the policy of an item", _OF_COMMANDS, is_of_reports=True),
    ]
    sort: Annotated[
        str,
        Filter(
            "the order: validfrom or id of actions, starttime or id of commands, starttime, id or"
            " name of agents, createdat or id of investigators; with - in front for descending;"
            " default newest first"
        ),
    ]
    status: Annotated[
        Patterns,
        Filter(
            "the status; done is every finished one, and sent of an action is inflight or completed"
        ),
    ]
    tag: Annotated[
        Mapping[str, str],
        Filter("a tag of the agent; NAME is its key, of at most 64 characters", _OF_AGENTS),
    ]
    target: Annotated[
        str,
        Filter("the agents on which an action with this target would run", ("agent",)),
    ]
    threatfamily: Annotated[
        Patterns,
        Filter("the threat family of the action", ("action", "command")),
    ]


_FAMILIES: Final = ("environment", "tag")


@cache
def describe_filters() -> Mapping[str, tuple[object, Filter]]:
    """Return the type and the meaning of each filter, by name."""
    hints = get_type_hints(Filters, include_extras=True)
    return {name: (hint.__origin__, hint.__metadata__[0]) for name, hint in hints.items()}


def drop_report_filters(filters: Filters) -> Filters:
    """Return the filters without those that only choose items of a report."""
    described = describe_filters()
    of_reports = {name for name, (_, filter_) in described.items() if filter_.is_of_reports}
    kept = {name: value for name, value in filters.items() if name not in of_reports}
    return cast(Filters, kept)


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
