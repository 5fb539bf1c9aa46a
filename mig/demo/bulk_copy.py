"""Appending many rows to a table with COPY."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from psycopg2 import extensions

SqlRow: TypeAlias = tuple[object, ...]
"""The values of a row of a table, in the order of its columns."""


def copy_rows(cursor: extensions.cursor, table: str, columns: str, rows: Iterable[SqlRow]) -> None:
    """Append ``rows`` to ``table``; ``None`` is null."""
    cursor.copy_expert(f"copy {table} ({columns}) from stdin", _CopyStream(iter(rows)))


class _CopyStream:
    """A file of rows in COPY's text format, generated as it is read."""

    def __init__(self, rows: Iterator[SqlRow]) -> None:
        self._rows = rows
        self._buffer = b""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next ``size`` bytes, or fewer at the end."""
        parts: list[str] = []
        length = len(self._buffer)
        while length < size and (row := next(self._rows, None)) is not None:
            parts.append("\t".join(map(_escape_field, row)) + "\n")
            length += len(parts[-1])
        text = self._buffer + "".join(parts).encode()
        self._buffer = text[size:]
        return text[:size]

    def readline(self, size: int = -1, /) -> bytes:
        """Refuse: psycopg2 wants the method, but COPY reads blocks."""
        raise OSError("COPY reads blocks, not lines")


def _escape_field(value: object) -> str:
    if value is None:
        return "\\N"
    text = str(value)
    for special, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        if special in text:
            text = text.replace(special, escaped)
    return text


def add_rows(
    cursor: extensions.cursor, table: str, columns: str, rows: Iterable[SqlRow], on_conflict: str
) -> None:
    """Insert ``rows`` of which some may exist; ``on_conflict`` says what then happens."""
    cursor.execute(
        f"create temporary table added on commit drop as select {columns} from {table} limit 0"
    )
    copy_rows(cursor, "added", columns, rows)
    cursor.execute(
        f"insert into {table} ({columns}) select {columns} from added on conflict {on_conflict}"
    )
    cursor.execute("drop table added")
