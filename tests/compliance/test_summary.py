"""What a summary keeps of many agents, and which checks an action asks for."""

from __future__ import annotations

import json
import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mig.compliance.agent_numbers import AgentNumbers
from mig.compliance.asked_checks import list_asked_checks
from mig.compliance.definition import read_modules
from mig.compliance.grouping import Grouping, Population
from mig.compliance.groups import Groups
from mig.compliance.quota import SummaryQuota
from mig.compliance.verdicts import CURRENT, FAIL, PASS, WorstVerdicts
from mig.compliance.waiting import WaitingVerdicts
from mig.errors import InvalidInputError, UnavailableError
from mig.limits import Limits
from tests.support.json_types import Json

codes = st.integers(PASS, FAIL) | st.integers(PASS + CURRENT, FAIL + CURRENT)


@given(st.lists(st.tuples(st.integers(0, 500) | st.integers(0, 5_000), codes), max_size=300))
def test_the_worst_verdict_on_each_agent_counts_however_many_there_are(
    puts: list[tuple[int, int]],
) -> None:
    taken: list[int] = []
    population = Population(())
    verdicts = WorstVerdicts(population, taken.append)
    expected: dict[int, int] = {}
    for place, code in puts:
        population.size = max(population.size, place + 1)
        verdicts.put(place, code)
        expected[place] = max(expected.get(place, 0), code)
        assert sum(taken) >= len(expected)
    assert all(verdicts.get(place) == code for place, code in expected.items())
    assert verdicts.get(6_000) == 0
    counted: Counter[int] = sum(verdicts.count(), Counter())
    assert counted == Counter(expected.values())
    assert sum(taken) == 0 and not verdicts.codes


def test_a_verdict_on_each_of_many_agents_takes_a_byte() -> None:
    taken: list[int] = []
    population = Population(())
    verdicts = WorstVerdicts(population, taken.append)
    for place in range(100_000):
        population.size = place + 1
        verdicts.put(place, PASS)
    assert isinstance(verdicts.codes, bytearray)
    assert 100_000 <= sum(taken) == len(verdicts.codes) < 115_000


def test_an_agent_has_one_number_and_a_place_among_its_like() -> None:
    taken: list[int] = []
    numbers = AgentNumbers(taken.append)
    found = [
        numbers.number_agent(each, (system,), is_current=each != "3", is_stored=True)
        for each, system in (("1", "a"), ("2", "b"), ("3", "a"), ("1", "a"), ("4", None))
    ]
    assert [(each.number, each.place) for each in found] == [(0, 0), (1, 0), (2, 1), (0, 0), (3, 0)]
    assert [each.population.size for each in found] == [2, 1, 2, 2, 1]
    assert [each.offset for each in found] == [CURRENT, CURRENT, 0, CURRENT, CURRENT]
    assert numbers.everybody.size == 4
    assert list(numbers.clear()) and sum(taken) == 0


def test_no_step_at_the_end_of_a_summary_looks_at_all_groups() -> None:
    taken: list[int] = []
    everybody = Population(())
    groups = Groups(Grouping(("os", "check")), everybody, 100_000, taken.append)
    linux = Population(("linux",), size=1)
    for n in range(20_000):
        groups.find({"os": "linux", "check": str(n)}, linux).put(0, PASS)
    lines = 0

    def count_line(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        lines += 1
        return count_line

    tracing = sys.gettrace()
    sys.settrace(count_line)
    try:
        for _ in groups.finish({("linux",): 1}):
            assert lines < 40_000
            lines = 0
    finally:
        sys.settrace(tracing)
    assert sum(1 for _ in groups.take_sorted(None)) == 20_001


def test_verdicts_that_wait_are_forgotten_in_steps() -> None:
    taken: list[int] = []
    everybody = Population(())
    waiting = WaitingVerdicts(everybody, taken.append)
    agent = AgentNumbers(taken.append).number_agent("1", (), is_current=True, is_stored=True)
    everybody.size = 1
    taken.clear()
    for n in range(1_000):
        waiting.note_answers("a policy", [str(n)], agent)
        waiting.add("a policy", f"not {n}", agent, None, PASS)
    assert sum(taken) > 2_000_000
    assert sum(1 for _ in waiting.release()) >= 2_000 and sum(taken) == 0


@pytest.mark.parametrize(
    ("operations", "names", "modules"),
    [
        (
            [("file", {"searches": {"a": {}, "b\0": {}}}), ("ping", None)],
            {"a", "b\ufffd", "ping"},
            (),
        ),
        (
            [("filechecker", {"/a": {"regex": {"x": ["1"], "y": []}, "md5": {"x": []}}})],
            {"x", "y"},
            (),
        ),
        ([("file", {"searches": ["a"]}), ("filechecker", [])], (), {"file", "filechecker"}),
        (
            [("filechecker", {"/a": {"regex": None}, "/b": 1}), ("file", {})],
            (),
            {"file", "filechecker"},
        ),
        ([], (), ()),
    ],
)
def test_an_action_asks_for_the_labels_of_its_operations(
    operations: list[tuple[str, Json]], names: set[str], modules: set[str]
) -> None:
    stored = json.dumps([{"module": name, "parameters": each} for name, each in operations])
    asked = list_asked_checks(read_modules(stored))
    assert asked == (frozenset(names), frozenset(modules))


def test_a_client_leaves_room_for_the_summaries_of_others() -> None:
    quota = SummaryQuota(Limits(summary_bytes=100))
    with quota.open_share("one") as first, quota.open_share("one") as second:
        first.take(60)
        with pytest.raises(UnavailableError, match="too many summaries run at once"):
            second.take(60)
        first.take(40)  # the refused one does not count any more, also while it forgets
        second.take(-10)
        assert (first.taken, second.taken) == (100, 50)
        with quota.open_share("two") as other, pytest.raises(InvalidInputError, match="100 bytes"):
            other.take(101)
    with quota.open_share("one") as again:
        again.take(100)
