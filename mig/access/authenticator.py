"""Who sends a request: the check of its credentials, at the gate.

A credential that was checked before is known by its SHA-256. Where the statement of the answer
checks the rows of the caller too, that is enough to go on; everywhere else, and whenever that
check fails, the rows are looked up again (docs/decisions/0060).
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable
from dataclasses import dataclass
from enum import IntFlag
from typing import Final

from mig.access.adoption import KeyAdopter
from mig.access.apikeys import PREFIX, parse_key
from mig.access.audit import Actor
from mig.access.caller import UNKNOWN, Caller
from mig.access.credentials import Credential, may_use_basic, read_credential
from mig.access.failures import FailureCounter
from mig.access.keyuses import KeyUses
from mig.access.lookup import CallerLookup, FoundCaller
from mig.access.lru import LruCache
from mig.access.tokens import Token, TokenTimeError, check_token_time, parse_token
from mig.access.tokenverifier import TokenVerifier
from mig.database.database import Database
from mig.errors import CredentialFault, UnauthorizedError
from mig.limits import Limits
from mig.openpgp.packet import Signature
from mig.reactor import Reactor, WallClock
from mig.signing.gpg.verify import Gpg
from mig.signing.keyring import Keyring
from mig.web.interfaces import Caller as WebCaller
from mig.web.request import Request

INVALID_KEY: Final = "the API key is not valid"

_NO_DIGEST: Final = bytes(32)
"""What is compared with the key of a request while there are no keys."""


def _read_credential(request: Request) -> Credential:
    return read_credential(request.requestHeaders, accepts_basic=may_use_basic(request))


def _has_permission(caller: WebCaller, permission: IntFlag) -> bool:
    return permission in caller.permissions


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """A credential that was checked; ``token_time`` is ``None`` for an API key."""

    found: FoundCaller
    token_time: float | None


class Authenticator:
    """The check of the credentials of requests.

    :param wall_clock: the time of day, by which tokens expire.
    :param gpg: verifies tokens and nothing else.
    :param token_seconds: how long before and after its time a token is valid.
    """

    def __init__(
        self,
        reactor: Reactor,
        wall_clock: WallClock,
        database: Database,
        keyring: Keyring,
        gpg: Gpg,
        *,
        token_seconds: float,
        limits: Limits,
    ) -> None:
        self._wall_clock = wall_clock
        self._token_seconds = token_seconds
        self._failures = FailureCounter(reactor, limits)
        self._lookup = CallerLookup(database.query)
        self._verifier = TokenVerifier(
            database.query, self._lookup, keyring, gpg, self._failures, limits
        )
        self._adopter = KeyAdopter(reactor, database, self._failures, limits)
        self._known: LruCache[tuple[bool, bytes], _Known] = LruCache(limits.cached_credentials)
        self._uses = KeyUses(reactor, wall_clock, database.query, limits)

    def start(self) -> None:
        """Write the last use of API keys from now on."""
        self._uses.start()

    async def stop(self) -> None:
        """Write what is not written yet."""
        await self._uses.stop()

    def authenticate(self, request: Request) -> Caller | Awaitable[Caller]:
        """Return who sent a request whose route is known.

        A caller whose rows have not been looked up for this request has a guard, and is returned
        only for a route whose handler uses it.

        :raises UnauthorizedError: when the credentials are not valid; the message says why.
        :raises TooManyRequestsError: when the client has sent too many wrong ones.
        :raises UnavailableError: when they cannot be checked now.
        """
        route = request.route
        assert route is not None  # the gate has found it
        if route.permission is None:
            return UNKNOWN
        credential = _read_credential(request)
        known = self._known.get(credential.identity)
        if (
            known is not None
            and route.is_guarded
            and _has_permission(known.found.caller, route.permission)
        ):
            if known.token_time is not None:
                self._check_time(known.token_time)
            return known.found.caller
        return self._look_up(request, credential, known)

    async def authenticate_again(self, request: Request) -> Caller:
        """Return who sent a request, by their rows as they are now.

        :raises UnauthorizedError: as by :meth:`authenticate`, like the other errors.
        """
        credential = _read_credential(request)
        return await self._look_up(request, credential, self._known.get(credential.identity))

    def record_use(self, caller: Caller) -> None:
        """Take note that the API key of a caller was valid for a request, if they used one."""
        if caller.key_id is not None:
            self._uses.record(caller.key_id)

    async def _look_up(
        self, request: Request, credential: Credential, known: _Known | None
    ) -> Caller:
        if credential.is_token:
            found, time = await self._find_signer(request, credential, known)
        else:
            found, time = await self._find_key_owner(request, credential, known), None
        self._known.put(credential.identity, _Known(found=found, token_time=time))
        self.record_use(found.caller)
        return found.checked_caller

    def _count_failure(self, request: Request, key: str | None) -> None:
        """Count wrong credentials.

        :raises TooManyCredentialsError: when there were too many before.
        """
        self._failures.check(request.client_group, key)
        self._failures.record_failure(request.client_group, key)

    # Tokens

    async def _find_signer(
        self, request: Request, credential: Credential, known: _Known | None
    ) -> tuple[FoundCaller, float]:
        """Return who signed a token, which gpg checks unless it is known, and its time."""
        if known is not None and known.token_time is not None:
            self._check_time(known.token_time)
            found = await self._find_known_signer(known)
            if found is not None:
                return found, known.token_time
        token, signature = self._parse_token(request, credential)
        found = await self._verifier.verify(
            credential.digest, token, signature, request.client_group
        )
        return found, token.time

    def _check_time(self, token_time: float) -> None:
        check_token_time(token_time, self._wall_clock(), self._token_seconds)

    def _parse_token(self, request: Request, credential: Credential) -> tuple[Token, Signature]:
        try:
            token = parse_token(credential.text)
            self._check_time(token.time)
            return token, token.parse_signature()
        except TokenTimeError:  # not a wrong credential, and it has cost nothing
            raise
        except UnauthorizedError:
            self._count_failure(request, None)
            raise

    async def _find_known_signer(self, known: _Known) -> FoundCaller | None:
        """Return the signer of a known token, or ``None`` when they have another key by now.

        :raises UnauthorizedError: when they are not active; the token is not a guess, so it does
            not count as a wrong one.
        """
        investigator_id = known.found.caller.investigator_id
        assert investigator_id is not None  # a token is of an investigator
        found = await self._lookup.by_signer_id.find(investigator_id)
        if found is None:
            raise UnauthorizedError(
                "unknown key: the investigator who signed it is not active",
                CredentialFault.UNKNOWN_KEY,
            )
        return found if found.secret_digest == known.found.secret_digest else None

    # API keys

    async def _find_key_owner(
        self, request: Request, credential: Credential, known: _Known | None
    ) -> FoundCaller:
        if not credential.text.startswith(PREFIX):
            return await self._find_owner_of_text(request, credential)
        key_id = parse_key(credential.text)
        if key_id is None:
            self._count_failure(request, None)
            raise UnauthorizedError(INVALID_KEY, CredentialFault.API_KEY)
        row = await self._lookup.by_key_id.find(key_id)
        stored = _NO_DIGEST if row is None else bytes(row.keyhash)
        if hmac.compare_digest(stored, credential.digest) and row is not None and row.is_valid:
            return FoundCaller.from_key(row)
        if known is None:  # else it was valid before, so it is not a guess
            self._count_failure(request, str(key_id))
        raise UnauthorizedError(INVALID_KEY, CredentialFault.API_KEY)

    async def _find_owner_of_text(self, request: Request, credential: Credential) -> FoundCaller:
        """Return the owner of a key that an earlier API made."""
        digest, client = credential.digest, request.client_group
        row = await self._lookup.by_key_hash.find(digest)
        if row is None:
            actor = Actor.of_request(request, UNKNOWN)
            await self._adopter.adopt(digest, credential.text, client, actor)
            row = await self._lookup.by_key_hash.find(digest)
        if row is None or not row.is_valid:
            raise UnauthorizedError(INVALID_KEY, CredentialFault.API_KEY)
        return FoundCaller.from_key(row)
