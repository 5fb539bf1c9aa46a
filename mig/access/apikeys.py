"""The text of API keys: ``mig_ID_SECRET_CHECKSUM``.

The id finds the key's row without its secret, which has 256 random bits. The checksum is the CRC-32
of what is before its underscore, so a mistyped key, and most guesses, need no query. Secret and
checksum are written in base 62.
"""

from __future__ import annotations

import re
import secrets
import string
import zlib
from hashlib import sha256
from typing import Final

PREFIX: Final = "mig_"
"""How each key begins; other texts may be keys that an earlier API made."""

_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_BITS: Final = 256
_SECRET_LENGTH: Final = 43
_CHECKSUM_LENGTH: Final = 6
_KEY: Final = re.compile(
    rf"(mig_([1-9][0-9]{{0,18}})_[0-9A-Za-z]{{{_SECRET_LENGTH}}})"
    rf"_([0-9A-Za-z]{{{_CHECKSUM_LENGTH}}})",
    re.ASCII,
)
_MAX_KEY_ID: Final = 2**63 - 1


def make_key(key_id: int) -> str:
    """Return a new key for the row ``key_id``."""
    secret = _encode_base62(secrets.randbits(_SECRET_BITS), _SECRET_LENGTH)
    body = f"{PREFIX}{key_id}_{secret}"
    return f"{body}_{_compute_checksum(body)}"


def parse_key(text: str) -> int | None:
    """Return the id of a key, or ``None`` when it is not one that :func:`make_key` has made."""
    match = _KEY.fullmatch(text)
    if not match or match[3] != _compute_checksum(match[1]):
        return None
    key_id = int(match[2])
    return key_id if key_id <= _MAX_KEY_ID else None


def hash_key(text: str) -> bytes:
    """Return what is stored of a key.

    A slow hash would not protect it better: nobody can try 256 random bits.
    """
    return sha256(text.encode()).digest()


def _compute_checksum(body: str) -> str:
    return _encode_base62(zlib.crc32(body.encode()), _CHECKSUM_LENGTH)


def _encode_base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
