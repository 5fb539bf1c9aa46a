"""What the encoders of all modules' checks share."""

from __future__ import annotations

from collections.abc import Callable

from mig.compliance import definition
from mig.formats.format import Format


def make_check_encoder(
    format_: Format, name: str, type_: str, value: str, compliance: bool
) -> Callable[[str], bytes]:
    """Return a function that encodes a check with its location.

    :raises UnreadableError: when a text contains U+0000.
    """
    for text in (name, type_, value):
        definition.refuse_nul(text)
    return format_.make_check_encoder(name=name, type_=type_, value=value, compliance=compliance)
