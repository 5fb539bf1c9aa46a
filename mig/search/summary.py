"""The summary of a report: all commands are read, and then come the groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from itertools import islice
from typing import Final, NamedTuple

from whenever import Instant

from mig.compliance.grouping import DAY, OS, TAG, VERSION, Grouping, GroupValues
from mig.compliance.quota import QuotaShare
from mig.compliance.related_rows import AgentValues
from mig.compliance.summary import Summarizer
from mig.database.database import Snapshot
from mig.formats.format import Format
from mig.hypermedia.document import Link
from mig.hypermedia.urls import Urls, encode_query_string
from mig.limits import Limits
from mig.model.agent import IS_CURRENT_SQL
from mig.model.compliance import ComplianceSummary
from mig.model.row import make_row_reader
from mig.reactor import run_in_slices
from mig.search.condition import Condition
from mig.search.filters import build_agent_condition
from mig.search.kinds import make_literal_pattern
from mig.search.order import PagePosition
from mig.search.parameters import COMPLIANCE_ITEMS, DOCUMENT_PARAMETERS, PARAMETERS_BY_NAME
from mig.search.results import Preparation, SearchResults
from mig.search.search import Search

PAGE_GROUPS: Final = 500
"""How many groups are encoded at once."""

FETCHED_VALUES: Final = 1_000
"""How many values of agents are fetched at once."""

_ROWS_PROMPT: Final = "the items of this group"
_PARAMETERS: Final = {
    "policy": "policy",
    "level": "level",
    "check": "check",
    "action": "actionname",
    OS: "os",
    VERSION: "agentversion",
}
"""The parameters that choose the commands or items of a group, by what it is grouped by."""


class _AskedRow(NamedTuple):
    agents: int
    first: str | None
    second: str | None


_read_asked: Final = make_row_reader(_AskedRow)


class SummaryStream:
    """A summary, which has the same attributes as a :class:`~mig.search.stream.SearchStream`.

    The connection is given back before the first page, so it is never suspended.

    :param open_snapshot: opens the snapshot of all commands.
    :param share: how much it may keep.
    :param now: when answers have the age that the search asks for.
    """

    next_position: PagePosition | None = None
    resumption: Search | None = None
    item_count = 0  # of compliance items that are sent

    def __init__(
        self,
        search: Search,
        format_: Format,
        urls: Urls,
        limits: Limits,
        *,
        open_snapshot: Callable[[], AbstractAsyncContextManager[Snapshot]],
        get_page_bytes: Callable[[], int],
        preparation: Preparation,
        share: QuotaShare,
        now: Instant,
    ) -> None:
        self._search = search
        self._format = format_
        self._open_snapshot = open_snapshot
        self._get_page_bytes = get_page_bytes
        self._preparation = preparation
        self._summarizer = Summarizer(
            search.grouping,
            _select_agent_values(search.grouping),
            search.select_items(),
            limits,
            oldest=_format_column(now.subtract(seconds=search.max_age.total_seconds()))
            if search.max_age
            else "",
            take_bytes=share.take,
        )
        self._links = _GroupLinks(search, urls)
        self._summaries: Iterator[tuple[GroupValues, ComplianceSummary]] | None = None
        self.is_complete = False
        self.row_count = 0
        self.has_items = False
        self.total: int | None = None
        self.links: Sequence[Link] = ()

    async def read_page(self) -> bytes:
        """Return the next page; there is one until ``is_complete`` is set.

        :raises InvalidInputError: when there are too many groups, or agents, or commands.
        :raises UnavailableError: when the database cannot be reached, or not in time, or other
            summaries need the memory.
        """
        if self._summaries is None:
            self._summaries = await self._summarize()
        page = list(islice(self._summaries, PAGE_GROUPS))
        self.is_complete = len(page) < PAGE_GROUPS
        encode, separator = self._format.encode_record, self._format.separator
        items = [encode(summary, self._links.make(values)) for values, summary in page]
        # joined before all items but the first, an empty one adds a separator
        encoded = separator.join([b"", *items] if self.has_items and items else items)
        self.has_items = True
        return encoded

    async def _summarize(self) -> Iterator[tuple[GroupValues, ComplianceSummary]]:
        asked = None
        async with self._open_snapshot() as snapshot:
            results = SearchResults(
                snapshot,
                replace(self._search.without_pages(), is_continued=True),
                self._summarizer,
                self._get_page_bytes,
                self._preparation,
            )
            await results.open()
            await results.read_to_end()
            if self._search.counts_unasked_agents:
                asked = await self._count_asked_agents(snapshot)
        self.row_count = results.row_count
        self.total = self.row_count if self._search.has_total else None
        await run_in_slices(self._preparation.clock, self._summarizer.finish(asked))
        return self._summarizer.groups.take_sorted(self._choose_count())

    def _choose_count(self) -> int | None:
        """Return how many groups to send, if the format has a limit; then link to all of them."""
        groups, max_items = self._summarizer.groups, self._format.max_items
        if max_items is None or groups.count < max_items:
            return None
        prompt = f"the first of {groups.count} groups are here; all of them as CSV"
        self.links = [Link(rel="alternate", href=self._links.whole, prompt=prompt)]
        return max_items - 1  # and the totals

    async def _count_asked_agents(self, snapshot: Snapshot) -> Mapping[GroupValues, int]:
        """Return how many agents a command could ask, by what agents are grouped by.

        :raises InvalidInputError: when that makes too many groups.
        """
        values = _select_agent_values(self._search.grouping)
        condition = build_agent_condition(self._search) & Condition(IS_CURRENT_SQL)
        sql = f"""
