"""Content encodings: answers are compressed for clients who accept it (docs/decisions/0081)."""

from __future__ import annotations

import struct
from typing import Final, Protocol

from backports.zstd import CompressionParameter, ZstdCompressor
from isal import isal_zlib

MIN_ENCODED_BYTES: Final = 1_024
"""A smaller answer is sent as it is: one packet either way."""

SLICE_BYTES: Final = 1_048_576
"""How much is compressed at once: the worst data takes a few milliseconds."""

_RAW_DEFLATE: Final = -15
# a member with no name or time, by the fastest algorithm, of an unknown system (RFC 1952, 2.3)
_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
_LAST_BLOCK: Final = b"\x03\x00"
_ZSTD_OPTIONS: Final[dict[int, int]] = {
    CompressionParameter.compression_level: 1,
    CompressionParameter.checksum_flag: 1,
}


class ContentEncoder(Protocol):
    """Encodes an answer piece by piece."""

    def encode(self, data: bytes) -> bytes:
        """Return the next bytes; a client can decode all of ``data`` as soon as it has them."""

    def release_memory(self) -> bytes:
        """Give back the memory until the next piece; return the bytes that belong before it."""

    def finish(self) -> bytes:
        """Return the end, without which a client knows that the answer was cut."""


class GzipEncoder:
    """An encoder of one gzip member, which needs no memory between two pieces.

    Each piece is compressed by itself. After a flush the compressed data ends at a byte, and blocks
    without references to earlier data may follow: those of another compressor, too.
    """

    def __init__(self) -> None:
        self._head = _GZIP_HEADER
        self._crc = 0
        self._size = 0

    def encode(self, data: bytes) -> bytes:
        """Return the next bytes."""
        head, self._head = self._head, b""
        self._crc = isal_zlib.crc32(data, self._crc)
        self._size += len(data)
        compressor = isal_zlib.compressobj(1, isal_zlib.DEFLATED, _RAW_DEFLATE)
        return head + compressor.compress(data) + compressor.flush(isal_zlib.Z_SYNC_FLUSH)

    def release_memory(self) -> bytes:
        """Return nothing: there is no memory to give back."""
        return b""

    def finish(self) -> bytes:
        """Return the last block, the checksum and the size."""
        return self._head + _LAST_BLOCK + struct.pack("<LL", self._crc, self._size & 0xFFFFFFFF)


class ZstdEncoder:
    """An encoder of one zstd frame, or of several when its memory was given back in between."""

    def __init__(self) -> None:
        self._compressor: ZstdCompressor | None = None

    def encode(self, data: bytes) -> bytes:
        """Return the next bytes."""
        if self._compressor is None:
            self._compressor = ZstdCompressor(options=_ZSTD_OPTIONS)
        return self._compressor.compress(data, ZstdCompressor.FLUSH_BLOCK)

    def release_memory(self) -> bytes:
        """Return the end of the frame, whose compressor has nearly a megabyte."""
        compressor, self._compressor = self._compressor, None
        return b"" if compressor is None else compressor.flush(ZstdCompressor.FLUSH_FRAME)

    def finish(self) -> bytes:
        """Return the end of the frame."""
        return self.release_memory()


_ENCODERS: Final[dict[str, type[GzipEncoder | ZstdEncoder]]] = {
    "gzip": GzipEncoder,
    "zstd": ZstdEncoder,
}
ENCODINGS: Final = tuple(_ENCODERS)
"""The encodings; of those that a client prefers equally, the first one is used."""


def make_encoder(encoding: str) -> ContentEncoder:
    """Return an encoder of one of the :data:`ENCODINGS`."""
    return _ENCODERS[encoding]()


def encode_whole(document: bytes, encoding: str) -> bytes:
    """Return a document in one of the :data:`ENCODINGS`."""
    encoder = make_encoder(encoding)
    return encoder.encode(document) + encoder.finish()
