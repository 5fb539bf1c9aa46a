"""Tables on a terminal, which are printed while their rows arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from mig.migctl.columns import Column
from mig.migctl.terminal import STYLES, make_console

if TYPE_CHECKING:
    from mig.client.records import Record

ROWS: Final = 100
"""How many rows are laid out and printed at once; the first ones decide how wide columns are."""
_GAP: Final = 2
_MIN_WIDTH: Final = 8


class TableWriter:
    """A table whose first rows decide how wide its columns are."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._console = make_console()
        self._rows: list[list[str]] = []
        self._widths: list[int] = []

    def write(self, record: Record) -> None:
        """Print a row, with others."""
        self._rows.append([column.format_cell(record) for column in self._columns])
        if len(self._rows) == ROWS:
            self._print_rows()

    def close(self) -> None:
        """Print the last rows."""
        self._print_rows()

    def _print_rows(self) -> None:
        is_first = not self._widths
        if is_first:
            self._widths = [
                max(cell_len(text) for text in (column.title, *cells))
                for column, *cells in zip(self._columns, *self._rows, strict=True)
            ]
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), show_header=is_first)
        widths = fit_widths(self._widths, self._columns, self._console.width)
        for number, width in widths.items():
            title = self._columns[number].title
            table.add_column(
                title, width=width, no_wrap=True, overflow="ellipsis", header_style="bold"
            )
        for row in self._rows:
            cells = [row[number] for number in widths]
            table.add_row(*(Text(text, STYLES.get(text, "")) for text in cells))
        if self._rows or is_first:
            self._console.print(table, crop=False, no_wrap=True, soft_wrap=True)
        self._rows = []


def fit_widths(widths: Sequence[int], columns: Sequence[Column], room: int) -> dict[int, int]:
    """Return the widths of columns, by their numbers, on a terminal that has ``room``.

    The widest give way. Where that is not enough, the last flexible ones are left out: an id that
    is cut is of no use.
    """
    fitted = dict(enumerate(widths))
    flexible = [number for number, column in enumerate(columns) if column.is_flexible]
    smallest = {number: min(widths[number], _MIN_WIDTH) for number in flexible}
    while len(flexible) > 1 and _measure_line({**fitted, **smallest}) > room:
        last = flexible.pop()
        del fitted[last], smallest[last]
    while _measure_line(fitted) > room:
        widest = max(flexible, key=lambda number: fitted[number], default=None)
        if widest is None or fitted[widest] <= _MIN_WIDTH:
            break
        fitted[widest] -= 1
    return fitted


def _measure_line(widths: Mapping[int, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)
