"""Names and values as URLs and HTML forms encode them, parsed strictly."""

from __future__ import annotations

import re
from binascii import a2b_qp

from mig.errors import InvalidInputError

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")

NameValuePairs = list[tuple[str, str]]


def parse_pairs(raw: bytes, noun: str, max_pairs: int) -> NameValuePairs:
    """Parse ``application/x-www-form-urlencoded`` text into names and values, in order.

    :param noun: what the pairs are called in messages.
    :raises InvalidInputError: for malformed percent-encoding, text that is not UTF-8, a NUL
        character, and more than ``max_pairs`` pairs, also empty ones.
    """
    if raw.count(b"&") >= max_pairs:
        raise InvalidInputError(f"there are more than {max_pairs} {noun}s")
    return [
        (_decode_component(name, f"a {noun}'s name"), _decode_component(value, escape_bytes(name)))
        for name, _, value in (piece.partition(b"=") for piece in raw.split(b"&") if piece)
    ]


def unquote(raw: bytes) -> bytes:
    """Decode percent-encoding in which every ``%`` is followed by two hexadecimal digits.

    Quoted-printable is the same encoding with another sign, and Python decodes it in C, many times
    faster than :func:`urllib.parse.unquote_to_bytes`, which loops over the escapes.
    """
    return a2b_qp(raw.replace(b"=", b"=3D").replace(b"%", b"="))


def escape_bytes(raw: bytes) -> str:
    """Return bytes of a request as one line of printable ASCII, short enough for a log."""
    # ascii() escapes whatever is not printable; the slice removes the quotes that it adds.
    return ascii(raw[:1024].decode("latin-1"))[1:-1]


def _decode_component(raw: bytes, what: str) -> str:
    if _BAD_ESCAPE.search(raw):
        raise InvalidInputError(f"{what}: % must be followed by two hexadecimal digits", what)
    try:
        decoded = unquote(raw.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise InvalidInputError(f"{what} is not UTF-8", what) from None
    if "\0" in decoded:
        raise InvalidInputError(f"{what} contains a NUL character", what)
    return decoded
