"""Agents as whole numbers, so that a verdict on each takes one byte."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from mig.compliance.grouping import GroupValues, Population
from mig.compliance.verdicts import CURRENT

AGENT_BYTES: Final = 170
"""What an agent takes: its id, its number, and its place."""
_POPULATION_BYTES: Final = 300
_SHARDS: Final = 256
"""Into how many dictionaries the ids are divided: one of a million would take long to grow."""


class NumberedAgent(msgspec.Struct, frozen=True, eq=False, gc=False):
    """An agent.

    ``number`` is that among all agents, and ``place`` that in its population. ``offset`` is added
    to verdicts on it. ``is_stored`` tells whether it is in the database.
    """

    number: int
    place: int
    population: Population
    offset: int
    is_stored: bool


class AgentNumbers:
    """The numbers of agents, in the order in which they are first seen.

    ``everybody`` is the population of all of them.

    :param take_bytes: called with how many bytes more are used, or fewer.
    """

    def __init__(self, take_bytes: Callable[[int], None]) -> None:
        self._take_bytes = take_bytes
        self._shards: list[dict[str, int]] = [{} for _ in range(_SHARDS)]
        self._places = array("I")
        self._populations: dict[GroupValues, Population] = {}
        self.everybody = Population(())

    def number_agent(
        self, agentid: str, values: GroupValues, *, is_current: bool, is_stored: bool
    ) -> NumberedAgent:
        """Return an agent with its number, a new one if it has none yet.

        :param values: always the same for an agent, as ``is_current`` is.
        :raises RequestError: as ``take_bytes`` does.
        """
        population = self._populations.get(values)
        if population is None:
            self._take_bytes(_measure_population(values))
            population = self._populations[values] = Population(values)
        shard = self._shards[hash(agentid) % _SHARDS]
        number = shard.get(agentid)
        if number is None:
            self._take_bytes(AGENT_BYTES)
            number = shard[agentid] = self.everybody.size
            self._places.append(population.size)
            self.everybody.size += 1
            population.size += 1
        offset = CURRENT if is_current else 0
        return NumberedAgent(number, self._places[number], population, offset, is_stored)

    def clear(self) -> Iterator[None]:
        """Forget all agents, in short steps."""
        for shard in self._shards:
            self._take_bytes(-AGENT_BYTES * len(shard))
            shard.clear()
            yield
        while self._populations:
            values, _ = self._populations.popitem()
            self._take_bytes(-_measure_population(values))
            yield


def _measure_population(values: GroupValues) -> int:
    return _POPULATION_BYTES + sum(map(sys.getsizeof, values))
