"""The fast encoder of compliance items, equal to :mod:`mig.compliance.definition`.

Parts that many items share are encoded once: those of a check by all that it is made of
(docs/decisions/0016 and 0052), those of an action or agent by id. The items of a command are then
one join. Results of an unusual shape go through the readable definition, which gives the reason
when it refuses them (docs/decisions/0014).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Final, Generic, NamedTuple

from mig.compliance import definition
from mig.compliance.check_maker import Check, CheckMaker, make_check_encoder
from mig.compliance.check_reader import UNUSUAL_SHAPE_ERRORS, CheckReader
from mig.compliance.related_rows import ACTIONS, ActionRow
from mig.compliance.selection import EVERY_ITEM, CheckTraits, ItemSelection, ItemWindow
from mig.errors import UnreadableError
from mig.formats.format import ActionFields, Format
from mig.hypermedia.urls import Urls
from mig.limits import Limits
from mig.model.cache import RecordCache
from mig.model.command import (
    COMMAND_RESULTS,
    ResultsRow,
    count_complete_rows,
    get_actionid,
    get_agentid,
    load_omitted_results,
    measure_results,
    reject_omitted_results,
)
from mig.model.compliance import ComplianceItem
from mig.model.record import UnreadableRecord, check_numeric_id
from mig.model.row import Columns, id_sql
from mig.model.statement import QueryFunction, Statement
from mig.values import format_time

MAX_CACHEDACTIONS: Final = 1_000
MAX_CACHED_AGENTS: Final = 20_000


class _AgentRow(NamedTuple):
    id: Annotated[str, id_sql("id")]
    name: Annotated[str, "name"]


_AGENT = Columns(_AgentRow)
_AGENTS = Statement(
    f"""
