"""The text of a token: ``1;TIME;NONCE;SIGNATURE``, from the header X-PGPAUTHORIZATION.

Anyone who has a token may use it until it expires. Its signature covers what is before the last
semicolon and a line feed, and is written as those of actions are. No signature over an action is
one over a token, or the other way round: a token's text begins with ``1;``, an action's with
``name=``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from whenever import OffsetDateTime

from mig.errors import CredentialFault, InvalidInputError, UnauthorizedError
from mig.openpgp.packet import MAX_SIGNATURE_LENGTH, Signature, parse_signature

HEADER: Final = "X-PGPAUTHORIZATION"
ACCEPTED_FORM: Final = (
    f"{HEADER} must be 1;TIME;NONCE;SIGNATURE: a time in UTC such as 2026-11-24T08:59:39Z, a nonce"
    " of 1 to 19 digits that does not begin with 0, and a detached signature in one line over"
    " 1;TIME;NONCE and a line feed"
)

_TOKEN: Final = re.compile(
    r"(1;([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9]Z);[1-9][0-9]{0,18})"
    rf";([A-Za-z0-9+/=]{{1,{MAX_SIGNATURE_LENGTH}}})",
    re.ASCII,
)


class TokenTimeError(UnauthorizedError):
    """The token is too old, or from the future."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token of the accepted form; its signature is not verified.

    ``time`` is in Unix seconds, ``text`` is what was signed.
    """

    time: float
    text: bytes
    signature_text: str

    def parse_signature(self) -> Signature:
        """Parse the signature as that of an action.

        :raises UnauthorizedError: when its form is not accepted.
        """
        try:
            return parse_signature(self.signature_text)
        except InvalidInputError as reason:
            raise UnauthorizedError(
                f"the token has a bad signature: {reason}", CredentialFault.BAD_SIGNATURE
            ) from None


def check_token_time(time: float, now: float, seconds: float) -> None:
    """Refuse a token that is older or newer than ``seconds``.

    :param time: that of the token.
    :param now: the time of day in Unix seconds.
    :raises TokenTimeError: for such a token.
    """
    age = now - time
    if age > seconds:
        raise TokenTimeError(
            f"the token has expired: it was made {age:.0f} s ago and is valid for {seconds:g} s",
            CredentialFault.EXPIRED,
        )
    if -age > seconds:
        raise TokenTimeError(
            f"the token is from the future: your clock differs by {-age:.0f} s",
            CredentialFault.CLOCK,
        )


def parse_token(header: str) -> Token:
    """Parse the value of the header.

    :raises UnauthorizedError: saying what is accepted.
    """
    match = _TOKEN.fullmatch(header)
    if not match:
        raise UnauthorizedError(ACCEPTED_FORM)
    try:
        time = OffsetDateTime.parse_iso(match[2]).timestamp()
    except ValueError:  # no such day or hour
        raise UnauthorizedError(ACCEPTED_FORM) from None
    return Token(time=time, text=f"{match[1]}\n".encode(), signature_text=match[3])
