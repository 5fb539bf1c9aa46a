"""A minimal parser of HTTP/1 answers: their status, their size, and whether they are complete."""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_SIZE, _LINE_END, _TRAILER = range(3)


class MalformedAnswerError(Exception):
    """The answer is not HTTP/1, or ended before it was complete."""


class ResponseParser:
    """A parser of one answer; :meth:`feed` says when it is complete.

    :param needle: bytes whose occurrences in the body are counted.
    """

    def __init__(self, needle: bytes = b"") -> None:
        self.status = 0
        self.body_bytes = 0
        self.needle_count = 0
        self._needle = needle
        self._tail = b""
        self._line: bytes | None = b""
        self._skip = 0
        self._chunked = False
        self._next = _SIZE

    def feed(self, data: bytes) -> bool:
        """Parse more bytes; return whether the answer is complete.

        :raises MalformedAnswerError: when it is not HTTP/1.
        """
        at = 0
        if not self.status:
            head = (self._line or b"") + data
            end = head.find(b"\r\n\r\n")
            if end < 0:
                self._line = head
                return False
            self._parse_head(head[:end])
            data, at, self._line = head, end + 4, b""
            if not self._chunked and self._skip == 0:
                return True
        return self._read_chunks(data, at) if self._chunked else self._read_body(data, at)

    def check_complete(self) -> None:
        """Check the answer after the server has closed the connection.

        :raises MalformedAnswerError: when it is incomplete.
        """
        if not (self.status and self._skip < 0 and not self._chunked):
            raise MalformedAnswerError(f"the answer ends after {self.body_bytes} bytes of its body")

    def _parse_head(self, head: bytes) -> None:
        if not head.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")) or not head[9:12].isdigit():
            raise MalformedAnswerError(f"not HTTP/1: {head[:40]!r}")
        self.status = int(head[9:12])
        self._chunked = _CHUNKED.search(head) is not None
        length = _LENGTH.search(head)
        # -1: the body ends with the connection
        self._skip = 0 if self._chunked else int(length[1]) if length else -1

    def _read_body(self, data: bytes, at: int) -> bool:
        """Read a body of known length, or one that ends with the connection."""
        self._count_bytes(data, at, len(data))
        if self._skip < 0:
            return False
        self._skip -= len(data) - at
        if self._skip < 0:
            raise MalformedAnswerError("the body is longer than its Content-Length")
        return self._skip == 0

    def _read_chunks(self, data: bytes, at: int) -> bool:
        """Read chunks; ``_skip`` bytes of the current one are still to come."""
        while at < len(data):
            if self._skip:
                end = min(len(data), at + self._skip)
                self._skip -= end - at
                self._count_bytes(data, at, end)
                at = end
                continue
            end = data.find(b"\n", at)
            if end < 0:
                self._line = (self._line or b"") + data[at:]
                return False
            line = ((self._line or b"") + data[at:end]).strip()
            at, self._line = end + 1, b""
            if self._parse_chunk_line(line):
                return True
        return False

    def _parse_chunk_line(self, line: bytes) -> bool:
        """Parse a line between chunks; return whether the answer is complete."""
        if self._next == _SIZE:
            try:
                self._skip = int(line.partition(b";")[0], 16)
            except ValueError:
                raise MalformedAnswerError(f"not a chunk size: {line[:40]!r}") from None
            self._next = _LINE_END if self._skip else _TRAILER
            return False
        if self._next == _TRAILER:
            return not line
        if line:
            raise MalformedAnswerError(f"a chunk is longer than its size: {line[:40]!r}")
        self._next = _SIZE
        return False

    def _count_bytes(self, data: bytes, begin: int, end: int) -> None:
        self.body_bytes += end - begin
        if self._needle:
            text = self._tail + data[begin:end]
            self.needle_count += text.count(self._needle)
            # one byte shorter than the needle, so that none is counted twice
            self._tail = text[-len(self._needle) + 1 :]
