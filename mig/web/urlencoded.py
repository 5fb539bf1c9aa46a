"""Names and values as URLs and HTML forms encode them, parsed strictly."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from mig.errors import InvalidInputError

MAX_PARAMETERS: Final = 64

_ESCAPES = re.compile(r"%(?![0-9A-Fa-f]{2})")

NameValuePairs = list[tuple[str, str]]


def parse_pairs(raw: bytes, noun: str) -> NameValuePairs:
    """Parse ``application/x-www-form-urlencoded`` text into names and values, in order.

    :param noun: what the pairs are called in messages.
    :raises InvalidInputError: for malformed percent-encoding, text that is not UTF-8, a NUL
        character, and more than :data:`MAX_PARAMETERS` separators.
    """
    if raw.count(b"&") > MAX_PARAMETERS:
        raise InvalidInputError(f"there are more than {MAX_PARAMETERS} {noun}s")
    return [
        (_decode_component(name, f"a {noun}'s name"), _decode_component(value, escape_bytes(name)))
        for name, _, value in (piece.partition(b"=") for piece in raw.split(b"&") if piece)
    ]


def escape_bytes(raw: bytes) -> str:
    """Return bytes of a request as one line of printable ASCII, short enough for a log."""
    # ascii() escapes whatever is not printable; the slice removes the quotes that it adds.
    return ascii(raw[:1024].decode("latin-1"))[1:-1]


def _decode_component(raw: bytes, what: str) -> str:
    # latin-1 maps every byte to one character, so the escapes can be checked before decoding.
    text = raw.replace(b"+", b" ").decode("latin-1")
    if _ESCAPES.search(text):
        raise InvalidInputError(f"{what}: % must be followed by two hexadecimal digits", what)
    try:
        decoded = unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise InvalidInputError(f"{what} is not UTF-8", what) from None
    if "\0" in decoded:
        raise InvalidInputError(f"{what} contains a NUL character", what)
    return decoded
