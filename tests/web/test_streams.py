"""What slow readers hold is bounded, and shared between clients."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from mig.errors import UnavailableError
from mig.limits import Limits
from mig.web.streams import Streams

LIMITS = Limits(total_streams=4, suspended_bytes=1_000_000, short_answer_bytes=10_000)


class StreamedRequest:
    """A request of a client, as the streams know it."""

    def __init__(self, client: str) -> None:
        self.client_group = client
        self.outcome = ""

    def abort(self, outcome: str) -> None:
        self.outcome = outcome


class Crowd:
    """Streams that have been opened, and perhaps suspended."""

    def __init__(self) -> None:
        self.streams = Streams(LIMITS)
        self._stack = ExitStack()

    def open(self, client: str, held_bytes: int | None = None) -> Any:
        """Open a stream; with *held_bytes*, suspend it."""
        request: Any = StreamedRequest(client)
        self._stack.enter_context(self.streams.count_stream(request))
        if held_bytes is not None:
            self._stack.enter_context(self.streams.count_suspended(request, held_bytes))
        return request

    def close_all(self) -> None:
        self._stack.close()


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


def test_one_stream_more_takes_the_place_of_the_client_with_most(crowd: Crowd) -> None:
    active = crowd.open("a")
    oldest, newer = crowd.open("a", 1), crowd.open("a", 1)
    other = crowd.open("b", 1)
    crowd.open("b")
    assert oldest.outcome == "closed to make room"
    assert not (active.outcome or newer.outcome or other.outcome)


def test_a_client_with_most_streams_gets_no_place_of_another(crowd: Crowd) -> None:
    for client in "aabb":
        crowd.open(client, 1)
    for client in "ab":
        with pytest.raises(UnavailableError, match="too many answers"):
            crowd.open(client)
    crowd.open("c")


def test_a_client_that_reads_is_never_cut_for_another(crowd: Crowd) -> None:
    for _ in range(4):
        crowd.open("a")
    with pytest.raises(UnavailableError, match="too many answers"):
        crowd.open("b")


def test_pages_shrink_while_slow_readers_hold_memory(crowd: Crowd) -> None:
    sizes = []
    for _ in range(4):
        sizes.append(crowd.streams.get_page_bytes())
        crowd.open("a", 200_000)
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 2 * sizes[2]
    assert crowd.streams.get_page_bytes() == LIMITS.short_answer_bytes // 2


def test_a_small_piece_may_always_wait_for_its_client(crowd: Crowd) -> None:
    crowd.open("a", 1_000_000)
    assert crowd.streams.can_suspend(10_000)
    assert not crowd.streams.can_suspend(10_001)


def test_room_is_made_at_the_expense_of_who_holds_most(crowd: Crowd) -> None:
    first, second = crowd.open("a", 400_000), crowd.open("a", 400_000)
    other = crowd.open("b", 200_000)
    newcomer = crowd.open("c")
    assert crowd.streams.make_room(newcomer, 300_000)
    assert [each.outcome != "" for each in (first, second, other)] == [True, False, False]
    assert not crowd.streams.make_room(newcomer, 1_000_001)


def test_nothing_remains_counted_when_all_have_ended(crowd: Crowd) -> None:
    for client in "abcd":
        crowd.open(client, 200_000)
    crowd.close_all()
    assert crowd.streams.held_bytes == 0
    for client in "aaaa":
        crowd.open(client)
