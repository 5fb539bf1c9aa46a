"""The keys of the investigators, as the database has them now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mig.errors import InvalidInputError
from mig.model.row import id_sql, make_row_reader
from mig.model.statement import QueryFunction, Statement, id_array
from mig.openpgp import certificate as certificates
from mig.openpgp.certificate import Certificate
from mig.tracing import name_no_statements

ACTIVE: Final = "active"


class _DigestRow(NamedTuple):
    id: str
    name: str
    status: str
    digest: bytes


_SELECT_DIGESTS = Statement(
    f"""
    select {id_sql("id")}, name, status, sha256(publickey)
    from investigators
    where publickey is not null
    order by id
    """,
    make_row_reader(_DigestRow),
)


class _KeyRow(NamedTuple):
    id: str
    publickey: bytes | None


_SELECT_KEYS = Statement(
    f"""
    select {id_sql("id")}, publickey
    from investigators
    where id = any(%s::numeric[])
    """,
    make_row_reader(_KeyRow),
)


@dataclass(frozen=True, kw_only=True)
class Signer:
    """An investigator whose key can be parsed; ``publickey`` is the value of the column."""

    id: str
    name: str
    status: str
    publickey: bytes
    certificate: Certificate

    @property
    def is_active(self) -> bool:
        """Whether signatures of this investigator are accepted."""
        return self.status == ACTIVE


@dataclass(frozen=True, kw_only=True)
class _CachedKey:
    """The key of a row; ``certificate`` is ``None`` when the key cannot be parsed."""

    digest: bytes
    publickey: bytes
    certificate: Certificate | None


class Keyring:
    """The key of every investigator, parsed once for all parts of the service.

    ``cached_signers`` is what :meth:`load_signers` returned last, and only a hint: the statement
    that stores something for a signer compares the row again (docs/decisions/0029).
    """

    log = Logger()

    def __init__(self) -> None:
        self._cached_keys: dict[str, _CachedKey] = {}
        self.cached_signers: list[Signer] = []
        self._waiting: list[Deferred[list[Signer]]] = []
        self._is_reloading = False

    async def reload_signers(self, query: QueryFunction) -> list[Signer]:
        """Return what :meth:`load_signers` returns; it runs once at a time for all who call this.

        Who calls while it runs waits for the next time: the rows are always as new as the call. A
        flood of signatures that name no key, or are bad, takes no more than one connection.
        """
        answer: Deferred[list[Signer]] = Deferred(self._stop_waiting)
        self._waiting.append(answer)
        if not self._is_reloading:
            with name_no_statements():
                Deferred.fromCoroutine(self._reload_for_waiting(query))
        return await answer

    def _stop_waiting(self, answer: Deferred[list[Signer]]) -> None:
        if answer in self._waiting:
            self._waiting.remove(answer)

    async def _reload_for_waiting(self, query: QueryFunction) -> None:
        self._is_reloading = True
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            signers: list[Signer] | Failure
            try:
                signers = await self.load_signers(query)
            except Exception:
                signers = Failure()
            for answer in waiting:
                if not answer.called:  # it has been cancelled
                    answer.callback(signers)
        self._is_reloading = False

    async def load_signers(self, query: QueryFunction) -> list[Signer]:
        """Return all investigators whose key can be parsed, including disabled ones."""
        rows = await query(_SELECT_DIGESTS)
        new = [row.id for row in rows if self._find_digest(row.id) != bytes(row.digest)]
        if new:
            for key in await query(_SELECT_KEYS, (id_array(new),)):
                self._cache_key(key.id, bytes(key.publickey or b""))
        # a row that was deleted between the two queries has no cached key
        self._cached_keys = {
            row.id: self._cached_keys[row.id] for row in rows if row.id in self._cached_keys
        }
        self.cached_signers = [
            Signer(
                id=row.id,
                name=row.name,
                status=row.status,
                publickey=self._cached_keys[row.id].publickey,
                certificate=certificate,
            )
            for row in rows
            if row.id in self._cached_keys
            and (certificate := self._cached_keys[row.id].certificate)
        ]
        return self.cached_signers

    def _find_digest(self, investigator_id: str) -> bytes | None:
        cached = self._cached_keys.get(investigator_id)
        return cached.digest if cached else None

    def _cache_key(self, investigator_id: str, publickey: bytes) -> None:
        try:
            parsed = certificates.parse_stored(publickey)
        except InvalidInputError as reason:
            parsed = None
            self.log.warn(
                "the key of investigator {id} cannot be read: {why}", id=investigator_id, why=reason
            )
        self._cached_keys[investigator_id] = _CachedKey(
            digest=sha256(publickey).digest(), publickey=publickey, certificate=parsed
        )


def find_key_owners(signers: Sequence[Signer], issuers: Sequence[str]) -> list[Signer]:
    """Return the signers whose certificates contain the first of ``issuers`` that any contains.

    :param issuers: fingerprints or key ids, the most reliable first.
    """
    for issuer in issuers:
        # a key id is the end of a fingerprint
        found = [
            signer
            for signer in signers
            if any(key.fingerprint.endswith(issuer) for key in signer.certificate.keys)
        ]
        if found:
            return found
    return []
