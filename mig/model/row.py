"""Rows of PostgreSQL's answers, and the columns by which they are read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Annotated, Any, Generic, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec

RowType = TypeVar("RowType")
OtherRowType = TypeVar("OtherRowType")


class Row:
    """A row of an answer, opaque outside this package.

    At run time it is a tuple of psycopg2, never an instance of this class. A type checker refuses
    to index, unpack or iterate over it, and nothing is converted.
    """

    __slots__ = ()


def id_sql(column: str) -> str:
    """Return SQL for the id in ``column`` as text, a whole number without a fraction of zeros.

    Every id is selected by this (docs/decisions/0054). Schedulers and agents of 2013 to 2015 wrote
    ids as ``N.00000000000000000``. A fraction that is not zero, or NaN, stays as it is.
    """
    # PostgreSQL 13 has trim_scale. A scale is read fast, and that of other ids is zero.
    return (
        f"(case when scale({column}) = 0 then {column}"
        f" when {column} = trunc({column}) then trunc({column}) else {column} end)::text"
    )


class Columns(Generic[RowType]):
    """The columns that a named tuple is made from, each with the SQL that selects it.

    Every field of ``shape`` is annotated with its SQL expression, as in ``status: Annotated[str,
    "a.status"]``. Fields are matched by name, so the order of the columns does not matter.

    :param start: how many columns precede these in a row.
    """

    def __init__(self, shape: Callable[..., RowType], *, start: int = 0) -> None:
        expressions = _read_expressions(shape)
        names = list(expressions)
        self._construct = _make_constructor(shape)
        self._end = start + len(names)
        # with a single field, itemgetter returns the value instead of a tuple
        places = [start + names.index(field) for field in _list_fields(shape)]
        self._values: Callable[[Any], tuple[Any, ...]] = (
            itemgetter(*places) if len(places) > 1 else _make_value_getter(places[0])
        )
        self.sql = ", ".join(expressions.values())
        is_whole_row = places == list(range(len(places)))
        # this reads every row of a page: one call of C, without a copy of the values in between
        self.read_row: Callable[[Row], RowType] = (
            self._construct if is_whole_row else self.read_part
        )
        """Return the named tuple of a row that has these columns alone."""

    def make_next(self, shape: Callable[..., OtherRowType]) -> Columns[OtherRowType]:
        """Return the columns of ``shape`` for a row in which they follow these."""
        return Columns(shape, start=self._end)

    def read_part(self, row: Row) -> RowType:
        """Return the named tuple of a row that also has other columns."""
        return self._construct(self._values(row))


def make_row_reader(shape: Callable[..., RowType]) -> Callable[[Row], RowType]:
    """Return a function that makes a ``shape`` of a row with the same columns in the same order.

    It is for a statement that lists its columns itself, beside the named tuple.
    """
    return _make_constructor(shape)


def _make_constructor(shape: Callable[..., RowType]) -> Callable[[Any], RowType]:
    """Return a function that makes a named tuple of a tuple in one call of C."""
    new: Any = tuple.__new__
    return cast(Callable[[Any], RowType], partial(new, shape))


def parse_json_rows(text: str) -> list[Row]:
    """Return the rows in a column that ``json_agg(json_build_array(…))`` has made."""
    return cast(list[Row], _decode_arrays(text))


def _read_expressions(shape: Callable[..., object]) -> dict[str, str]:
    """Return the SQL of each field of ``shape``."""
    hints = get_type_hints(shape, include_extras=True)
    return {
        name: get_args(hint)[1] for name, hint in hints.items() if get_origin(hint) is Annotated
    }


def _list_fields(shape: Callable[..., object]) -> tuple[str, ...]:
    return cast(tuple[str, ...], vars(shape)["_fields"])


def _make_value_getter(place: int) -> Callable[[Any], tuple[Any]]:
    return lambda row: (row[place],)


_decode_arrays = msgspec.json.Decoder(list[list[str | None]]).decode
