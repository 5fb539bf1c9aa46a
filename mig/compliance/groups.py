"""The groups of a summary, and what is counted in each."""

from __future__ import annotations

import heapq
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

import msgspec

from mig.compliance.grouping import Grouping, GroupValues, Population
from mig.compliance.verdicts import WorstVerdicts, make_agent_counts
from mig.errors import InvalidInputError
from mig.model.compliance import AgentCounts, ComplianceSummary, ItemCounts
from mig.values import format_time

GROUP_BYTES: Final = 1_000
"""What a group takes besides its values and its verdicts."""

_STEP_GROUPS: Final = 1_000
"""How many groups are sorted, or forgotten, in one step."""

NEVER: Final = "~"
"""It is greater than every time as PostgreSQL writes it, which "" is less than."""

SortKey = tuple[float | str, ...]


class Group(WorstVerdicts, eq=False, gc=False, kw_only=True):
    """What is counted in a group.

    ``first`` and ``last`` are times as PostgreSQL writes them, which are ordered as texts.
    """

    number: int
    values: GroupValues
    passed: int = 0
    failed: int = 0
    first: str = NEVER
    last: str = ""
    agents: AgentCounts | None = None
    key: SortKey = ()

    def __lt__(self, other: Group) -> bool:
        return self.key < other.key

    def add_times(self, first: str, last: str) -> None:
        """Note when the first and the last of some commands with items finished."""
        self.first, self.last = min(self.first, first), max(self.last, last)

    def add_items(self, other: Group) -> None:
        """Add the items of another group."""
        self.passed += other.passed
        self.failed += other.failed
        self.add_times(other.first, other.last)

    def count_agents(self, asked: int | None) -> Iterator[None]:
        """Count the agents in short steps, and drop the verdicts.

        :param asked: as for :func:`make_agent_counts`.
        """
        codes: Counter[int] = Counter()
        for part in self.count():
            codes += part
            yield
        self.agents = counts = make_agent_counts(codes, asked)
        rate = counts.passed / counts.total if counts.total else math.inf
        # null is before every text
        values = [part for value in self.values for part in (value is not None, value or "")]
        self.key = (rate, -counts.failed, *values)

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been counted."""
        return not (self.passed or self.failed or self.codes)


class Shape(msgspec.Struct, eq=False, gc=False):
    """The groups of the checks of a command, which many commands have in common."""

    groups: tuple[Group, ...]
    first: str = NEVER
    last: str = ""

    def add_time(self, time: str) -> None:
        """Note when a command with items finished."""
        if time < self.first:
            self.first = time
        if time > self.last:
            self.last = time

    def note_times(self) -> None:
        """Note in all groups when commands finished."""
        for group in self.groups:
            group.add_times(self.first, self.last)


class Groups:
    """All groups of a summary, and the totals; ``count`` is how many groups there are.

    :param everybody: all agents.
    :param take_bytes: called with how many bytes more are used, or fewer.
    """

    def __init__(
        self,
        grouping: Grouping,
        everybody: Population,
        limit: int,
        take_bytes: Callable[[int], None],
    ) -> None:
        self._grouping = grouping
        self.limit = limit
        self._take_bytes = take_bytes
        self._groups: dict[GroupValues, Group] = {}
        self.totals = Group(everybody, take_bytes, number=0, values=())
        self.by_number: list[Group] = []
        self.count = 0
        self._sorted: list[list[Group]] = []

    def find(self, values: Mapping[str, str | None], population: Population) -> Group:
        """Return the group with these values by name, a new one if there is none.

        :param population: the agents that may be in it.
        :raises InvalidInputError: when there are too many.
        :raises RequestError: as ``take_bytes`` does.
        """
        ordered = self._grouping.order_values(values)
        group = self._groups.get(ordered)
        if group is None:
            group = self._groups[ordered] = self._make_group(ordered, population)
            self.by_number.append(group)
        return group

    def make_refusal(self) -> InvalidInputError:
        """Return the error for too many groups."""
        return InvalidInputError(
            f"groupby must make at most {self.limit} groups; group by something that has fewer"
            " values, or ask for fewer actions, agents or checks",
            "groupby",
        )

    def finish(self, asked: Mapping[GroupValues, int] | None) -> Iterator[None]:
        """Count the agents and sort the groups, in short steps.

        :param asked: how many agents could be asked, by what agents are grouped by; ``None`` if
            agents without a command do not count.
        :raises InvalidInputError: when there are too many groups.
        """
        yield from _clear_in_steps(self._groups)
        groups: list[Group] = []
        while self.by_number:
            part = self.by_number[-_STEP_GROUPS:]
            del self.by_number[-_STEP_GROUPS:]
            kept = [group for group in part if not group.is_empty]
            empty = [group.values for group in part if group.is_empty]
            self._take_bytes(-sum(map(_measure_group, empty)))
            groups += kept
            yield
        self.count = len(groups)
        if asked is not None:
            yield from self._add_unasked(groups, asked)
        places = [self._grouping.names.index(name) for name in self._grouping.of_agents]
        for group in groups:
            of_agents = tuple(group.values[place] for place in places)
            yield from group.count_agents(None if asked is None else asked.get(of_agents, 0))
            self.totals.add_items(group)
        yield from self.totals.count_agents(None if asked is None else sum(asked.values()))
        self.count = len(groups)
        for begin in range(0, len(groups), _STEP_GROUPS):
            self._sorted.append(sorted(groups[begin : begin + _STEP_GROUPS], reverse=True))
            yield

    def _add_unasked(self, groups: list[Group], asked: Mapping[GroupValues, int]) -> Iterator[None]:
        """Add the groups in which no agent has a command.

        Each check, for example, has a group for every operating system, if it has one at all.
        """
        of_agents = self._grouping.of_agents
        if not of_agents:
            return
        names = self._grouping.names
        others = [name for name in names if name not in of_agents]
        places = [names.index(name) for name in others]
        parts: set[GroupValues] = set() if others else {()}
        known: set[GroupValues] = set()
        for group in groups:
            parts.add(tuple(group.values[place] for place in places))
            known.add(group.values)
            yield
        for part in parts:
            values = dict(zip(others, part, strict=True))
            for agent_values in asked:
                values.update(zip(of_agents, agent_values, strict=True))
                ordered = self._grouping.order_values(values)
                if ordered not in known:
                    groups.append(self._make_group(ordered, Population(agent_values)))
                yield

    def _make_group(self, values: GroupValues, population: Population) -> Group:
        if self.count >= self.limit:
            raise self.make_refusal()
        self._take_bytes(_measure_group(values))
        self.count += 1
        return Group(population, self._take_bytes, number=self.count - 1, values=values)

    def take_sorted(self, count: int | None) -> Iterator[tuple[GroupValues, ComplianceSummary]]:
        """Yield the finished groups, the lowest rate first, and then the totals.

        Each is forgotten with that. The totals have no values.

        :param count: how many groups to yield; ``None`` for all.
        """
        names = self._grouping.names
        for group in islice(heapq.merge(*map(_take_all, self._sorted)), count):
            self._take_bytes(-_measure_group(group.values))
            yield group.values, _make_summary(group, names)
        yield (), _make_summary(self.totals, ())

    def release(self) -> Iterator[None]:
        """Forget all groups, in short steps."""
        yield from _clear_in_steps(self._groups)
        for part in (self.by_number, *self._sorted):
            while part:
                del part[-_STEP_GROUPS:]
                yield


def _clear_in_steps(groups: dict[GroupValues, Group]) -> Iterator[None]:
    while groups:
        for _ in range(min(len(groups), _STEP_GROUPS)):
            groups.popitem()
        yield


def _measure_group(values: GroupValues) -> int:
    return GROUP_BYTES + sum(map(sys.getsizeof, values))


def _take_all(groups: list[Group]) -> Iterator[Group]:
    """Yield groups from the end of a list, which is empty then."""
    while groups:
        yield groups.pop()


def _make_summary(group: Group, names: Sequence[str]) -> ComplianceSummary:
    agents = group.agents
    assert agents is not None
    has_items = bool(group.last)
    return ComplianceSummary(
        group=dict(zip(names, group.values, strict=True)),
        items=ItemCounts(passed=group.passed, failed=group.failed),
        agents=agents,
        rate=agents.passed / agents.total if agents.total else None,
        first=format_time(group.first) if has_items else None,
        last=format_time(group.last) if has_items else None,
    )