select count(*), {values.build_columns()}
from agents{condition.build_where_clause()}
group by 2, 3
"""
        await snapshot.close_cursor()
        await snapshot.declare_cursor(sql, (*values.parameters, *condition.parameters))
        asked: dict[GroupValues, int] = {}
        rows = [_read_asked(row) for row in await snapshot.fetch(FETCHED_VALUES)]
        while rows:
            asked |= {(row.first, row.second)[: len(values.sql)]: row.agents for row in rows}
            if len(asked) > self._summarizer.groups.limit:
                raise self._summarizer.groups.make_refusal()
            rows = [_read_asked(row) for row in await snapshot.fetch(FETCHED_VALUES)]
        return asked

    async def aclose(self) -> None:
        """Forget everything."""
        await run_in_slices(self._preparation.clock, self._summarizer.release())


def _select_agent_values(grouping: Grouping) -> AgentValues:
    """Return the SQL of what agents are grouped by, which is that of the filters."""
    sql: list[str] = []
    parameters: list[object] = []
    for name in grouping.of_agents:
        if name.startswith(TAG):
            parameter, key = f"{TAG}NAME", name.removeprefix(TAG)
            parameters.append(key)
        else:
            parameter = _PARAMETERS[name]
        sql.append(PARAMETERS_BY_NAME[parameter].conditions["agents"])
    return AgentValues(sql=tuple(sql), parameters=tuple(parameters))


def _format_column(time: Instant) -> str:
    """Return a time as PostgreSQL writes it, for comparison with others."""
    text = time.round("microsecond", mode="ceil").format_iso()
    return text.replace("T", " ").replace("Z", "+00")


class _GroupLinks:
    """The links from a group to its items in the report; ``whole`` is the summary as CSV.

    A value that no pattern can express does not choose among them.
    """

    def __init__(self, search: Search, urls: Urls) -> None:
        names = search.grouping.names
        parameters = [_PARAMETERS.get(name, name) for name in names]  # that of a tag is its name
        after: dict[str, Sequence[str]] = {}
        if search.after is not None:  # written out: its default moves with the clock
            after = {"after": (search.after.format_iso(),)}
        self.whole = urls.for_search(_list_pairs({**search.texts, **after, "format": ("csv",)}))
        own = {"report", "groupby", "maxage", "scope", "total", *DOCUMENT_PARAMETERS}
        texts = {name: texts for name, texts in search.texts.items() if name not in own}
        texts |= after
        self._given = [(name, texts.pop(name, ())) for name in parameters]
        self._start = urls.for_search([*_list_pairs(texts), ("report", COMPLIANCE_ITEMS)])

    def make(self, values: GroupValues) -> list[Link]:
        """Return the link of the group with these values; that of the totals has none."""
        pairs: list[tuple[str, str]] = []
        for n, (name, given) in enumerate(self._given):
            pattern = make_literal_pattern(values[n] or "") if values and name != DAY else None
            pairs += [(name, text) for text in ([pattern] if pattern else given)]
        href = f"{self._start}&{encode_query_string(pairs)}" if pairs else self._start
        return [Link(rel="items", href=href, prompt=_ROWS_PROMPT)]


def _list_pairs(texts: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    return [(name, text) for name, each in texts.items() for text in each]
