"""The trace that a request belongs to (W3C Trace Context)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_TRACEPARENT = re.compile(
    rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-[0-9a-f]{2}"
    rb"(?P<more>-.*)?",
    re.DOTALL,
)
_CURRENT_VERSION: Final = b"00"
_INVALID_VERSION: Final = b"ff"


def parse_traceparent(values: Sequence[bytes]) -> str | None:
    """Return the trace id of the header ``traceparent``; ``None`` when it is not valid.

    :param values: those of all headers with this name, of which there must be one.
    """
    match = _TRACEPARENT.fullmatch(values[0]) if len(values) == 1 else None
    if match is None or match["version"] == _INVALID_VERSION:
        return None
    # only a later version may have more parts
    if match["more"] is not None and match["version"] == _CURRENT_VERSION:
        return None
    is_zero = not (match["trace"].strip(b"0") and match["parent"].strip(b"0"))
    return None if is_zero else match["trace"].decode()
