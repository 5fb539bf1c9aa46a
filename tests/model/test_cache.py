"""Caches make each value once, keep a bounded number, and hold nothing of those who ask."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pytest

from mig.errors import UnreadableError
from mig.model.cache import RecordCache
from mig.model.row import make_row_reader
from mig.model.statement import Parameters, Statement


class Stored(NamedTuple):
    id: str
    text: str


class Value:
    def __init__(self, row: Stored) -> None:
        if row.text == "odd":
            raise UnreadableError("it is odd")
        self.text = row.text


class Table:
    """A cache of the rows of *texts*, which counts what it asks for."""

    def __init__(self, texts: dict[str, str], bound: int = 1_000) -> None:
        self._texts = texts
        self.cache = RecordCache(Statement("select", make_row_reader(Stored)), Value, bound=bound)
        self.asked: list[set[str]] = []

    def load(self, ids: Iterable[str | None]) -> None:
        with pytest.raises(StopIteration):
            self.cache.load(self._query, ids).send(None)

    async def _query(self, _: Statement[Any], parameters: Parameters = ()) -> list[Any]:
        assert not isinstance(parameters, Mapping)
        ids = set(str(parameters[0]).strip("{}").split(","))
        self.asked.append(ids)
        return [Stored(id_, self._texts[id_]) for id_ in sorted(ids & self._texts.keys())]


def test_each_row_is_asked_for_once() -> None:
    table = Table({"1": "one", "2": "odd"})
    table.load(["1", "2", None])
    table.load(["2", "1"])
    table.load([None])
    assert table.asked == [{"1", "2"}]
    found = table.cache.get("1")
    assert found is not None and found.text == "one"
    assert table.cache.get("3") is None


def test_the_bound_holds_and_what_was_just_loaded_is_there() -> None:
    table = Table({str(n): "odd" if n % 2 else "even" for n in range(6)}, bound=4)
    table.load(["0", "1", "2"])
    table.load(["1", "2", "3", "4"])
    table.load(["2", "4"])
    assert table.asked == [{"0", "1", "2"}, {"1", "2", "3", "4"}]
    for id_ in ("2", "4"):
        found = table.cache.get(id_)
        assert found is not None and found.text == "even"
    assert table.cache.get("0") is None


def test_what_cannot_be_read_keeps_nothing_of_those_who_ask() -> None:
    table = Table({"1": "odd"})
    table.load(["1"])

    def ask() -> weakref.ref[Value]:
        held = Value(Stored("", "held while asking"))
        try:
            table.cache.get("1")
        except UnreadableError as reason:
            assert str(reason) == "it is odd"
        return weakref.ref(held)

    assert ask()() is None
