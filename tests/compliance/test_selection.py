"""What a report with latest=true keeps is bounded, and shared between clients."""

from __future__ import annotations

import pytest

from mig.compliance.selection import AnswerKeeper, ItemSelection, LatestAnswers
from mig.errors import InvalidInputError, UnavailableError
from mig.limits import Limits


def take(answers: LatestAnswers, agentid: str, *names: str, policy: str = "p") -> list[str]:
    """Return which of the checks *names* of a command are the newest answers."""
    selection = ItemSelection(latest=answers)
    found = [(name, selection.find_check_traits(name, "file", "", True)) for name in names]
    return selection.select(agentid, policy, found)


def test_an_answer_is_of_an_agent_to_a_check_of_a_policy() -> None:
    with AnswerKeeper(Limits()).keep_answers("client") as answers:
        assert take(answers, "1", "a", "a", "b") == ["a", "a", "b"]
        assert take(answers, "1", "a", "c") == ["c"]
        assert take(answers, "2", "a") == ["a"]
        assert take(answers, "1", "a", policy="q") == ["a"]
        assert len(answers) == 5


def test_a_report_with_too_many_answers_is_refused_with_their_number() -> None:
    with AnswerKeeper(Limits(latest_answers=3)).keep_answers("client") as answers:
        assert take(answers, "1", "a", "b", "c") == ["a", "b", "c"]
        assert take(answers, "1", "c", "a") == []
        with pytest.raises(InvalidInputError, match="latest must find at most 3 answers"):
            take(answers, "2", "a")


def test_a_client_leaves_room_for_the_answers_of_others() -> None:
    keeper = AnswerKeeper(Limits(latest_answers=3))
    with keeper.keep_answers("one") as first, keeper.keep_answers("one") as second:
        assert take(first, "1", "a", "b") == ["a", "b"]
        with pytest.raises(UnavailableError, match="too many reports with latest=true"):
            take(second, "1", "a", "b")
        with keeper.keep_answers("two") as other, keeper.keep_answers("three") as last:
            assert take(other, "1", "a", "b") == ["a", "b"]
            with pytest.raises(UnavailableError):
                take(last, "1", "a", "b", "c")
            for _ in other.clear():
                pass
        with keeper.keep_answers("three") as last:
            assert take(last, "1", "a", "b", "c") == ["a", "b", "c"]
    with keeper.keep_answers("one") as again:
        assert take(again, "1", "a", "b", "c") == ["a", "b", "c"]
