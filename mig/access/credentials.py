"""The one credential of a request, from the headers that may carry one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from twisted.web.http_headers import Headers

from mig.access import tokens
from mig.errors import UnauthorizedError

KEY_HEADER: Final = "X-MIGAPIKEY"
ACCEPTED: Final = (
    f"a token in {tokens.HEADER}, or an API key in {KEY_HEADER} or as Authorization: Bearer KEY"
)

_TOKEN_HEADER: Final = tokens.HEADER.lower().encode()
_KEY_HEADER: Final = KEY_HEADER.lower().encode()
_BEARER: Final = re.compile(rb"bearer +([^ ].*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Credential:
    """A token or an API key as a client has sent it: a secret.

    ``digest`` is its SHA-256.
    """

    is_token: bool
    raw: bytes
    digest: bytes

    def __repr__(self) -> str:
        """Return nothing of the secret."""
        return f"Credential(is_token={self.is_token})"

    @property
    def identity(self) -> tuple[bool, bytes]:
        """What distinguishes it from others, without the secret."""
        return self.is_token, self.digest

    @property
    def text(self) -> str:
        """The credential as text, in which each byte is a character."""
        return self.raw.decode("latin-1")


def read_credential(headers: Headers) -> Credential:
    """Return the credential in the headers of a request.

    :raises UnauthorizedError: unless there is exactly one; it says what is accepted.
    """
    sent_tokens = headers.getRawHeaders(_TOKEN_HEADER) or ()
    keys = headers.getRawHeaders(_KEY_HEADER) or ()
    authorizations = headers.getRawHeaders(b"authorization") or ()
    count = len(sent_tokens) + len(keys) + len(authorizations)
    if count == 0:
        raise UnauthorizedError(f"this request needs credentials: {ACCEPTED}")
    if count > 1:
        raise UnauthorizedError(f"the request has {count} credentials; send one: {ACCEPTED}")
    if sent_tokens:
        return Credential(is_token=True, raw=sent_tokens[0], digest=sha256(sent_tokens[0]).digest())
    key = keys[0] if keys else _read_bearer(authorizations[0])
    return Credential(is_token=False, raw=key, digest=sha256(key).digest())


def _read_bearer(value: bytes) -> bytes:
    match = _BEARER.fullmatch(value)
    if not match:
        raise UnauthorizedError(f"the scheme of Authorization must be Bearer: {ACCEPTED}")
    return match[1]
