"""With ``latest=true``: checks that an agent has not answered, as far as has been read.

Commands are read newest first, so an older answer may follow, which counts then.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from mig.compliance.agent_numbers import NumberedAgent
from mig.compliance.grouping import Population
from mig.compliance.groups import Group, Groups
from mig.compliance.verdicts import WorstVerdicts

_WAITING: Final = 1
_ANSWERED: Final = 2
_VERDICT_BYTES: Final = 21
"""What a verdict takes that waits: the numbers of check, agent, place and group, and its code."""
_CHECK_BYTES: Final = 1_000
_RESOLVED_VERDICTS: Final = 1_000
"""How many verdicts are resolved in one step."""

_CheckName = tuple[str, str | None]
"""The name of a policy, and that of a check."""


class WaitingVerdicts:
    """The verdicts that count if no answer follows.

    :param everybody: all agents.
    :param take_bytes: called with how many bytes more are used, or fewer.
    """

    def __init__(self, everybody: Population, take_bytes: Callable[[int], None]) -> None:
        self._everybody = everybody
        self._take_bytes = take_bytes
        self._check_numbers: dict[_CheckName, int] = {}
        self._states: list[WorstVerdicts] = []
        self._checks, self._agents = array("I"), array("I")
        self._places, self._groups = array("I"), array("I")
        self._codes = bytearray()

    def note_answers(self, policy: str, names: Iterable[str], agent: NumberedAgent) -> None:
        """Note that an agent has answered checks of a policy.

        :raises RequestError: as ``take_bytes`` does.
        """
        for name in names:
            states = self._states[self._number_check((policy, name))]
            states.put(agent.number, _ANSWERED)

    def is_decided(self, policy: str, name: str | None, agent: NumberedAgent) -> bool:
        """Return whether a newer command has answered a check, or should have done so."""
        return self._states[self._number_check((policy, name))].get(agent.number) != 0

    def add(
        self, policy: str, name: str | None, agent: NumberedAgent, group: Group | None, code: int
    ) -> None:
        """Note the verdict of the newest command that should have answered a check.

        :param group: the group that it counts in; ``None`` if it counts in none.
        :raises RequestError: as ``take_bytes`` does.
        """
        number = self._number_check((policy, name))
        self._states[number].put(agent.number, _WAITING)
        if group is not None:
            self._take_bytes(_VERDICT_BYTES)
            self._checks.append(number)
            self._agents.append(agent.number)
            self._places.append(agent.place)
            self._groups.append(group.number)
            self._codes.append(code)

    def resolve(self, groups: Groups) -> Iterator[None]:
        """Add the verdicts on checks that were not answered to their groups, in short steps.

        :raises RequestError: as ``take_bytes`` does.
        """
        columns = (self._checks, self._agents, self._places, self._groups, self._codes)
        for n, (check, agent, place, group, code) in enumerate(zip(*columns, strict=True)):
            if self._states[check].get(agent) != _ANSWERED:
                groups.by_number[group].put(place, code)
                groups.totals.put(agent, code)
            if n % _RESOLVED_VERDICTS == 0:
                yield
        yield from self.release()

    def release(self) -> Iterator[None]:
        """Forget everything, in short steps."""
        self._take_bytes(-_VERDICT_BYTES * len(self._codes))
        for column in (self._checks, self._agents, self._places, self._groups, self._codes):
            del column[:]
        while self._states:
            self._states.pop().drop()
            yield
        while self._check_numbers:
            check, _ = self._check_numbers.popitem()
            self._take_bytes(-_measure_check(check))
            yield

    def _number_check(self, check: _CheckName) -> int:
        number = self._check_numbers.get(check)
        if number is None:
            self._take_bytes(_measure_check(check))
            number = self._check_numbers[check] = len(self._states)
            self._states.append(WorstVerdicts(self._everybody, self._take_bytes))
        return number


def _measure_check(check: _CheckName) -> int:
    return _CHECK_BYTES + sum(map(sys.getsizeof, check))
