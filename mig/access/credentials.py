"""The one credential of a request, from the headers that may carry one."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from twisted.web.http_headers import Headers

from mig.access import tokens
from mig.errors import UnauthorizedError
from mig.web.request import Request

KEY_HEADER: Final = "X-MIGAPIKEY"
ACCEPTED: Final = (
    f"a token in {tokens.HEADER}, or an API key in {KEY_HEADER} or as Authorization: Bearer KEY"
)

BROWSER_ACCEPTED: Final = "an API key as the password, with any user name"

_TOKEN_HEADER: Final = tokens.HEADER.lower().encode()
_KEY_HEADER: Final = KEY_HEADER.lower().encode()
_BASIC: Final = re.compile(rb"basic +([A-Za-z0-9+/]+={0,2})", re.IGNORECASE)
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


def may_use_basic(request: Request) -> bool:
    """Return whether a browser may send an API key as the password of Basic with a request.

    It sends the key also with what a page of another site makes it request. So the key can only
    read, and only for a page that its user sees (docs/decisions/0119).
    """
    destinations = request.requestHeaders.getRawHeaders(b"sec-fetch-dest", [])
    is_seen = not request.is_from_other_site or destinations == [b"document"]
    return request.method == b"GET" and request.is_page_wanted and is_seen


def read_credential(headers: Headers, *, accepts_basic: bool = False) -> Credential:
    """Return the credential in the headers of a request.

    :param accepts_basic: whether it may be the password of a browser.
    :raises UnauthorizedError: unless there is exactly one; it says what is accepted.
    """
    sent_tokens = headers.getRawHeaders(_TOKEN_HEADER) or ()
    keys = headers.getRawHeaders(_KEY_HEADER) or ()
    authorizations = headers.getRawHeaders(b"authorization") or ()
    count = len(sent_tokens) + len(keys) + len(authorizations)
    if count == 0:
        accepted = f"{BROWSER_ACCEPTED}; {ACCEPTED}" if accepts_basic else ACCEPTED
        raise UnauthorizedError(f"this request needs credentials: {accepted}")
    if count > 1:
        raise UnauthorizedError(f"the request has {count} credentials; send one: {ACCEPTED}")
    if sent_tokens:
        return Credential(is_token=True, raw=sent_tokens[0], digest=sha256(sent_tokens[0]).digest())
    key = keys[0] if keys else _read_authorization(authorizations[0], accepts_basic=accepts_basic)
    return Credential(is_token=False, raw=key, digest=sha256(key).digest())


def _read_authorization(value: bytes, *, accepts_basic: bool) -> bytes:
    match = _BEARER.fullmatch(value)
    if match:
        return match[1]
    basic = _BASIC.fullmatch(value) if accepts_basic else None
    if not basic:
        schemes = "Bearer or Basic" if accepts_basic else "Bearer"
        raise UnauthorizedError(f"the scheme of Authorization must be {schemes}: {ACCEPTED}")
    try:
        _, colon, password = base64.b64decode(basic[1], validate=True).partition(b":")
    except binascii.Error:
        colon = password = b""
    if not colon:
        raise UnauthorizedError(f"Basic must have a user name and a password: {BROWSER_ACCEPTED}")
    return password
