"""The credentials of requests: an API key, or tokens that a signer makes."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final, Protocol
from urllib.parse import urlsplit

from twisted.internet.defer import DeferredLock

from mig.client.errors import InsecureURLError

TOKEN_SECONDS: Final = 480.0
"""How long a token is used; the service accepts it for ten minutes."""


class TextSigner(Protocol):
    """Somebody who signs a text; :class:`mig.client.signer.Signer` is one."""

    async def sign(self, text: bytes) -> str:
        """Return the signature over ``text`` in one line."""
        ...


class Credentials(Protocol):
    """What identifies the caller of a request."""

    can_renew: bool
    """Whether another attempt may have other credentials."""

    async def make_headers(self) -> dict[str, str]:
        """Return the headers of a request."""
        ...

    def forget(self) -> None:
        """Do not use the last credentials again, which were refused."""
        ...


class KeyCredentials:
    """An API key."""

    can_renew = False

    def __init__(self, key: str) -> None:
        self._key = key

    async def make_headers(self) -> dict[str, str]:
        """Return the header with the key."""
        return {"X-MIGAPIKEY": self._key}

    def forget(self) -> None:
        """Do nothing: there is no other key."""


class TokenCredentials:
    """Tokens by a signer, each used until shortly before its end, and kept in memory only."""

    can_renew = True

    def __init__(self, signer: TextSigner, wall_clock: Callable[[], float]) -> None:
        self._signer = signer
        self._wall_clock = wall_clock
        self._token = ""
        self._made_at = 0.0
        # requests at once share one signature: gpg may ask a person for each
        self._signing = DeferredLock()

    async def make_headers(self) -> dict[str, str]:
        """Return the header with a token."""
        await self._signing.acquire()
        try:
            await self._renew_token()
        finally:
            self._signing.release()
        return {"X-PGPAUTHORIZATION": self._token}

    async def _renew_token(self) -> None:
        now = self._wall_clock()
        # also after a step of the clock back, by which the token would be in the future
        if not self._token or not 0 <= now - self._made_at < TOKEN_SECONDS:
            moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            text = f"1;{moment};{secrets.randbelow(2**63 - 1) + 1}"
            signature = await self._signer.sign(f"{text}\n".encode())
            self._token = f"{text};{signature}"
            self._made_at = now

    def forget(self) -> None:
        """Make a new token for the next request."""
        self._token = ""


class NoCredentials:
    """No credentials, for a service that asks for none."""

    can_renew = False

    async def make_headers(self) -> dict[str, str]:
        """Return no header."""
        return {}

    def forget(self) -> None:
        """Do nothing."""


def make_credentials(
    credentials: str | TextSigner | None, wall_clock: Callable[[], float]
) -> Credentials:
    """Return what identifies the caller: an API key, tokens of a signer, or nothing."""
    if credentials is None:
        return NoCredentials()
    if isinstance(credentials, str):
        return KeyCredentials(credentials)
    return TokenCredentials(credentials, wall_clock)


def check_transport(base: str) -> None:
    """Check that credentials may be sent to a URL.

    :raises InsecureURLError: when others could read them on the way.
    """
    parts = urlsplit(base)
    host = parts.hostname or ""
    if parts.scheme != "https" and not _is_loopback(host):
        raise InsecureURLError(
            f"credentials are sent to {host} only over TLS: the URL must begin with https://"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
