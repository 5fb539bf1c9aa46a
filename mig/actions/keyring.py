"""The keys of the investigators, as their database rows have them now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from twisted.logger import Logger

from mig.records.stored import RunQuery, id_array
from mig.signing import certificate
from mig.signing.certificate import Certificate
from mig.values import InvalidInput

ACTIVE: Final = "active"

_ALL = (
    "select id::text, name, status, lastmodified::text, octet_length(publickey), pgpfingerprint"
    " from investigators where publickey is not null order by id"
)
_KEYS = "select id::text, publickey from investigators where id = any(%s::numeric[])"


@dataclass(frozen=True, kw_only=True)
class Signer:
    """An investigator with a key that can be read; *publickey* is the column's value."""

    id: str
    name: str
    status: str
    publickey: bytes
    certificate: Certificate

    @property
    def active(self) -> bool:
        return self.status == ACTIVE


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A key as it was read; ``certificate`` is ``None`` when it cannot be."""

    version: tuple[Any, ...]
    publickey: bytes
    certificate: Certificate | None


class Keyring:
    """Every investigator's key, read once for each version of its row.

    ``known`` is what :meth:`signers` last answered. It and the version are only hints: whoever
    relies on a signer checks the row again in the transaction that does so, and says
    :meth:`forget` when it has another key.
    """

    log = Logger()

    def __init__(self) -> None:
        self._read: dict[str, _Read] = {}
        self.known: list[Signer] = []

    async def signers(self, query: RunQuery) -> list[Signer]:
        """All investigators that have a readable key, disabled ones too."""
        rows = await query(_ALL, ())
        versions = {id: tuple(version) for id, _, _, *version in rows}
        new = [id for id, version in versions.items() if self._version(id) != version]
        if new:
            for id, key in await query(_KEYS, (id_array(new),)):
                self._keep(id, versions[id], bytes(key or b""))
        self._read = {id: self._read[id] for id in versions if id in self._read}
        self.known = [
            Signer(
                id=id,
                name=name,
                status=status,
                publickey=self._read[id].publickey,
                certificate=known,
            )
            for id, name, status, *_ in rows
            if id in self._read and (known := self._read[id].certificate)
        ]
        return self.known

    def forget(self, ids: Iterable[str]) -> None:
        """Read the keys of these investigators anew at the next call."""
        for id in ids:
            self._read.pop(id, None)

    def _version(self, id: str) -> tuple[Any, ...] | None:
        known = self._read.get(id)
        return known.version if known else None

    def _keep(self, id: str, version: tuple[Any, ...], publickey: bytes) -> None:
        try:
            readable = certificate.stored(publickey)
        except InvalidInput as reason:
            readable = None
            self.log.warn("the key of investigator {id} cannot be read: {why}", id=id, why=reason)
        self._read[id] = _Read(version=version, publickey=publickey, certificate=readable)


def owners(signers: Sequence[Signer], names: Sequence[str]) -> list[Signer]:
    """Whose certificate has a key of the first of *names* that anybody's has.

    *names* are fingerprints or key ids, in the order of trust.
    """
    for name in names:
        found = [
            signer
            for signer in signers
            if any(name in (key.fingerprint, key.key_id) for key in signer.certificate.keys)
        ]
        if found:
            return found
    return []
