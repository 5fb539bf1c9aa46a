"""The records of a search: its rows, in the format of the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Generic, TypeVar

from mig.compliance.encoder import ComplianceEncoder, SelectiveEncoder
from mig.compliance.selection import ItemWindow
from mig.errors import UnreadableError
from mig.formats.format import AnyRecord, Format
from mig.hypermedia.document import Link
from mig.hypermedia.links import link_action, link_history
from mig.hypermedia.urls import Urls
from mig.limits import Limits
from mig.model.action import ACTION, ACTIONS_BY_IDS, Action, ActionRow, load_counters
from mig.model.agent import AGENT, AGENTS_BY_IDS, Agent
from mig.model.cache import RecordCache
from mig.model.command import (
    ACTION_REFERENCES,
    AGENT_REFERENCES,
    COMMAND,
    Command,
    CommandRow,
    FlatCommand,
    Reference,
    count_complete_rows,
    encode_action,
    encode_agent,
    load_omitted_results,
    measure_results,
)
from mig.model.compliance import ComplianceItem, ComplianceSummary, make_summary_type
from mig.model.investigator import INVESTIGATOR, Investigator
from mig.model.record import Record, UnreadableRecord, read_record
from mig.model.row import Columns
from mig.model.statement import QueryFunction
from mig.search.order import SearchRow
from mig.search.parameters import COMPLIANCE_ITEMS, COMPLIANCE_SUMMARY
from mig.search.results import RowEncoder
from mig.search.search import Search

MAX_CACHED_ACTIONS: Final = 1_000
MAX_CACHED_AGENTS: Final = 2_000

AnySearchRow = TypeVar("AnySearchRow", bound=SearchRow)
Part = TypeVar("Part")


class RecordEncoder(Generic[AnySearchRow]):
    """An encoder of one record for each row.

    :param read: makes a record of a row.
    :param links: returns the links to what belongs to a row's record.
    """

    item_count = 0

    def __init__(
        self,
        format_: Format,
        columns: Columns[AnySearchRow],
        read: Callable[[AnySearchRow], AnyRecord],
        links: Callable[[AnySearchRow], Sequence[Link]] = lambda row: (),
    ) -> None:
        self.columns = columns
        self.separator = format_.separator
        self._encode_record = format_.encode_record
        self._read_record = read
        self._find_links = links

    async def load_related(self, query: QueryFunction, rows: Sequence[AnySearchRow]) -> None:
        """Load nothing: these rows need nothing else."""

    def encode_row(self, row: AnySearchRow) -> bytes:
        """Return the encoded record of a row."""
        return self._encode_record(self._read_record(row), self._find_links(row))

    def weigh_rows(self, rows: Sequence[AnySearchRow]) -> int:
        """Return 0: in these rows, nothing is expected to be large."""
        return 0

    def count_complete(self, rows: Sequence[AnySearchRow]) -> int:
        """Return the number of rows: nothing is omitted from them."""
        return len(rows)

    async def complete_row(self, query: QueryFunction, row: AnySearchRow) -> AnySearchRow:
        """Return the row, which is always complete."""
        return row


class ActionEncoder(RecordEncoder[ActionRow]):
    """An encoder of actions with the counters of their commands."""

    def __init__(self, format_: Format, counters: dict[str, dict[str, int]] | None = None) -> None:
        """Set the ``counters`` of actions by id, for use without :meth:`load_related`."""
        super().__init__(format_, ACTION, self._read_action)
        self._counters = counters or {}

    async def load_related(self, query: QueryFunction, rows: Sequence[ActionRow]) -> None:
        """Count the commands of the actions in ``rows``."""
        self._counters = await load_counters(query, [row.id for row in rows])

    def weigh_rows(self, rows: Sequence[ActionRow]) -> int:
        """Return the total length of the operations in ``rows``."""
        return sum(len(row.operations or "") for row in rows)

    def _read_action(self, row: ActionRow) -> AnyRecord:
        return read_record(Action.noun, Action.from_row, row, self._counters.get(row.id, {}))


class CommandEncoder(Generic[Part]):
    """An encoder of commands with their actions and agents, each of which is made once.

    :param make_record: makes a command of its row, the parts of its action and agent, and
        ``max_bytes``, the size of the largest results that are read.
    """

    columns = COMMAND
    item_count = 0

    def __init__(
        self,
        format_: Format,
        urls: Urls,
        max_bytes: int,
        make_record: Callable[..., Command | FlatCommand],
        actions: RecordCache[Any, Part],
        agents: RecordCache[Any, Part],
    ) -> None:
        self.separator = format_.separator
        self._encode_record = format_.encode_record
        self._make_record = make_record
        self._urls = urls
        self._max_bytes = max_bytes
        self._links: dict[str | None, Sequence[Link]] = {}  # of a page, by the action's id
        self._actions = actions
        self._agents = agents

    async def load_related(self, query: QueryFunction, rows: Sequence[CommandRow]) -> None:
        """Load the actions and agents of ``rows``, which the query does not join."""
        await self._actions.load(query, (row.actionid for row in rows))
        await self._agents.load(query, (row.agentid for row in rows))
        actions = {row.actionid for row in rows}
        self._links = {action_id: link_action(self._urls, action_id) for action_id in actions}

    def weigh_rows(self, rows: Sequence[CommandRow]) -> int:
        """Return the total length of the results in ``rows``."""
        return measure_results(rows)

    def count_complete(self, rows: Sequence[CommandRow]) -> int:
        """Return how many rows come before the first one without its results."""
        return count_complete_rows(rows)

    async def complete_row(self, query: QueryFunction, row: CommandRow) -> CommandRow:
        """Return the row with its results, unless they are too large."""
        return await load_omitted_results(query, row, max_bytes=self._max_bytes)

    def encode_row(self, row: CommandRow) -> bytes:
        """Return the encoded command of a row, with the link to its action."""
        record: AnyRecord
        try:  # here and not by read_record: with thousands of rows, each call counts
            action, agent = self._actions.get(row.actionid), self._agents.get(row.agentid)
            record = self._make_record(row, action, agent, max_bytes=self._max_bytes)
        except UnreadableError as reason:
            # readers of commands expect a target, though none is known
            record = UnreadableRecord(Command.noun, row.id, str(reason), target="")
        return self._encode_record(record, self._links[row.actionid])


def _make_command_encoder(format_: Format, urls: Urls, limits: Limits) -> RowEncoder[CommandRow]:
    """Return the encoder of commands with their whole actions and agents, or with references."""
    max_bytes, kept = limits.result_bytes, limits.cached_record_bytes
    if format_.is_flat:
        read = Reference.from_row
        return CommandEncoder(
            format_,
            urls,
            max_bytes,
            FlatCommand.from_row,
            RecordCache(ACTION_REFERENCES, read, bound=MAX_CACHED_ACTIONS, max_bytes=kept),
            RecordCache(AGENT_REFERENCES, read, bound=MAX_CACHED_AGENTS, max_bytes=kept),
        )
    read_action = partial(encode_action, ids_as_text=format_.ids_as_text)
    read_agent = partial(encode_agent, ids_as_text=format_.ids_as_text)
    return CommandEncoder(
        format_,
        urls,
        max_bytes,
        Command.from_row,
        RecordCache(ACTIONS_BY_IDS, read_action, bound=MAX_CACHED_ACTIONS, max_bytes=kept),
        RecordCache(AGENTS_BY_IDS, read_agent, bound=MAX_CACHED_AGENTS, max_bytes=kept),
    )


def find_record_type(search: Search) -> type[Record]:
    """Return the kind of record in the answer of a search."""
    if search.report == COMPLIANCE_SUMMARY:
        return make_summary_type(search.grouping.names)
    return REPORT_RECORDS[search.report] if search.report else TYPE_RECORDS[search.type]


TYPE_RECORDS: Final[dict[str, type[Record]]] = {
    record.noun: record for record in (Action, Command, Agent, Investigator)
}
"""The kind of record that each type of search has."""
REPORT_RECORDS: Final[dict[str, type[Record]]] = {
    COMPLIANCE_ITEMS: ComplianceItem,
    COMPLIANCE_SUMMARY: ComplianceSummary,
}
"""The kind of record that each report has."""


def make_row_encoder(
    search: Search, format_: Format, urls: Urls, limits: Limits
) -> RowEncoder[Any]:
    """Return the encoder of the rows of a search: for a report, or for records."""
    if search.report == COMPLIANCE_ITEMS:
        selection, window = search.select_items(), _make_window(search, format_)
        if selection.is_everything:
            return ComplianceEncoder(format_, urls, limits, window)
        return SelectiveEncoder(format_, urls, limits, selection, window)
    if search.type == Action.noun:
        return ActionEncoder(format_)
    if search.type == Command.noun:
        return _make_command_encoder(format_, urls, limits)
    if search.type == Agent.noun:
        return RecordEncoder(format_, AGENT, partial(read_record, Agent.noun, Agent.from_row))
    return RecordEncoder(
        format_,
        INVESTIGATOR,
        partial(read_record, Investigator.noun, Investigator.from_row),
        lambda row: link_history(urls, row.id),
    )


def _make_window(search: Search, format_: Format) -> ItemWindow | None:
    """Return which items of a command a document can have, if not all.

    There may be one too many, which shows that the document has to end.
    """
    if format_.max_items is None:
        return None
    size = format_.max_items + 1
    if search.cursor is None:
        return ItemWindow(size)
    return ItemWindow(size, command_id=search.cursor.id, skipped=search.cursor.items)
