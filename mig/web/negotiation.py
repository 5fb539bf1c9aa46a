"""The choice of a media type and an encoding for a client (RFC 9110, 12.5)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from werkzeug.http import parse_accept_header

HTML: Final = "text/html"

_BROWSER_EQUIVALENTS = {"application/json": HTML}
"""Where there is no HTML, a browser shows JSON well; it would offer to save anything else."""


@lru_cache(maxsize=256)
def choose_media_type(accept: str, offered: tuple[str, ...]) -> str:
    """Return the media type of ``offered`` that a client prefers.

    Only types that the client names count: a client that accepts anything, or none of the types
    offered, gets the first.

    :param accept: the values of the client's header Accept, joined by commas.
    """
    qualities = _parse_qualities(accept)

    equivalents = {} if HTML in offered else _BROWSER_EQUIVALENTS

    def find_quality(media_type: str) -> float:
        names = (media_type, equivalents.get(media_type, media_type))
        return max(qualities.get(name, 0.0) for name in names)

    return max(offered, key=find_quality)


@lru_cache(maxsize=256)
def choose_encoding(accept_encoding: str, offered: tuple[str, ...]) -> str | None:
    """Return the content encoding of ``offered`` that a client prefers, or ``None`` for none.

    Of several that it likes equally, the first one is chosen. An answer is sent without encoding
    when the client prefers that, and when it says nothing.

    :param accept_encoding: the values of the client's header Accept-Encoding, joined by commas.
    """
    qualities = _parse_qualities(accept_encoding)
    any_other = qualities.get("*", 0.0)

    def find_quality(encoding: str) -> float:
        return qualities.get(encoding, qualities.get(f"x-{encoding}", any_other))

    best = max(offered, key=find_quality)
    quality = find_quality(best)
    return best if quality > 0 and quality >= qualities.get("identity", 0.0) else None


def _parse_qualities(accept: str) -> dict[str, float]:
    """Return the quality of each value that a client names, without its parameters."""
    qualities: dict[str, float] = {}
    for value, quality in parse_accept_header(accept):
        name = value.partition(";")[0].strip().lower()
        qualities[name] = max(quality, qualities.get(name, 0.0))
    return qualities
