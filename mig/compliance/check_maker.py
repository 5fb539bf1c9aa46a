"""What the readers of all modules' checks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from mig.compliance import definition
from mig.formats.format import Format

Check = TypeVar("Check")
CheckType_co = TypeVar("CheckType_co", covariant=True)


class CheckMaker(Protocol[CheckType_co]):
    """A function that makes checks of one name, type, value and compliance."""

    def __call__(
        self, name: str, type_: str, value: str, compliance: bool, /
    ) -> Callable[[str], CheckType_co]:
        """Return a function that makes a check of its location.

        :raises UnreadableError: when a text contains U+0000.
        """
        ...


def make_check_encoder(format_: Format) -> CheckMaker[bytes]:
    """Return a function that encodes checks."""

    def make_check(name: str, type_: str, value: str, compliance: bool) -> Callable[[str], bytes]:
        for text in (name, type_, value):
            definition.refuse_nul(text)
        return format_.make_check_encoder(
            name=name, type_=type_, value=value, compliance=compliance
        )

    return make_check
