"""Searches in the audit: their parameters, and pages of its rows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from psycopg2 import DataError
from whenever import Instant

from mig.model.audit import AUDIT, AuditRow
from mig.model.statement import QueryFunction, Statement
from mig.search.condition import Condition
from mig.search.kinds import CountKind, CursorKind, IdKind, TimeKind
from mig.search.order import Order, PagePosition, make_cursor_error, make_time_column
from mig.search.parameters import DOCUMENT_PARAMETERS, Parameter
from mig.search.search import parse_values

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1_000
DEFAULT_WINDOW_HOURS: Final = 24

_TABLE: Final = "audit"
NEWEST_FIRST: Final = "desc"
OLDEST_FIRST: Final = "asc"
_BY_TIME: Final = Order(column=make_time_column("at"), is_descending=True)


def _choose_default_after(_type: str, names: Collection[str], now: Instant) -> Instant | None:
    return None if "auditid" in names else now.subtract(hours=DEFAULT_WINDOW_HOURS)


AUDIT_PARAMETERS: Final[tuple[Parameter, ...]] = (
    Parameter(
        name="auditid",
        kind=CountKind(1),
        conditions={_TABLE: "id = %s"},
        meaning="the id of an entry; with it, after has no default",
    ),
    Parameter(
        name="after",
        kind=TimeKind("ceil"),
        conditions={_TABLE: "at >= %s"},
        default=_choose_default_after,
        meaning=f"not earlier than this; default {DEFAULT_WINDOW_HOURS} hours ago",
    ),
    Parameter(
        name="before",
        kind=TimeKind("floor"),
        conditions={_TABLE: "at <= %s"},
        meaning="not later than this",
    ),
    Parameter(
        name="investigatorid",
        kind=IdKind(),
        conditions={_TABLE: "caller = %s"},
        meaning="the investigator who called",
    ),
    Parameter(
        name="limit",
        kind=CountKind(1, MAX_LIMIT),
        meaning=f"the maximum number of entries; default {DEFAULT_LIMIT}",
    ),
    Parameter(
        name="cursor",
        kind=CursorKind(),
        meaning="the end of an earlier page",
    ),
    *(parameter for parameter in DOCUMENT_PARAMETERS.values() if parameter.name != "ids"),
)
_PARAMETERS_BY_NAME: Final = {parameter.name: parameter for parameter in AUDIT_PARAMETERS}


@dataclass(frozen=True, kw_only=True)
class AuditSearch:
    """A parsed search in the audit.

    ``texts`` are the parameters that were set, as text; ``values`` are their values with the
    defaults of the others.
    """

    texts: Mapping[str, Sequence[str]]
    values: Mapping[str, Any]

    @property
    def limit(self) -> int:
        """The maximum number of entries."""
        limit: int = self.values.get("limit", DEFAULT_LIMIT)
        return limit

    @property
    def entry_id(self) -> int | None:
        """The id of the one entry that is searched for, or ``None``."""
        return self.values.get("auditid")

    @property
    def options(self) -> dict[str, Any]:
        """The values of the parameters that say how the answer is written."""
        return {name: self.values[name] for name in DOCUMENT_PARAMETERS if name in self.values}

    def limit_to(self, maximum: int) -> AuditSearch:
        """Return the search for at most ``maximum`` entries."""
        return replace(self, values={**self.values, "limit": min(self.limit, maximum)})

    def build_condition(self) -> Condition:
        """Return the condition that all parameters together set, but for the cursor."""
        condition = Condition()
        for name, value in self.values.items():
            if value is not None:
                condition &= _PARAMETERS_BY_NAME[name].build_condition(_TABLE, value)
        return condition

    def list_parameters(self, position: PagePosition) -> list[tuple[str, str]]:
        """Return the parameters of the search for what follows ``position``."""
        # written out: the default of `after` moves with the clock, and that of `limit` may change
        written = {"limit": (str(self.limit),), "cursor": (str(position),)}
        after: Instant | None = self.values["after"]
        if after is not None:
            written["after"] = (after.format_iso(),)
        parameters = {**self.texts, **written}
        return [(name, text) for name, texts in parameters.items() for text in texts]


def search_since(after: Instant, investigator_id: int | None) -> AuditSearch:
    """Return the search for what has happened since ``after``, with the largest pages.

    :param investigator_id: the caller, or ``None`` for all.
    """
    values = {"after": after, "investigatorid": investigator_id, "limit": MAX_LIMIT}
    return AuditSearch(texts={}, values=values)


@dataclass(frozen=True, kw_only=True)
class AuditPage:
    """Rows of the audit, and the position after which there are more, if there are."""

    rows: Sequence[AuditRow]
    next_position: PagePosition | None


def parse_audit_search(pairs: Sequence[tuple[str, str]], now: Instant) -> AuditSearch:
    """Return the search of the ``pairs`` of a query string; an empty value sets nothing.

    :raises InvalidInputError: for a parameter that is unknown or repeated, and for a value that it
        does not accept; the message names the parameter.
    """
    texts, values = parse_values(pairs, _PARAMETERS_BY_NAME, now)
    if "cursor" in values:
        _BY_TIME.check_position(values["cursor"])
        if values["cursor"].items:
            raise make_cursor_error()
    defaults = {p.name: p.default("", values, now) for p in AUDIT_PARAMETERS if p.default}
    return AuditSearch(texts=texts, values=defaults | values)


async def load_pages(
    query: QueryFunction, search: AuditSearch
) -> AsyncGenerator[Sequence[AuditRow], None]:
    """Yield the pages of a search, the oldest row first; what arrives in the meantime is last."""
    position: PagePosition | None = None
    while True:
        page = await load_page(query, search, position, order=OLDEST_FIRST)
        yield page.rows
        position = page.next_position
        if position is None:
            return


async def load_page(
    query: QueryFunction,
    search: AuditSearch,
    position: PagePosition | None,
    *,
    order: str = NEWEST_FIRST,
) -> AuditPage:
    """Return the rows of a search after ``position``, by their time and id.

    :param order: ``NEWEST_FIRST`` or ``OLDEST_FIRST``.
    :raises InvalidInputError: for a position that is not one of a row.
    """
    condition = search.build_condition()
    if position is not None:
        sign = "<" if order == NEWEST_FIRST else ">"
        # the first comparison tells PostgreSQL which months it need not look at
        condition &= Condition(
            f"at {sign}= %s and (at, id) {sign} (%s, %s::bigint)",
            (position.key, position.key, position.id),
        )
    statement = Statement(
        f"select {AUDIT.sql} from audit a{condition.build_where_clause()}"
        f" order by a.at {order}, a.id {order} limit %s",
        AUDIT,
    )
    try:
        # one more, which says whether there are more
        rows = await query(statement, (*condition.parameters, search.limit + 1))
    except DataError:  # what a cursor may look like is not always a time and an id
        if position is None:
            raise
        raise make_cursor_error() from None
    kept = rows[: search.limit]
    has_more = len(rows) > len(kept)
    return AuditPage(
        rows=kept,
        next_position=PagePosition(key=kept[-1].at, id=kept[-1].id) if has_more else None,
    )
