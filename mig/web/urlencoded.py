"""Names and values as URLs and HTML forms write them, taken strictly."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from mig.errors import InvalidInputError

MAX_PARAMETERS: Final = 64

_ESCAPES = re.compile(r"%(?![0-9A-Fa-f]{2})")

NameValuePairs = list[tuple[str, str]]


def parse_pairs(raw: bytes, noun: str) -> NameValuePairs:
    """Names and values in ``application/x-www-form-urlencoded`` text, in order.

    :param noun: what the pairs are called in messages.
    :raises InvalidInputError: for broken percent-encoding, text that is no UTF-8, NUL, and for
        more than :data:`MAX_PARAMETERS`.
    """
    if raw.count(b"&") > MAX_PARAMETERS:
        raise InvalidInputError(f"there are more than {MAX_PARAMETERS} {noun}s")
    return [
        (_decode_component(name, f"a {noun}'s name"), _decode_component(value, escape_bytes(name)))
        for name, _, value in (piece.partition(b"=") for piece in raw.split(b"&") if piece)
    ]


def escape_bytes(raw: bytes) -> str:
    """Bytes of a request as one line of printable ASCII, cut to a length a log can bear."""
    return ascii(raw[:1024].decode("latin-1"))[1:-1]


def _decode_component(raw: bytes, what: str) -> str:
    text = raw.replace(b"+", b" ").decode("latin-1")
    if _ESCAPES.search(text):
        raise InvalidInputError(f"{what}: % must be followed by two hexadecimal digits", what)
    try:
        decoded = unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise InvalidInputError(f"{what} is not UTF-8", what) from None
    if "\0" in decoded:
        raise InvalidInputError(f"{what} holds a NUL character", what)
    return decoded
