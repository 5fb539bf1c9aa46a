"""NDJSON: a line of JSON for each record, for programs that read line by line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import UNSET, UnsetType

from mig.formats.format import DEFAULT_OPTIONS, AnyRecord, DocumentTail, FormatOptions
from mig.formats.rows import RowFormat
from mig.hypermedia.document import Link
from mig.hypermedia.urls import Urls
from mig.model.fields import list_fields, select_names
from mig.model.record import StoredRecord, UnreadableRecord, encode_json

MEDIA_TYPE: Final = "application/x-ndjson"


class Ndjson(RowFormat):
    """The format NDJSON, with each record or item as it is, without an address or links.

    A record that cannot be read is the one member ``unreadable`` of its line, and the seal the
    member ``end`` of the last line.
    """

    media_types = (MEDIA_TYPE,)
    charset = ""  # JSON is always UTF-8
    file_extension = "ndjson"

    def __init__(self, urls: Urls, options: FormatOptions = DEFAULT_OPTIONS) -> None:
        paths = {field.name: field.path for field in list_fields(options.record)}
        selected = select_names([*paths], options.fields)
        marks, end = _make_marks({name: paths[name] for name in selected})
        super().__init__(
            urls, options, marks=marks, end=end, line_end=b"\n", encode_value=_encode_value
        )
        self.is_flat = options.fields is not None
        self.ids_as_text = options.ids_as_text
        self.needs_seal = options.is_sealed or options.is_limited

    def encode_head(self, href: str) -> bytes:
        """Return nothing: the first line is that of the first record."""
        return b""

    def encode_tail(self, tail: DocumentTail) -> bytes:
        """Return the seal, if there are more records or the client wants it."""
        following = next((link.href for link in tail.links if link.rel == "next"), None)
        if tail.seal is None or not (self._options.is_sealed or following):
            return b""
        total = {} if tail.total is None else {"total": tail.total}
        end = {
            "rows": tail.row_count,
            "items": tail.seal.lines,
            **total,
            "next": following,
            "snapshot": all(link.rel != "resumed" for link in tail.links),
            "sha256": tail.seal.compute_sha256(),
        }
        return encode_json({"end": end}) + b"\n"

    def encode_record(self, record: AnyRecord, links: Sequence[Link] = ()) -> bytes:
        """Return the line of a record; that of an unreadable record has the reason."""
        if isinstance(record, UnreadableRecord):
            return self._encode_unreadable(record)
        if self.ids_as_text and isinstance(record, StoredRecord):
            record.write_ids_as_text()
        if self.is_flat:
            return _join_lines(self._encode_fields(record)) + b"\n"
        return _join_lines(encode_json(record)) + b"\n"

    def _encode_unreadable(self, record: UnreadableRecord) -> bytes:
        link = self._urls.for_record(record.kind, record.id)
        target = {} if isinstance(record.target, UnsetType) else {"target": record.target}
        value = {"link": link, **target, "reason": record.reason}
        return encode_json({"unreadable": value}) + b"\n"


def _encode_value(value: object) -> bytes:
    # nothing stands for a member that the whole record would not have
    return b"null" if value is UNSET else encode_json(value)


def _join_lines(line: bytes) -> bytes:
    """Return JSON on one line: stored JSON may have several, which end between its tokens."""
    if b"\n" in line or b"\r" in line:
        line = line.replace(b"\n", b" ").replace(b"\r", b" ")
    return line


def _make_marks(paths: Mapping[str, Sequence[str]]) -> tuple[dict[str, bytes], bytes]:
    """Return what comes before each value of an object, and what after the last one.

    A flat name such as ``policy.level`` is a member of an object, whose members follow each other.
    """
    marks: dict[str, bytes] = {}
    parents: list[str] = []
    for name, (*path, last) in paths.items():
        common = 0
        while path[common : common + 1] == parents[common : common + 1] != []:
            common += 1
        mark = b"}" * (len(parents) - common) + b"," if marks else b"{"
        mark += b"".join(b"%b:{" % encode_json(parent) for parent in path[common:])
        marks[name] = mark + encode_json(last) + b":"
        parents = path
    return marks, b"}" * (len(parents) + 1)
