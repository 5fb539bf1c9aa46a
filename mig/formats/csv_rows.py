"""CSV (RFC 4180): a row for each record under a header line, for spreadsheets and databases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from msgspec import UNSET, Raw

from mig.formats.format import DEFAULT_OPTIONS, AnyRecord, DocumentTail, FormatOptions
from mig.formats.rows import RowFormat
from mig.hypermedia.document import Link
from mig.hypermedia.urls import Urls
from mig.model.fields import list_fields, select_names
from mig.model.record import StoredRecord, UnreadableRecord, encode_json
from mig.values import FORMULA_STARTS

MEDIA_TYPE: Final = "text/csv"
UNREADABLE: Final = "unreadable"
"""The last column: why a record cannot be read; empty for every other one."""

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_LINE_END: Final = b"\r\n"


class CsvRows(RowFormat):
    """The format CSV, with a column for each field, and one for why a record cannot be read.

    Arrays and objects are JSON text. A text that a spreadsheet would run as a formula begins with
    an apostrophe, unless the client wants it as it is.
    """

    media_types = (MEDIA_TYPE,)
    charset = "utf-8"
    file_extension = "csv"
    is_flat = True
    ids_as_text = False
    needs_seal = False

    def __init__(self, urls: Urls, options: FormatOptions = DEFAULT_OPTIONS) -> None:
        names = [field.name for field in list_fields(options.record)]
        self._columns = select_names([*names, UNREADABLE], options.fields)
        # a line without a character is not a row for most readers
        empty = b'""' if len(self._columns) == 1 else b""
        encode_text = _encode_text if options.is_raw else _guard_text
        self._encode_cell = _make_cell_encoder(encode_text, empty)
        marks = {name: b"," if n else b"" for n, name in enumerate(self._columns)}
        end = marks.pop(UNREADABLE) + empty if UNREADABLE in marks else b""
        super().__init__(
            urls,
            options,
            marks=marks,
            end=end,
            line_end=_LINE_END,
            encode_value=self._encode_cell,
        )

    def encode_head(self, href: str) -> bytes:
        """Return the header line, with a byte order mark if the client wants one."""
        mark = _BYTE_ORDER_MARK if self._options.has_bom else b""
        return mark + b",".join(map(_encode_text, self._columns)) + _LINE_END

    def encode_tail(self, tail: DocumentTail) -> bytes:
        """Return nothing: every line is a row."""
        return b""

    def encode_record(self, record: AnyRecord, links: Sequence[Link] = ()) -> bytes:
        """Return the row of a record; that of an unreadable record has what identifies it."""
        if not isinstance(record, UnreadableRecord):
            return self._encode_fields(record) + _LINE_END
        values: dict[str, object] = {
            # other records have no column for a link or a target
            "id": record.id,
            "link": self._urls.for_record(record.kind, record.id),
            "target": record.target,
            UNREADABLE: record.reason,
        }
        if issubclass(self._options.record, StoredRecord):
            del values["link"], values["target"]
        cells = [self._encode_cell(values.get(name)) for name in self._columns]
        return b",".join(cells) + _LINE_END


def _make_cell_encoder(
    encode_text: Callable[[str], bytes], empty: bytes
) -> Callable[[object], bytes]:
    """Return a function that encodes a value as a cell; ``empty`` is the one without a value."""

    def encode_cell(value: object) -> bytes:
        if isinstance(value, str):
            return encode_text(value) or empty
        if value is None or value is UNSET:
            return empty
        # an id has the same digits in JSON, and white space around stored JSON means nothing
        text = bytes(value).strip() if isinstance(value, Raw) else encode_json(value)
        return empty if text == b"null" else _encode_text(text.decode())

    return encode_cell


def _guard_text(text: str) -> bytes:
    """Return a text as a cell that a spreadsheet shows and does not run."""
    return _encode_text(f"'{text}" if text.startswith(FORMULA_STARTS) else text)


def _encode_text(text: str) -> bytes:
    """Return a text as a cell, quoted if it must be."""
    if '"' in text or "," in text or "\n" in text or "\r" in text:
        text = '"' + text.replace('"', '""') + '"'
    return text.encode()
