"""The names of investigators and API keys."""

from __future__ import annotations

import unicodedata
from typing import Final

from mig.errors import InvalidInputError
from mig.values import parse_plain_text

# Unicode's categories: control, line separator, paragraph separator, surrogate.
_CONTROL_CATEGORIES: Final = frozenset({"Cc", "Zl", "Zp", "Cs"})
# They change the order in which text is displayed, so a name could imitate another one.
_BIDI_CONTROLS: Final = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def parse_name(text: str, max_length: int) -> str:
    """Parse a name of at most ``max_length`` characters.

    :raises InvalidInputError: for a name that is empty, too long, or contains a control character.
    """
    name = parse_plain_text(text, "name").strip()
    if not name:
        raise InvalidInputError("name must not be empty", "name")
    if len(name) > max_length:
        raise InvalidInputError(f"name must have at most {max_length} characters", "name")
    for character in name:
        if unicodedata.category(character) in _CONTROL_CATEGORIES or character in _BIDI_CONTROLS:
            raise InvalidInputError(
                f"name must not contain the control character U+{ord(character):04X}", "name"
            )
    return name