select {_AGENT.sql}
from agents
where id = any(%s::numeric[])
""",
    _AGENT,
)


class _ActionParts(Generic[Check]):
    """The parts that all items of an action share."""

    __slots__ = ("encoded", "operations", "policy", "row")  # read in fewer steps: 0052

    def __init__(
        self,
        format_: Format,
        reader: CheckReader[Check],
        selection: ItemSelection,
        row: ActionRow,
    ) -> None:
        self.row = row
        self.operations = reader.read_operations(row.operations)
        policy, ref = definition.read_policy_and_ref(row.description, row.threat)
        self.policy = selection.find_policy_traits(policy)
        self.encoded = format_.encode_action_part(
            # a check's description is its action's name
            ActionFields(policy=policy, ref=ref, description=row.name)
        )


class _AgentParts:
    """The part that all items of an agent share."""

    __slots__ = ("encoded", "name")

    def __init__(self, format_: Format, row: _AgentRow) -> None:
        self.name = row.name
        self.encoded = format_.encode_agent_part(definition.build_target(row.name))


class _ItemEncoder(Generic[Check]):
    """Encodes the rows of commands as compliance items, in the format of an answer.

    :param window: which items of each command are encoded, by default all.

    ``item_count`` is how many items there are in all rows that have been encoded.
    """

    columns = COMMAND_RESULTS

    def __init__(
        self,
        format_: Format,
        urls: Urls,
        limits: Limits,
        make_check: CheckMaker[Check],
        selection: ItemSelection,
        window: ItemWindow | None,
    ) -> None:
        self.item_count = 0
        self._window = window
        self._format = format_
        self._limits = limits
        self._link_prefix = urls.for_command("")
        self.separator = format_.separator
        self._reader = CheckReader(make_check, limits)
        self._actions: RecordCache[ActionRow, _ActionParts[Check]] = RecordCache(
            ACTIONS,
            partial(_ActionParts, format_, self._reader, selection),
            bound=MAX_CACHEDACTIONS,
            max_bytes=limits.cached_record_bytes,
        )
        self._agents = RecordCache(
            _AGENTS,
            partial(_AgentParts, format_),
            bound=MAX_CACHED_AGENTS,
            max_bytes=limits.cached_record_bytes,
        )
        self._find_action, self._find_agent = self._actions.find, self._agents.find

    async def load_related(self, query: QueryFunction, rows: Sequence[ResultsRow]) -> None:
        """Load the actions and agents that ``rows`` belong to."""
        await self._actions.load(query, map(get_actionid, rows))
        await self._agents.load(query, map(get_agentid, rows))

    def weigh_rows(self, rows: Sequence[ResultsRow]) -> int:
        """Return how many characters all results have."""
        return measure_results(rows)

    def count_complete(self, rows: Sequence[ResultsRow]) -> int:
        """Return how many rows precede the first one whose results were left out."""
        return count_complete_rows(rows)

    async def complete_row(self, query: QueryFunction, row: ResultsRow) -> ResultsRow:
        """Return the row with its results, unless they are too large."""
        return await load_omitted_results(query, row, max_bytes=self._limits.result_bytes)

    def encode_row(self, row: ResultsRow) -> bytes:
        """Return the items of a command with separators; empty when there are none.

        For a command that cannot be read, return one item with the reason.
        """
        # at once: to read each field of a named tuple by its name takes longer than to look it up
        command_id, actionid, agentid, _, finishtime, results, omitted_bytes = row
        agent = None
        try:
            agent = self._find_agent(agentid) or self._agents.get(agentid)
            if agent is None:
                raise UnreadableError("its agent is not in the database")
            action = self._find_action(actionid) or self._actions.get(actionid)
            if action is None:
                raise UnreadableError("its action is not in the database")
            link = self._link_prefix + check_numeric_id(command_id)
            if omitted_bytes is not None:
                reject_omitted_results(omitted_bytes, self._limits.result_bytes)
            timestamp = format_time(finishtime)
            if results == "[]":  # of a command that has no answer
                return b""
            try:
                checks = self._read_checks(action, agentid, results)
            except UNUSUAL_SHAPE_ERRORS:
                items = self._build_items(link, action, agent, row)
                if self._window is not None:
                    items = self._window.select(command_id, items)
                self.item_count += len(items)
                return self.separator.join(map(self._format.encode_record, items))
        except UnreadableError as reason:
            self.item_count += 1
            target = definition.build_target(agent.name) if agent else ""
            return self._format.encode_record(
                UnreadableRecord("command", command_id, str(reason), target)
            )
        if self._window is not None:
            checks = self._window.select(command_id, checks)
        if not checks:
            return b""
        head, tail = self._format.encode_command_parts(
            link, agent.encoded, action.encoded, timestamp
        )
        self.item_count += len(checks)
        # one join makes all items: the glue between two checks ends one item and begins the next
        checks[0] = head + checks[0]
        checks[-1] += tail
        return (tail + self.separator + head).join(checks)

    def _read_checks(
        self, action: _ActionParts[Check], agentid: str | None, results: str | None
    ) -> list[bytes]:
        """Return the encoded checks whose items are part of the report, in a list to change."""
        raise NotImplementedError

    def _build_items(
        self, link: str, action: _ActionParts[Check], agent: _AgentParts, row: ResultsRow
    ) -> list[ComplianceItem]:
        """Return the items of a command that are part of the report, by the definition."""
        return definition.build_compliance_items(
            link=link,
            agent_name=agent.name,
            action_name=action.row.name,
            description=action.row.description,
            threat=action.row.threat,
            operations=action.row.operations,
            finishtime=row.finishtime,
            results=row.results,
        )


class ComplianceEncoder(_ItemEncoder[bytes]):
    """Encodes the rows of commands as compliance items, in the format of an answer."""

    def __init__(
        self, format_: Format, urls: Urls, limits: Limits, window: ItemWindow | None = None
    ) -> None:
        super().__init__(format_, urls, limits, make_check_encoder(format_), EVERY_ITEM, window)

    def _read_checks(
        self, action: _ActionParts[bytes], agentid: str | None, results: str | None
    ) -> list[bytes]:
        return action.operations.read_checks(results)


_SelectableCheck = tuple[bytes, CheckTraits]


class SelectiveEncoder(_ItemEncoder[_SelectableCheck]):
    """Encodes the items of a report that are asked for, and all commands that cannot be read.

    Of those, the ones under a policy that does not matter are left out.
    """

    def __init__(
        self,
        format_: Format,
        urls: Urls,
        limits: Limits,
        selection: ItemSelection,
        window: ItemWindow | None = None,
    ) -> None:
        self._selection = selection
        encode_check = make_check_encoder(format_)

        def make_check(
            name: str, type_: str, value: str, compliance: bool
        ) -> Callable[[str], _SelectableCheck]:
            traits = selection.find_check_traits(name, type_, value, compliance)
            if not traits.is_included:
                return lambda location: (b"", traits)
            encode = encode_check(name, type_, value, compliance)
            return lambda location: (encode(location), traits)

        super().__init__(format_, urls, limits, make_check, selection, window)

    def encode_row(self, row: ResultsRow) -> bytes:
        """Return the items that are asked for, as :meth:`ComplianceEncoder.encode_row` does."""
        action = None
        with suppress(UnreadableError):  # which it is listed as
            action = self._actions.get(row.actionid)
        if action is None:
            return super().encode_row(row)
        if action.policy.is_included:
            return super().encode_row(row)
        if action.policy.is_relevant:
            items_before = self.item_count
            super().encode_row(row)  # it may have the newest answers, which are not asked for
            self.item_count = items_before
        return b""

    def _read_checks(
        self, action: _ActionParts[_SelectableCheck], agentid: str | None, results: str | None
    ) -> list[bytes]:
        found = action.operations.read_checks(results)
        return self._selection.select(agentid or "", action.policy.name, found)

    def _build_items(
        self,
        link: str,
        action: _ActionParts[_SelectableCheck],
        agent: _AgentParts,
        row: ResultsRow,
    ) -> list[ComplianceItem]:
        found = [
            (item, self._selection.find_check_traits(*_identify_check(item), item.compliance))
            for item in super()._build_items(link, action, agent, row)
        ]
        return self._selection.select(row.agentid or "", action.policy.name, found)


def _identify_check(item: ComplianceItem) -> tuple[str, str, str]:
    return item.check.name, item.check.test.type, item.check.test.value
