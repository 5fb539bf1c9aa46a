"""A summary of a report: its items, and the agents that were asked, counted by groups.

Commands are read as the report reads them. What a command has not answered is taken from its
action (docs/decisions/0110).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from mig.compliance import definition
from mig.compliance.agent_numbers import AgentNumbers, NumberedAgent
from mig.compliance.asked_checks import AskedChecks, list_asked_checks
from mig.compliance.check_reader import UNUSUAL_SHAPE_ERRORS, CheckReader, Operations
from mig.compliance.grouping import CHECK, DAY, Grouping, GroupValues
from mig.compliance.groups import Group, Groups, Shape
from mig.compliance.related_rows import ACTIONS, ActionRow, AgentRow, AgentValues
from mig.compliance.selection import CheckTraits, ItemSelection, PolicyTraits
from mig.compliance.verdicts import FAIL, PASS, STALE, UNKNOWN, is_finished, judge_status
from mig.compliance.waiting import WaitingVerdicts
from mig.errors import UnreadableError
from mig.limits import Limits
from mig.model.cache import RecordCache
from mig.model.command import (
    COMMAND_SUMMARY,
    SummaryRow,
    count_complete_rows,
    get_actionid,
    get_agentid,
    load_omitted_results,
    measure_results,
    reject_omitted_results,
)
from mig.model.record import check_numeric_id
from mig.model.statement import QueryFunction
from mig.values import format_time

MAX_CACHEDACTIONS: Final = 1_000
MAX_CACHED_AGENTS: Final = 20_000

_UNSET_COLUMN: Final = "0001-01-01 00:00:00+00"
"""A time that is not set, as PostgreSQL would write what the report has for it."""
_MAX_KEPT_ANSWERS: Final = 20
_MAX_KEPT_NAMES: Final = 1_000
"""Of an action: how many sets of answers are kept, and how many names each has."""
MAX_LAID_OUT: Final = 20_000
"""How many names of checks all shapes have: to drop them takes some milliseconds."""
_NO_NAME: Final[str | None] = None
"""The name of checks that nobody knows, of an action that cannot be read."""


@dataclass(slots=True, frozen=True)
class _Check:
    """What all items of a check have in common."""

    name: str
    complies: bool
    traits: CheckTraits


_get_name: Final = attrgetter("name")


@dataclass(slots=True, frozen=True)
class _Action:
    """An action; without ``operations`` it cannot be read.

    ``values`` are those that its items are grouped by, and ``asked`` the checks that are asked for.
    """

    policy: PolicyTraits
    values: GroupValues
    modules: Sequence[tuple[str, str]]
    operations: Operations[_Check] | None
    asked: AskedChecks
    missing: dict[tuple[str, ...], tuple[str | None, ...]] = field(default_factory=dict)

    def find_missing(self, answered: tuple[str, ...]) -> tuple[str | None, ...]:
        """Return the names of checks that a command with these answers has not answered."""
        missing = self.missing.get(answered)
        if missing is None:
            if len(self.missing) >= _MAX_KEPT_ANSWERS:
                self.missing.clear()
            missing = (_NO_NAME,)
            if self.operations is not None:
                missing = tuple(self.asked.find_missing(answered))
            if len(answered) <= _MAX_KEPT_NAMES:
                self.missing[answered] = missing
        return missing


_UNKNOWN_POLICY: Final = PolicyTraits(name="", is_relevant=True, is_included=True)


class Summarizer:
    """Counts the rows of commands.

    It takes the place of an encoder whose rows have no items: what it has counted comes at the end.

    :param oldest: the time, as PostgreSQL writes it, before which an answer is stale.
    :param take_bytes: called with how many bytes more are used, or fewer.
    """

    columns = COMMAND_SUMMARY
    separator = b""
    item_count = 0  # of those that are sent

    def __init__(
        self,
        grouping: Grouping,
        agent_values: AgentValues,
        selection: ItemSelection,
        limits: Limits,
        *,
        oldest: str,
        take_bytes: Callable[[int], None],
    ) -> None:
        self._grouping = grouping
        self._selection = selection
        self._limits = limits
        self._oldest = oldest
        self._take_bytes = take_bytes
        self._has_day = DAY in grouping.names
        self._numbers = AgentNumbers(take_bytes)
        everybody = self._numbers.everybody
        self.groups = Groups(grouping, everybody, limits.summary_groups, take_bytes)
        self._shapes: dict[object, Shape] = {}
        self._laid_out = 0
        self._reader = CheckReader(self._make_check, limits)
        self._unreadable_action = self._make_unreadable_action(None)
        self._actions = RecordCache(
            ACTIONS,
            self._read_action,
            bound=MAX_CACHEDACTIONS,
            max_bytes=limits.cached_record_bytes,
        )
        self._no_values: GroupValues = (None,) * len(grouping.of_agents)
        self._agents = RecordCache(
            agent_values.make_statement(),
            self._read_agent,
            bound=MAX_CACHED_AGENTS,
            max_bytes=limits.cached_record_bytes,
            parameters=agent_values.parameters,
        )
        self._waiting = WaitingVerdicts(everybody, take_bytes) if selection.takes_latest else None

    async def load_related(self, query: QueryFunction, rows: Sequence[SummaryRow]) -> None:
        """Load the actions and agents that ``rows`` belong to."""
        await self._actions.load(query, map(get_actionid, rows))
        await self._agents.load(query, map(get_agentid, rows))

    def weigh_rows(self, rows: Sequence[SummaryRow]) -> int:
        """Return how many characters all results have."""
        return measure_results(rows)

    def count_complete(self, rows: Sequence[SummaryRow]) -> int:
        """Return how many rows precede the first one whose results were left out."""
        return count_complete_rows(rows)

    async def complete_row(self, query: QueryFunction, row: SummaryRow) -> SummaryRow:
        """Return the row with its results, unless they are too large."""
        return await load_omitted_results(query, row, max_bytes=self._limits.result_bytes)

    def encode_row(self, row: SummaryRow) -> bytes:
        """Count a command; return nothing.

        :raises RequestError: when there is too much to count.
        """
        action = self._actions.get(row.actionid) or self._unreadable_action
        if not action.policy.is_relevant:
            return b""
        agent = self._agents.get(row.agentid) or self._number_missing_agent(row.agentid)
        found = self._find_checks(action, agent, row)
        status_code = UNKNOWN if found is None else judge_status(row.status)
        names = tuple(map(_get_name, found or ()))
        if found:
            self._add_checks(action, agent, row, status_code, found, names)
        missing = action.find_missing(names)
        if missing:
            self._add_unanswered(action, agent, row, status_code or UNKNOWN, missing)
        return b""

    def _make_check(
        self, name: str, type_: str, value: str, compliance: bool
    ) -> Callable[[str], _Check]:
        for text in (name, type_, value):
            definition.refuse_nul(text)
        traits = self._selection.find_check_traits(name, type_, value, compliance)
        check = _Check(name, compliance, traits)
        return lambda location: check

    def _read_action(self, row: ActionRow) -> _Action:
        """Return the action of a row, also when it cannot be read."""
        try:
            policy, _ = definition.read_policy_and_ref(row.description, row.threat)
            operations = self._reader.read_operations(row.operations)
            modules = definition.read_modules(row.operations)
        except UnreadableError:
            return self._make_unreadable_action(row.name)
        values = {"policy": policy.name, "level": policy.level, "action": row.name}
        asked = list_asked_checks(modules)
        is_included = self._selection.includes_name
        return _Action(
            policy=self._selection.find_policy_traits(policy),
            values=tuple(values[name] for name in self._grouping.of_actions),
            modules=modules,
            operations=operations,
            asked=AskedChecks(
                frozenset(filter(is_included, asked.names)),
                frozenset(filter(is_included, asked.modules)),
            ),
        )

    def _make_unreadable_action(self, name: str | None) -> _Action:
        return _Action(
            policy=_UNKNOWN_POLICY,
            values=tuple(name if each == "action" else None for each in self._grouping.of_actions),
            modules=(),
            operations=None,
            asked=AskedChecks(frozenset(), frozenset()),
        )

    def _read_agent(self, row: AgentRow) -> NumberedAgent:
        values = (row.first, row.second)[: len(self._no_values)]
        return self._numbers.number_agent(row.id, values, is_current=row.is_current, is_stored=True)

    def _number_missing_agent(self, agentid: str | None) -> NumberedAgent:
        return self._numbers.number_agent(
            agentid or "", self._no_values, is_current=False, is_stored=False
        )

    def _find_checks(
        self, action: _Action, agent: NumberedAgent, row: SummaryRow
    ) -> list[_Check] | None:
        """Return the checks of which the report has items; ``None`` if it cannot read the row."""
        if action.operations is None or not agent.is_stored:
            return None
        try:
            check_numeric_id(row.id)
            if row.omitted_bytes is not None:
                reject_omitted_results(row.omitted_bytes, self._limits.result_bytes)
            format_time(row.finishtime)
            try:
                return action.operations.read_checks(row.results)
            except UNUSUAL_SHAPE_ERRORS:
                return [
                    self._make_check(found.name, found.type, found.value, found.compliance)("")
                    for found in definition.read_checks([*action.modules], row.results)
                ]
        except UnreadableError:
            return None

    def _add_checks(
        self,
        action: _Action,
        agent: NumberedAgent,
        row: SummaryRow,
        status_code: int,
        found: list[_Check],
        names: tuple[str, ...],
    ) -> None:
        """Count the items of a command, which has the checks ``found`` under these names."""
        if not self._selection.is_everything:
            selected = self._selection.select(
                row.agentid or "", action.policy.name, [(check, check.traits) for check in found]
            )
            if self._waiting is not None:
                named = {check.name for check in found if check.traits.is_named}
                self._waiting.note_answers(action.policy.name, named, agent)
            found, names = selected, tuple(map(_get_name, selected))
        if not found or not action.policy.is_included:
            return
        shape = self._find_shape(action, agent, row, names)
        time = row.finishtime or _UNSET_COLUMN
        shape.add_time(time)
        is_stale = time < self._oldest
        code_of_failure, code_of_pass = (
            max(STALE if is_stale else answer, status_code) + agent.offset
            for answer in (FAIL, PASS)
        )
        place, worst = agent.place, 0
        # this runs for every item of a report: docs/decisions/0111
        for group, check in zip(shape.groups, found, strict=True):
            if check.complies:
                group.passed += 1
                code = code_of_pass
            else:
                group.failed += 1
                code = code_of_failure
            if code > worst:
                worst = code
            codes = group.codes
            try:
                if codes[place] < code:
                    codes[place] = code
            except LookupError:
                group.add(place, code)
        self.groups.totals.put(agent.number, worst)

    def _add_unanswered(
        self,
        action: _Action,
        agent: NumberedAgent,
        row: SummaryRow,
        code: int,
        missing: tuple[str | None, ...],
    ) -> None:
        """Note a verdict on the checks that a command should have answered, and did not."""
        code += agent.offset
        policy = action.policy
        if self._waiting is not None:
            missing = tuple(
                name for name in missing if not self._waiting.is_decided(policy.name, name, agent)
            )
        groups: Sequence[Group | None] = [None] * len(missing)
        if policy.is_included:
            groups = self._find_shape(action, agent, row, missing).groups
        for name, group in zip(missing, groups, strict=True):
            if self._waiting is not None:
                self._waiting.add(policy.name, name, agent, group, code)
            elif group is not None:
                group.put(agent.place, code)
                self.groups.totals.put(agent.number, code)

    def _find_shape(
        self, action: _Action, agent: NumberedAgent, row: SummaryRow, names: tuple[str | None, ...]
    ) -> Shape:
        """Return the groups of checks with these names."""
        day = self._find_day(row) if self._has_day else None
        key = (action.values, agent.population, day, names)
        shape = self._shapes.get(key)
        if shape is None:
            values: dict[str, str | None] = {
                DAY: day,
                **dict(zip(self._grouping.of_actions, action.values, strict=True)),
                **dict(zip(self._grouping.of_agents, agent.population.values, strict=True)),
            }
            find = self.groups.find
            shape = Shape(tuple(find({**values, CHECK: name}, agent.population) for name in names))
            self._laid_out += len(names) + 1
            if self._laid_out > MAX_LAID_OUT:
                self._drop_shapes()
                self._laid_out = len(names) + 1
            self._shapes[key] = shape
        return shape

    def _drop_shapes(self) -> None:
        for shape in self._shapes.values():
            shape.note_times()
        self._shapes.clear()

    def _find_day(self, row: SummaryRow) -> str | None:
        time = row.finishtime if is_finished(row.status) else None
        try:
            return format_time(time or row.starttime)[:10]
        except UnreadableError:
            return None

    def finish(self, asked: Mapping[GroupValues, int] | None) -> Iterator[None]:
        """Count the agents of each group, and sort the groups, in short steps.

        :param asked: as for :meth:`Groups.finish`.
        :raises RequestError: when there are too many groups.
        """
        if self._waiting is not None:
            yield from self._waiting.resolve(self.groups)
        self._drop_shapes()
        yield from self.groups.finish(asked)
        yield from self._numbers.clear()

    def release(self) -> Iterator[None]:
        """Forget everything, in short steps: all at once would keep other requests waiting."""
        if self._waiting is not None:
            yield from self._waiting.release()
        yield from self._numbers.clear()
        yield from self.groups.release()
