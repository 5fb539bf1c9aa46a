"""Who signed a token: the keys of active investigators, and gpg.

Clients of 2017 make a token for nearly each request, so tokens have gpg processes of their own, and
actions never wait behind them. No run of gpg is spent on a key that no active investigator has, nor
again on a token that was found to be bad (docs/decisions/0062).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Final, NamedTuple

from mig.access.failures import FailureCounter
from mig.access.lookup import CallerLookup, FoundCaller
from mig.access.lru import LruCache
from mig.access.shared import SharedJobs
from mig.access.tokens import Token
from mig.errors import (
    CredentialFault,
    InvalidInputError,
    UnauthorizedError,
    UnavailableError,
    drop_traceback,
)
from mig.fair_queue import FairSemaphore
from mig.limits import Limits
from mig.model.statement import QueryFunction
from mig.openpgp.packet import Signature
from mig.signing.gpg.process import count_processes, make_overload_error
from mig.signing.gpg.verify import Gpg
from mig.signing.keyring import Keyring, Signer
from mig.signing.signer import find_active_signers, find_signer_of_text

MAX_ATTEMPTS: Final = 3
"""How often a token is verified while keys keep changing."""

BATCHES_AT_ONCE: Final = 2
"""How many batches of tokens wait for gpg itself: one runs and the next one gathers. Other tokens
wait before, and are given up when their client has failed too often by then."""


def limit_token_processes(limits: Limits) -> Limits:
    """Return the limits of the gpg processes for tokens: half as many as for actions."""
    return replace(limits, gpg_processes=max(1, count_processes(limits) // 2))


class _BadToken(NamedTuple):
    """Why a token is bad, as long as its signature is checked with the same keys."""

    key_digests: tuple[bytes, ...]
    reason: str


class TokenVerifier:
    """Finds out who signed a token.

    :param query: reads the keys of investigators, which ``keyring`` caches.
    :param lookup: finds the investigator as the database has them now.
    :param gpg: runs for tokens alone.
    """

    def __init__(
        self,
        query: QueryFunction,
        lookup: CallerLookup,
        keyring: Keyring,
        gpg: Gpg,
        failures: FailureCounter,
        limits: Limits,
    ) -> None:
        self._query = query
        self._lookup = lookup
        self._keyring = keyring
        self._gpg = gpg
        self._failures = failures
        self._bad: LruCache[bytes, _BadToken] = LruCache(limits.cached_credentials)
        self._jobs: SharedJobs[tuple[bytes, str], FoundCaller] = SharedJobs()
        self._turns = FairSemaphore(
            BATCHES_AT_ONCE * limits.shared_signatures,
            max_waiting=limits.waiting_checks,
            make_overload_error=make_overload_error,
        )

    async def verify(
        self, digest: bytes, token: Token, signature: Signature, client: str
    ) -> FoundCaller:
        """Return who signed a token.

        :param digest: the SHA-256 of the whole token.
        :param signature: that of the token.
        :param client: the client group.
        :raises UnauthorizedError: when no active investigator signed it.
        :raises TooManyRequestsError: when the client has failed too often.
        :raises UnavailableError: when it cannot be checked now.
        """
        follows = self._jobs.is_running((digest, client))
        try:
            return await self._jobs.run(
                (digest, client), lambda: self._verify_and_count(digest, token, signature, client)
            )
        except UnauthorizedError:
            if follows:  # the job counts for the request that started it
                self._failures.record_failure(client, signature.issuers[0])
            raise

    async def _verify_and_count(
        self, digest: bytes, token: Token, signature: Signature, client: str
    ) -> FoundCaller:
        issuer = signature.issuers[0]
        self._failures.check(client, issuer)
        try:
            found = await self._verify(digest, token, signature, client)
        except UnauthorizedError as reason:
            drop_traceback(reason)
            self._failures.record_failure(client, issuer)
            raise
        self._failures.record_success(client, issuer)
        return found

    async def _verify(
        self, digest: bytes, token: Token, signature: Signature, client: str
    ) -> FoundCaller:
        """Verify with the cached keys, and with freshly loaded ones before anything is refused."""
        candidates = _find_candidates(self._keyring.cached_signers, signature)
        if not candidates or self._bad.get(digest) is not None:
            candidates = await self._reload_candidates(signature)
        for _ in range(MAX_ATTEMPTS):
            if not candidates:
                raise UnauthorizedError(
                    f"unknown key: no active investigator has the key {signature.issuers[0]}, which"
                    " made the token's signature",
                    CredentialFault.UNKNOWN_KEY,
                )
            self._refuse_known(digest, candidates)
            try:
                signer = await self._run_gpg(token, signature, candidates, client)
            except InvalidInputError as reason:
                drop_traceback(reason)
                self._bad.put(digest, _BadToken(_digest_keys(candidates), str(reason)))
            else:
                found = await self._lookup.by_signer_id.find(int(signer.id))
                if found and found.secret_digest == sha256(signer.publickey).digest():
                    return found
            candidates = await self._reload_candidates(signature)
        raise UnavailableError("the keys of investigators are being changed")

    def _refuse_known(self, digest: bytes, candidates: Sequence[Signer]) -> None:
        """Refuse a token that was found to be bad with the same keys."""
        bad = self._bad.get(digest)
        if bad is not None and bad.key_digests == _digest_keys(candidates):
            raise UnauthorizedError(
                f"the token has a bad signature: {bad.reason}", CredentialFault.BAD_SIGNATURE
            )

    async def _run_gpg(
        self, token: Token, signature: Signature, candidates: Sequence[Signer], client: str
    ) -> Signer:
        await self._turns.acquire((client,))
        try:
            self._failures.check(client, signature.issuers[0])  # it may have failed while it waited
            return await find_signer_of_text(self._gpg, candidates, signature, token.text, client)
        finally:
            self._turns.release()

    async def _reload_candidates(self, signature: Signature) -> list[Signer]:
        return _find_candidates(await self._keyring.reload_signers(self._query), signature)


def _digest_keys(signers: Sequence[Signer]) -> tuple[bytes, ...]:
    return tuple(sha256(signer.publickey).digest() for signer in signers)


def _find_candidates(signers: Sequence[Signer], signature: Signature) -> list[Signer]:
    """Return the active signers who may have made a signature."""
    try:
        return find_active_signers(signers, signature)
    except InvalidInputError:
        return []
