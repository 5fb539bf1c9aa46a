"""Entries of the audit as lines of text, for terminals and for other programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import Raw

from mig.model.audit import AuditEntry
from mig.model.record import UnreadableRecord, encode_json
from mig.values import escape_unprintable

AnyEntry = AuditEntry | UnreadableRecord

MAX_CELL_CHARACTERS: Final = 40
MAX_CHANGE_CHARACTERS: Final = 200
SEPARATOR: Final = "  "

_TITLES: Final = ("TIME", "CALLER", "CLIENT", "REQUEST", "OBJECT", "COUNT", "OUTCOME")
# Most cells fit into these, so the lines of several pages are aligned.
_WIDTHS: Final = (27, 16, 15, 27, 23, 5, 8)
_LAST_TITLE: Final = "CHANGE"


class AuditTable:
    """A table of entries with aligned columns, whose lines are made page by page.

    A column gets wider when a page has longer values, and never narrower.
    """

    def __init__(self) -> None:
        self._widths = list(_WIDTHS)
        self._has_titles = False

    def format_page(self, entries: Iterable[AnyEntry]) -> Iterator[str]:
        """Return the lines of a page; those of the first one begin with the titles."""
        rows = [_list_cells(entry) for entry in entries]
        if not self._has_titles:
            self._has_titles = True
            rows.insert(0, [*_TITLES, _LAST_TITLE])
        for row in rows:
            for column, cell in enumerate(row[: len(self._widths)]):
                self._widths[column] = max(self._widths[column], len(cell))
        return map(self._format_line, rows)

    def _format_line(self, cells: Sequence[str]) -> str:
        *aligned, last = cells
        padded = [cell.ljust(width) for cell, width in zip(aligned, self._widths, strict=True)]
        return SEPARATOR.join([*padded, last]).rstrip()


def encode_ndjson_line(entry: AnyEntry) -> str:
    """Return an entry as an object of JSON on one line, with the names of the API."""
    text = encode_json(entry).decode()
    if text.isprintable():
        return text
    # PostgreSQL allows no control character in a string of JSON, but line breaks between its tokens
    text = text.translate(_WHITE_SPACE)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


_WHITE_SPACE: Final = {ord(c): " " for c in "\t\n\r"}


def _list_cells(entry: AnyEntry) -> list[str]:
    """Return the cells of an entry; each is one line, and only visible characters."""
    if isinstance(entry, UnreadableRecord):
        empty = [""] * (len(_TITLES) - 2)
        return ["", f"entry {entry.id}", *empty, f"cannot be read: {entry.reason}"]
    key = "" if entry.key is None else str(entry.key)
    cells = (
        entry.at,
        "/".join(filter(None, (entry.callername, _read_raw(entry.caller), key))),
        entry.client or "",
        f"{entry.method or ''} {entry.path or ''}".strip(),
        f"{entry.object} {_read_raw(entry.objectid)}".strip(),
        str(entry.count),
        entry.outcome,
    )
    change = " -> ".join(filter(None, (_read_raw(entry.before), _read_raw(entry.after))))
    return [
        *(_cut(cell, MAX_CELL_CHARACTERS) for cell in cells[:-1]),
        _cut(cells[-1], MAX_CHANGE_CHARACTERS),
        _cut(change, MAX_CHANGE_CHARACTERS),
    ]


def _read_raw(value: Raw) -> str:
    """Return the text of stored JSON, empty for null."""
    text = bytes(value).decode()
    return "" if text == "null" else text


def _cut(text: str, length: int) -> str:
    text = escape_unprintable(text)
    return text if len(text) <= length else f"{text[: length - 1]}…"
