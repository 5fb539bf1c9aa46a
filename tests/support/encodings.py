"""How the tests decode answers."""

from __future__ import annotations

import zlib

from backports import zstd


def decode_whole(body: bytes, encoding: str) -> bytes:
    """Return a body decoded.

    :raises AssertionError: when the body is not whole, or when something follows it.
    """
    if encoding == "zstd":
        return zstd.decompress(body)
    if encoding == "gzip":
        decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
        decoded = decoder.decompress(body)
        assert decoder.eof and not decoder.unused_data
        return decoded
    return body
