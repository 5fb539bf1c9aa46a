"""Readers that decode an answer while its bytes arrive, and notice when it was cut.

None holds more than one chunk and one record, however long the answer is.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
import zlib
from collections.abc import Generator, Iterator
from typing import Final, Generic, TypeVar

import msgspec

from mig.client.errors import IncompleteResponseError, InvalidResponseError
from mig.client.records import JsonValue, Record
from mig.model.record import UnreadableRecord

RecordType = TypeVar("RecordType", bound=Record)

MAX_RECORD_BYTES: Final = 268_435_456
"""The size of the largest record that is read; without it, a wrong answer could fill the memory."""

_PIECE_BYTES: Final = 262_144
_GZIP: Final = 31  # zlib's window bits for gzip alone

_CUT: Final = "the answer was cut before its end"


class GzipDecoder:
    """A gzip stream, decoded in pieces of bounded size."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP)
        self._is_empty = True

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield the content of the next bytes.

        :raises InvalidResponseError: when they are not gzip.
        """
        self._is_empty = False
        has_more = bool(data)
        while has_more:
            try:
                piece = self._stream.decompress(data, _PIECE_BYTES)
            except zlib.error as reason:
                raise InvalidResponseError(f"the answer is not gzip: {reason}") from None
            if piece:
                yield piece
            data = self._stream.unconsumed_tail
            # a full piece may have more behind it, also when all bytes are consumed
            has_more = bool(data) or len(piece) == _PIECE_BYTES
            if self._stream.eof:
                data = self._stream.unused_data
                has_more = bool(data)
                if data:  # another member follows (RFC 1952, section 2.2)
                    self._stream = zlib.decompressobj(_GZIP)

    def close(self) -> None:
        """Check that the stream has ended.

        HTTP may end well where a proxy or a server was cut; then the trailer is missing.

        :raises IncompleteResponseError: when it has not.
        """
        if not self._stream.eof and not self._is_empty:
            raise IncompleteResponseError(_CUT)


class NdjsonReader(Generic[RecordType]):
    """An NDJSON document with a seal, the member ``end`` of its last line."""

    def __init__(self, record: type[RecordType]) -> None:
        self._decoder = msgspec.json.Decoder(record)
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._hash = hashlib.sha256()
        self._lines = 0
        self._end: _Seal | None = None
        self._unreadable: list[UnreadableRecord] = []

    @property
    def following(self) -> str | None:
        """The URL of the next page, once the document has ended."""
        return self._end.next if self._end else None

    def feed(self, data: bytes) -> list[RecordType]:
        """Return the records that are complete with these bytes.

        :raises InvalidResponseError: when a line is not such a record.
        """
        cut = data.rfind(b"\n") + 1
        block = b"".join((*self._pending, data[:cut])) if cut else b""
        if cut:
            self._pending, self._pending_bytes = [], 0
        if cut < len(data):
            self._pending.append(data[cut:])
            self._pending_bytes += len(data) - cut
            _check_size(self._pending_bytes)
        return self._decode_lines(block) if block else []

    def _decode_lines(self, block: bytes) -> list[RecordType]:
        if self._end:
            raise InvalidResponseError("the answer goes on after its end")
        try:
            # no record begins with one of these members; a regular expression is 100 times slower
            if any(block.startswith(mark) or b"\n" + mark in block for mark in _MARKS):
                return self._decode_marked_lines(block)
            self._add_to_seal(block)
            return self._decoder.decode_lines(block)
        except (msgspec.MsgspecError, RecursionError) as reason:
            raise InvalidResponseError(f"a record cannot be read: {reason}") from None

    def _decode_marked_lines(self, block: bytes) -> list[RecordType]:
        records = []
        for line in block.splitlines(keepends=True):
            if self._end:
                raise InvalidResponseError("the answer goes on after its end")
            if line.startswith(_END):
                self._end = msgspec.json.decode(line, type=_LastLine).end
                self._check_seal(self._end)
                continue
            self._add_to_seal(line)
            if line.startswith(_UNREADABLE):
                marked = msgspec.json.decode(line, type=_UnreadableLine)
                self._unreadable.append(marked.unreadable.to_record())
            else:
                records.append(self._decoder.decode(line))
        return records

    def _add_to_seal(self, lines: bytes) -> None:
        self._hash.update(lines)
        self._lines += lines.count(b"\n")

    def _check_seal(self, end: _Seal) -> None:
        if end.items != self._lines or end.sha256 != self._hash.hexdigest():
            raise IncompleteResponseError("lines are missing or changed: the seal does not fit")

    def take_unreadable(self) -> list[UnreadableRecord]:
        """Return the placeholders for records that the service could not read, and forget them."""
        taken, self._unreadable = self._unreadable, []
        return taken

    def close(self) -> list[RecordType]:
        """Check that the document has ended; no record is left then.

        :raises IncompleteResponseError: when it has not.
        """
        if not self._end or self._pending:
            raise IncompleteResponseError(_CUT)
        return []


_END: Final = b'{"end":'
_UNREADABLE: Final = b'{"unreadable":'
_MARKS: Final = (_END, _UNREADABLE)


class _Seal(msgspec.Struct):
    items: int
    sha256: str
    next: str | None = None


class _LastLine(msgspec.Struct):
    end: _Seal


class _Unreadable(msgspec.Struct):
    link: str
    reason: str
    target: str | msgspec.UnsetType = msgspec.UNSET

    def to_record(self) -> UnreadableRecord:
        """Return the placeholder; kind and id are in its link, ``…/KIND?KINDid=ID``."""
        path, _, query = self.link.rpartition("?")
        return UnreadableRecord(
            path.rpartition("/")[2], query.rpartition("=")[2], self.reason, self.target
        )


class _UnreadableLine(msgspec.Struct):
    unreadable: _Unreadable


class CollectionReader:
    """A Collection+JSON document in any layout, also that of the original API.

    ``members`` are those of the collection but its items, as far as they have arrived.
    """

    def __init__(self) -> None:
        self.members: dict[str, JsonValue] = {}
        self._decode_text = codecs.getincrementaldecoder("utf-8")().decode
        self._text = ""
        self._position = 0
        self._arrived: list[str] = []
        self._arrived_length = 0
        self._is_final = False
        self._items: list[JsonValue] = []
        self._parser = self._parse_document()
        self._is_complete = False
        self._advance()

    def feed(self, data: bytes) -> list[JsonValue]:
        """Return the items that are complete with these bytes.

        :raises InvalidResponseError: when they cannot be part of such a document.
        """
        try:
            text = self._decode_text(data)
        except UnicodeDecodeError:
            raise InvalidResponseError("the answer is not UTF-8") from None
        self._arrived.append(text)
        self._arrived_length += len(text)
        self._advance()
        items, self._items = self._items, []
        return items

    def close(self) -> list[JsonValue]:
        """Return the last items, and check that the document has ended.

        :raises IncompleteResponseError: when it has not.
        """
        self._is_final = True
        items = self.feed(b"")
        if not self._is_complete:
            raise IncompleteResponseError(_CUT)
        return items

    def _advance(self) -> None:
        if not self._is_complete:
            self._is_complete = next(self._parser, True) is True

    # Each of these is a generator that yields when it needs more text.

    def _parse_document(self) -> Generator[None, None, None]:
        yield from self._read_sign("{")
        while name := (yield from self._read_name()):
            if name == "collection" and (yield from self._peek()) == "{":
                yield from self._read_sign("{")
                yield from self._parse_collection()
            else:
                yield from self._read_value()

    def _parse_collection(self) -> Generator[None, None, None]:
        while name := (yield from self._read_name()):
            if name == "items" and (yield from self._peek()) == "[":
                yield from self._read_sign("[")
                while (yield from self._peek()) != "]":
                    item = yield from self._read_value()
                    self._items.append(item)  # another list than before the value arrived
                    if (yield from self._peek()) == ",":
                        self._position += 1
                yield from self._read_sign("]")
            else:
                self.members[name] = yield from self._read_value()

    def _read_name(self) -> Generator[None, None, str]:
        """Return the name of the next member; an empty one is the end of the object."""
        sign = yield from self._peek()
        if sign == ",":
            self._position += 1
            sign = yield from self._peek()
        if sign == "}":
            self._position += 1
            return ""
        if sign != '"':
            raise InvalidResponseError("the answer is not Collection+JSON")
        name = yield from self._read_value()
        yield from self._read_sign(":")
        return str(name) or " "

    def _read_sign(self, sign: str) -> Generator[None, None, None]:
        if (yield from self._peek()) != sign:
            raise InvalidResponseError("the answer is not Collection+JSON")
        self._position += 1

    def _peek(self) -> Generator[None, None, str]:
        """Return the next character that is not white space."""
        while True:
            space = _WHITE_SPACE.match(self._text, self._position)
            self._position = space.end() if space else self._position
            if self._position < len(self._text):
                return self._text[self._position]
            yield
            self._take_arrived()

    def _read_value(self) -> Generator[None, None, JsonValue]:
        yield from self._peek()
        while True:
            try:
                value, end = _decode_json(self._text, self._position)
            except RecursionError:
                raise InvalidResponseError("a record is nested too deeply") from None
            except ValueError:
                pass
            else:
                # digits may follow those of a number
                if end < len(self._text) or isinstance(value, str | list | dict):
                    self._position = end
                    return value
            yield from self._wait_for_more()

    def _wait_for_more(self) -> Generator[None, None, None]:
        """Wait until it is worth to decode the value again, from its start.

        With every chunk, the time for a large record would grow with the square of its size.
        """
        tried = len(self._text) - self._position
        while True:
            yield
            length = tried + self._arrived_length
            _check_size(length)
            is_eager = length < _EAGER_CHARACTERS and self._arrived[-1].rstrip()[-1:] in _ENDS
            if self._is_final or length >= 2 * tried or is_eager:
                self._take_arrived()
                return

    def _take_arrived(self) -> None:
        self._text = "".join((self._text[self._position :], *self._arrived))
        self._position = 0
        self._arrived, self._arrived_length = [], 0


_WHITE_SPACE: Final = re.compile(r"[ \t\r\n]*+")
_EAGER_CHARACTERS: Final = 1_048_576
_ENDS: Final = ("}", "]", ",")
_decode_json: Final = json.JSONDecoder().raw_decode


def _check_size(size: int) -> None:
    if size > MAX_RECORD_BYTES:
        raise InvalidResponseError(f"a record has more than {MAX_RECORD_BYTES} bytes")
