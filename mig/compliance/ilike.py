"""ILIKE patterns, matched as PostgreSQL does, for texts that are not in a column."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence


def compile_patterns(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a text matches one of ``patterns``.

    It takes a time that is proportional to the lengths of text and pattern, whatever they contain.

    :param patterns: none of them ends with a single backslash.
    """
    matches = [re.compile(_build_regex(pattern), re.DOTALL).fullmatch for pattern in patterns]

    def matches_any(text: str) -> bool:
        lower = _to_lower(text)
        return any(match(lower) is not None for match in matches)

    return matches_any


def _build_regex(pattern: str) -> str:
    """Return the regular expression of a pattern, for text in lower case.

    The first place where a part between two ``%`` is found leaves most room for the others. So each
    is atomic: without that, a regular expression would try all places of all parts.
    """
    first, *others = _split_at_wildcards(_to_lower(pattern))
    if not others:
        return first
    *middle, last = others
    return first + "".join(f"(?>.*?{part})" for part in middle) + f".*{last}"


def _split_at_wildcards(pattern: str) -> Iterator[str]:
    """Yield the regular expressions of the parts of a pattern between its ``%``."""
    part = ""
    characters = iter(pattern)
    for character in characters:
        if character == "%":
            yield part
            part = ""
        elif character == "_":
            part += "."
        else:
            part += re.escape(next(characters) if character == "\\" else character)
    yield part


def _to_lower(text: str) -> str:
    """Return a text in lower case, character by character, as PostgreSQL lowers it."""
    if text.isascii():
        return text.lower()
    # some characters become two in Python, and a sigma depends on its place
    lowered = ((character, character.lower()) for character in text)
    return "".join(lower if len(lower) == 1 else character for character, lower in lowered)
