"""Verdicts on agents, one byte each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from mig.compliance.grouping import Population
from mig.model.action import FINISHED_COMMAND_STATUSES
from mig.model.compliance import AgentCounts

# A greater one is worse, and the worst of an agent counts.
PASS: Final = 1
STALE: Final = 2
PENDING: Final = 3
UNKNOWN: Final = 4
FAIL: Final = 5
CURRENT: Final = 8
"""Added to the verdicts on an agent that could be asked now, which are then counted apart."""

_CODES: Final = tuple(
    code + offset for offset in (0, CURRENT) for code in (PASS, STALE, PENDING, UNKNOWN, FAIL)
)
_PENDING_STATUSES: Final = ("prepared", "sent")
_SUCCESS: Final = "success"
_ENTRY_BYTES: Final = 100
"""What an entry of a dictionary takes."""
_MIN_DENSE_AGENTS: Final = 32
_SCANNED_BYTES: Final = 200_000


def is_finished(status: str) -> bool:
    """Return whether a command with this status has ended."""
    return status in FINISHED_COMMAND_STATUSES


def judge_status(status: str) -> int:
    """Return the verdict on each check of a command with this status, or 0 if its results tell."""
    if status == _SUCCESS:
        return 0
    return PENDING if status in _PENDING_STATUSES else UNKNOWN


# gc=False, as for a population
class WorstVerdicts(msgspec.Struct, eq=False, gc=False):
    """The worst verdict on each agent.

    ``codes`` has a verdict for each place: a dictionary while there are few agents, and then a
    byte for each place.

    :param population: the agents; an agent's place in it is less than its size.
    :param take_bytes: called with how many bytes more are used, or fewer.
    """

    population: Population
    take_bytes: Callable[[int], None]
    codes: dict[int, int] | bytearray = {}

    def get(self, place: int) -> int:
        """Return the verdict on an agent, or 0."""
        try:
            return self.codes[place]
        except LookupError:
            return 0

    def put(self, place: int, code: int) -> None:
        """Note a verdict.

        :raises RequestError: as ``take_bytes`` does.
        """
        codes = self.codes
        try:
            if codes[place] < code:
                codes[place] = code
        except LookupError:
            self.add(place, code)

    def add(self, place: int, code: int) -> None:
        """Note the first verdict on an agent.

        :raises RequestError: as ``take_bytes`` does.
        """
        codes, places = self.codes, self.population.size
        if isinstance(codes, dict) and (
            len(codes) < _MIN_DENSE_AGENTS or len(codes) * _ENTRY_BYTES < places
        ):
            self.take_bytes(_ENTRY_BYTES)
            codes[place] = code
            return
        # an eighth more than needed: not every new agent needs more memory
        size = places + places // 8
        if isinstance(codes, dict):
            self.take_bytes(size - len(codes) * _ENTRY_BYTES)
            dense = bytearray(size)
            for other, its_code in codes.items():
                dense[other] = its_code
            self.codes = codes = dense
        else:
            self.take_bytes(size - len(codes))
            codes.extend(bytes(size - len(codes)))
        codes[place] = code

    def count(self) -> Iterator[Counter[int]]:
        """Yield how many agents have each verdict, part by part, and drop the verdicts."""
        codes = self.codes
        if isinstance(codes, dict):
            yield Counter(codes.values())
        else:
            for begin in range(0, len(codes), _SCANNED_BYTES):
                end = begin + _SCANNED_BYTES
                yield Counter({code: codes.count(code, begin, end) for code in _CODES})
        self.drop()

    def drop(self) -> None:
        """Drop the verdicts."""
        codes, self.codes = self.codes, {}
        self.take_bytes(-len(codes) * (_ENTRY_BYTES if isinstance(codes, dict) else 1))


def make_agent_counts(codes: Counter[int], asked: int | None) -> AgentCounts:
    """Return how many agents have each verdict.

    :param codes: how many have each code.
    :param asked: how many agents could be asked now; ``None`` if those without a verdict do not
        count.
    """
    counts = {code: codes[code] + codes[code + CURRENT] for code in range(PASS, FAIL + 1)}
    current = sum(codes[code + CURRENT] for code in counts)
    notasked = 0 if asked is None else asked - current
    return AgentCounts(
        passed=counts[PASS],
        failed=counts[FAIL],
        unknown=counts[UNKNOWN],
        pending=counts[PENDING],
        stale=counts[STALE],
        notasked=notasked,
        total=sum(counts.values()) + notasked,
    )
