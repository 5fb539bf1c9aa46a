"""The least that takes an HTTP/1 answer apart: its status, its size, and whether it is whole."""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_SIZE, _LINE_END, _TRAILER = range(3)


class MalformedAnswerError(Exception):
    """The answer is no HTTP, or ended before it was whole."""


class ResponseParser:
    """One answer, as its bytes arrive; :meth:`feed` says when it is whole.

    :param needle: count how often this stands in the body.
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
        """Take *data*; whether the answer is whole.

        :raises MalformedAnswerError: for what is no HTTP/1.
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
        """The server closed the connection.

        :raises MalformedAnswerError: when something is missing.
        """
        if not (self.status and self._skip < 0 and not self._chunked):
            raise MalformedAnswerError(
                f"the answer breaks off after {self.body_bytes} bytes of its body"
            )

    def _parse_head(self, head: bytes) -> None:
        if not head.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")) or not head[9:12].isdigit():
            raise MalformedAnswerError(f"no HTTP/1: {head[:40]!r}")
        self.status = int(head[9:12])
        self._chunked = _CHUNKED.search(head) is not None
        length = _LENGTH.search(head)
        self._skip = 0 if self._chunked else int(length[1]) if length else -1

    def _read_body(self, data: bytes, at: int) -> bool:
        """A body with a length, or, without one, up to the end of the connection."""
        self._count_bytes(data, at, len(data))
        if self._skip < 0:
            return False
        self._skip -= len(data) - at
        if self._skip < 0:
            raise MalformedAnswerError("more than the answer's length came")
        return self._skip == 0

    def _read_chunks(self, data: bytes, at: int) -> bool:
        """Chunks; ``_skip`` is what the current one still has."""
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
        """Take a line between chunks: a size, the end of a chunk, or what follows the last one."""
        if self._next == _SIZE:
            try:
                self._skip = int(line.partition(b";")[0], 16)
            except ValueError:
                raise MalformedAnswerError(f"no chunk size: {line[:40]!r}") from None
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
            self._tail = text[-len(self._needle) + 1 :]
