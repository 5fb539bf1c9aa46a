"""Caches make each value once, are bounded, and keep no reference to their callers."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pytest

from mig.errors import UnreadableError
from mig.model.cache import RecordCache
from mig.model.row import make_row_reader
from mig.model.statement import Parameters, Statement

MAX_BYTES = 1_000


class TextRow(NamedTuple):
    id: str
    text: str


class Value:
    def __init__(self, row: TextRow) -> None:
        if row.text == "odd":
            raise UnreadableError("it is odd")
        self.text = row.text


class Table:
    """A cache of the rows of *texts*, which records its queries."""

    def __init__(self, texts: dict[str, str], bound: int = 1_000) -> None:
        self._texts = texts
        self.cache = RecordCache(
            Statement("select", make_row_reader(TextRow)), Value, bound=bound, max_bytes=MAX_BYTES
        )
        self.queried_ids: list[set[str]] = []

    def load(self, ids: Iterable[str | None]) -> None:
        with pytest.raises(StopIteration):
            self.cache.load(self._query, ids).send(None)

    async def _query(self, _: Statement[Any], parameters: Parameters = ()) -> list[Any]:
        assert not isinstance(parameters, Mapping)
        ids = set(str(parameters[0]).strip("{}").split(","))
        self.queried_ids.append(ids)
        return [TextRow(id_, self._texts[id_]) for id_ in sorted(ids & self._texts.keys())]


def test_each_row_is_queried_once() -> None:
    table = Table({"1": "one", "2": "odd"})
    table.load(["1", "2", None])
    table.load(["2", "1"])
    table.load([None])
    assert table.queried_ids == [{"1", "2"}]
    found = table.cache.get("1")
    assert found is not None and found.text == "one"
    assert table.cache.get("3") is None


def test_a_cache_is_bounded_and_keeps_what_was_just_loaded() -> None:
    table = Table({str(n): "odd" if n % 2 else "even" for n in range(6)}, bound=4)
    table.load(["0", "1", "2"])
    table.load(["1", "2", "3", "4"])
    table.load(["2", "4"])
    assert table.queried_ids == [{"0", "1", "2"}, {"1", "2", "3", "4"}]
    for id_ in ("2", "4"):
        found = table.cache.get(id_)
        assert found is not None and found.text == "even"
    assert table.cache.get("0") is None


def test_an_unreadable_row_keeps_no_reference_to_its_callers() -> None:
    table = Table({"1": "odd"})
    table.load(["1"])

    def make_reference() -> weakref.ref[Value]:
        held = Value(TextRow("", "held while asking"))
        try:
            table.cache.get("1")
        except UnreadableError as reason:
            assert str(reason) == "it is odd"
        return weakref.ref(held)

    assert make_reference()() is None


def test_large_values_are_dropped_before_more_are_loaded() -> None:
    table = Table({"1": "x" * MAX_BYTES, "2": "y", "3": "z"})
    table.load(["1"])
    table.load(["1"])
    table.load(["2"])
    assert table.cache.get("1") is None
    table.load(["2", "3"])
    assert table.queried_ids == [{"1"}, {"2"}, {"3"}]
