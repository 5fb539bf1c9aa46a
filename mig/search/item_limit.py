"""The end of a page that may have only so many items, wherever in a command that is."""

from __future__ import annotations

from typing import TypeVar

from mig.search.order import Order, PagePosition, SearchRow

AnySearchRow = TypeVar("AnySearchRow", bound=SearchRow)


class ItemLimit:
    """The items of a page, which ends before there are too many.

    It ends between two rows if it can. The items of a row that has more of them than a page are on
    several pages. ``item_count`` is how many are on this page, and ``next_position`` where the next
    one begins, once this one has ended.

    The encoder of the rows leaves out the items of a row that were on the pages before.

    :param separator: what is between two items, and in none.
    :param position: the end of the page before.
    """

    def __init__(
        self, order: Order, max_items: int, separator: bytes, position: PagePosition | None
    ) -> None:
        self._order = order
        self._max_items = max_items
        self._separator = separator
        self._first = self._last = position
        self.item_count = 0
        self.next_position: PagePosition | None = None

    def take_row(
        self, row: AnySearchRow, row_items: bytes, kept: list[AnySearchRow], items: list[bytes]
    ) -> None:
        """Add a row to ``kept`` and its items to ``items``, if it is on the page.

        :param row_items: the items of the row.
        """
        if not row_items or self._take_items(row, row_items, items):
            self._last = self._order.read_position(row)
            kept.append(row)
        elif self.next_position is not None and self.next_position.items:  # within this row
            kept.append(row)

    def _take_items(self, row: SearchRow, row_items: bytes, items: list[bytes]) -> bool:
        """Add the items of a row; return whether all of them were added."""
        room = self._max_items - self.item_count
        count = row_items.count(self._separator) + 1
        if count <= room:
            self.item_count += count
            items.append(row_items)
            return True
        if self.item_count:
            self.next_position = self._last
            return False
        items += row_items.split(self._separator)[:room]
        self.item_count = room
        position, first = self._order.read_position(row), self._first
        earlier = first.items if first is not None and first.id == row.id else 0
        self.next_position = PagePosition(key=position.key, id=row.id, items=earlier + room)
        return False
