"""Investigators are added, enabled and disabled."""

from __future__ import annotations

import unicodedata
from typing import Final, NamedTuple

from mig.access.permissions import DEFAULT_PERMISSIONS
from mig.database.database import Database, Transaction
from mig.errors import (
    ConflictError,
    DuplicateValueError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from mig.model.row import make_row_reader
from mig.model.statement import Statement, select_ids
from mig.openpgp import certificate
from mig.openpgp.certificate import Certificate
from mig.signing.gpg.verify import Gpg
from mig.signing.keyring import ACTIVE, Keyring, Signer
from mig.values import parse_plain_text

DISABLED: Final = "disabled"
STATUSES: Final = (ACTIVE, DISABLED)
MAX_NAME_LENGTH: Final = 1024

_LOCK_KEY: Final = 16640
"""Key of the advisory lock under which new keys are compared with the known ones."""

_INVISIBLE_CATEGORIES = {"Cc", "Zl", "Zp", "Cs"}
_BIDI_CONTROLS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)

_ADD_LOCK = "select pg_advisory_xact_lock(%s)"


class _OwnerRow(NamedTuple):
    id: str
    name: str


_SAME_FINGERPRINT = Statement(
    "select id::text, name from investigators where upper(pgpfingerprint) = %s order by id limit 1",
    make_row_reader(_OwnerRow),
)
_FREE_ID = select_ids(
    "select n::text"
    " from (select nextval('investigators_id_seq') as n from generate_series(1, 10000)) s"
    " where not exists (select from investigators where id = n) limit 1"
)
_ADD = (
    "insert into investigators (id, name, pgpfingerprint, publickey, status, createdat,"
    " lastmodified, permissions) values (%s, %s, %s, %s, %s, now(), now(), %s)"
)
_SET_STATUS = (
    "update investigators set status = %s, lastmodified = clock_timestamp() where id = %s"
    " returning id"
)


def parse_name(text: str) -> str:
    """The name of an investigator.

    :raises InvalidInputError: for an empty or overlong one, and for control characters in it.
    """
    name = parse_plain_text(text, "name").strip()
    if not name:
        raise InvalidInputError("name must not be empty", "name")
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidInputError(f"name must have at most {MAX_NAME_LENGTH} letters", "name")
    for letter in name:
        if unicodedata.category(letter) in _INVISIBLE_CATEGORIES or letter in _BIDI_CONTROLS:
            raise InvalidInputError(
                f"name holds the control character U+{ord(letter):04X}; letters are accepted",
                "name",
            )
    return name


def parse_status(text: str) -> str:
    """The status of an investigator.

    :raises InvalidInputError: for anything but active and disabled.
    """
    if text not in STATUSES:
        raise InvalidInputError("status must be active or disabled", "status")
    return text


class InvestigatorRegistry:
    """Adds and changes investigators in the database."""

    def __init__(self, database: Database, gpg: Gpg, keyring: Keyring) -> None:
        self._database = database
        self._gpg = gpg
        self._keyring = keyring

    async def add(self, name: str, publickey: bytes) -> int:
        """The id of a new, active investigator with an armored public key.

        :raises InvalidInputError: for a name or key that is not accepted.
        :raises ConflictError: when the key belongs to an investigator; ``existing_id`` is theirs.
        :raises UnavailableError: when the key cannot be checked or stored now.
        """
        name = parse_name(name)
        key, armored = await self._check_key(publickey)
        try:
            return await self._insert_investigator(name, key, armored)
        except (
            DuplicateValueError
        ):  # by somebody who does not take our lock: now it can be seen whose it is
            return await self._insert_investigator(name, key, armored)

    async def _insert_investigator(self, name: str, key: Certificate, armored: str) -> int:
        async with self._database.transaction() as transaction:
            await transaction.query(_ADD_LOCK, (_LOCK_KEY,))
            await self._refuse_known_key(transaction, key)
            free = await transaction.query(_FREE_ID)
            if not free:
                raise UnavailableError(
                    "there is no free id near", "investigators_id_seq is far behind"
                )
            new_id = int(free[0].id)
            fields = (name, key.fingerprint, armored.encode(), ACTIVE, int(DEFAULT_PERMISSIONS))
            await transaction.query(_ADD, (new_id, *fields))
        return new_id

    async def set_status(self, investigator_id: int, status: str) -> None:
        """Enable or disable an investigator, from the next request on.

        :raises NotFoundError: when there is none with this id.
        :raises InvalidInputError: for another status than active or disabled.
        """
        parse_status(status)
        async with self._database.transaction() as transaction:
            changed = await transaction.query(_SET_STATUS, (status, investigator_id))
        if not changed:
            raise NotFoundError(f"there is no investigator {investigator_id}")

    async def _check_key(self, publickey: bytes) -> tuple[Certificate, str]:
        try:
            return await self._gpg.minimize_certificate(certificate.parse_armored(publickey))
        except InvalidInputError as reason:
            raise InvalidInputError(f"publickey: {reason}", "publickey") from None

    async def _refuse_known_key(self, transaction: Transaction, key: Certificate) -> None:
        for owner in await transaction.query(_SAME_FINGERPRINT, (key.fingerprint,)):
            raise ConflictError(
                f"this is the key of investigator {owner.id}, {owner.name!r}", owner.id
            )
        new = {part.fingerprint for part in key.keys}
        for signer in await self._keyring.load_signers(transaction.query):
            known = {part.fingerprint for part in signer.certificate.keys} & new
            if known:
                raise _make_adopted_key_error(signer, sorted(known)[0])


def _make_adopted_key_error(signer: Signer, fingerprint: str) -> InvalidInputError:
    return InvalidInputError(
        f"publickey: the key {fingerprint} in it belongs to investigator {signer.id},"
        f" {signer.name!r}; each key may have one owner",
        "publickey",
    )
