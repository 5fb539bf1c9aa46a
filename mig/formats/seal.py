"""The seal of a document: by it, a client that has all bytes knows that it has all of them."""

from __future__ import annotations

import hashlib


class Seal:
    """The number of lines, and the SHA-256, of the bytes that have been added."""

    def __init__(self) -> None:
        self.lines = 0
        self._hash = hashlib.sha256()

    def add(self, chunk: bytes) -> bytes:
        """Add the next bytes of the document, and return them."""
        self.lines += chunk.count(b"\n")
        self._hash.update(chunk)
        return chunk

    def compute_sha256(self) -> str:
        """Return the hash in hexadecimal digits."""
        return self._hash.hexdigest()
