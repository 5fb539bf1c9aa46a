"""Rows are read by the names of their columns, and by nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import pytest

from mig.model.row import Columns, Row, id_sql
from tests.support import fleet
from tests.support.postgres import NewDatabase, TestDatabase

ROOT = fleet.VECTORS.parent.parent
INDEXED = """
from mig.model.row import Row

def second(row: Row) -> object:
    first, _ = row
    return row[1]
"""


class One(NamedTuple):
    first: Annotated[str, "a.first"]
    second: Annotated[int, "a.second"]


class Another(NamedTuple):
    third: Annotated[str, "b.third"]


def make_row(*values: Any) -> Row:
    return cast(Row, values)


def test_a_row_is_read_by_the_names_of_its_columns() -> None:
    columns = Columns(One)
    assert columns.sql == "a.first, a.second"
    assert columns.read_row(make_row("x", 1)) == One(first="x", second=1)


def test_records_side_by_side_are_read_from_one_row() -> None:
    columns = Columns(One)
    others = columns.make_next(Another)
    row = make_row("x", 1, "y")
    assert (columns.read_part(row), others.read_part(row)) == (One("x", 1), Another("y"))


def test_a_type_checker_refuses_to_index_or_unpack_a_row(tmp_path: Path) -> None:
    reader = tmp_path / "reader.py"
    reader.write_text(INDEXED)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", reader], capture_output=True, text=True, cwd=ROOT
    )
    assert 'Value of type "Row" is not indexable' in checked.stdout
    assert '"Row" object is not iterable' in checked.stdout


def test_an_id_is_selected_as_text_in_one_way_only() -> None:
    """A plain cast would keep the zeros that programs of 2013 to 2015 wrote after a point."""
    plain = re.compile(r"\b\w*id::text")
    for source in sorted((ROOT / "mig").rglob("*.py")):
        assert not plain.findall(source.read_text()), source


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("6019232265601776819", "6019232265601776819"),
        ("7712177254054085632.00000000000000000", "7712177254054085632"),
        ("18446744073709551615.0", "18446744073709551615"),
        ("10.00", "10"),
        ("100", "100"),
        ("1.50", "1.50"),
        ("1.000000000000000000000000000001", "1.000000000000000000000000000001"),
        ("NaN", "NaN"),
    ],
)
def test_zeros_after_the_point_of_an_id_are_not_read(
    database: TestDatabase, written: str, read: str
) -> None:
    """Any other fraction is read as it is, and no digit changes."""
    assert database.execute(f"select {id_sql('id')} from (select %s::numeric as id) s", (written,))[
        0
    ] == (read,)


def collect_answers(database: Any, *options: str) -> str:
    fleet.load_fleet(database.dsn)
    return subprocess.run(
        [sys.executable, "-m", "tests.support.answers", database.dsn, *options],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout


def test_the_order_of_columns_changes_no_answer(new_database: NewDatabase) -> None:
    in_order = collect_answers(new_database())
    assert "compliance item" in in_order and '"title"' not in in_order
    assert collect_answers(new_database(), "reversed") == in_order
