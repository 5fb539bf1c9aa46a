"""Adding, enabling and disabling investigators."""

from __future__ import annotations

import unicodedata
from typing import Final, NamedTuple

from mig.database.database import Database, Transaction
from mig.errors import (
    ConflictError,
    DuplicateValueError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from mig.model.permissions import DEFAULT_PERMISSIONS, Permission
from mig.model.row import id_sql, make_row_reader
from mig.model.statement import Statement, select_ids
from mig.openpgp import certificate as certificates
from mig.openpgp.certificate import Certificate
from mig.signing.gpg.verify import Gpg
from mig.signing.keyring import ACTIVE, Keyring, Signer
from mig.values import parse_plain_text

DISABLED: Final = "disabled"
STATUSES: Final = (ACTIVE, DISABLED)
MAX_NAME_LENGTH: Final = 1024

_LOCK_KEY: Final = 16640
"""The key of the advisory lock under which a new key is compared with the known ones.

The number is arbitrary, but every daemon must use the same one. No unique index can do this: a new
certificate must not contain any of the keys, including subkeys, of another one.
"""

# Unicode's categories: control, line separator, paragraph separator, surrogate.
_CONTROL_CATEGORIES = {"Cc", "Zl", "Zp", "Cs"}
# They change the order in which text is displayed, so a name could imitate another one.
_BIDI_CONTROLS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)

_LOCK_KEYS = "select pg_advisory_xact_lock(%s)"


class _OwnerRow(NamedTuple):
    id: str
    name: str


# upper(): rows that this service did not write may have fingerprints in lower case.
_SELECT_OWNER = Statement(
    f"""
    select {id_sql("id")}, name
    from investigators
    where upper(pgpfingerprint) = %s
    order by id
    limit 1
    """,
    make_row_reader(_OwnerRow),
)
# The sequence can be behind the ids of rows that were inserted with ids of their own.
_SELECT_FREE_ID = select_ids(
    """
    select n::text
    from (
        select nextval('investigators_id_seq') as n from generate_series(1, 10000)
    ) s
    where not exists (select from investigators where id = n)
    limit 1
    """
)
_INSERT = """
    insert into investigators (
        id, name, pgpfingerprint, publickey, status, createdat, lastmodified, permissions
    )
    values (%s, %s, %s, %s, %s, now(), now(), %s)
"""
# clock_timestamp(): the update may wait for a lock, and now() is the start of the transaction.
_UPDATE = """
    update investigators
    set status = coalesce(%s, status), permissions = coalesce(%s, permissions),
        lastmodified = clock_timestamp()
    where id = %s
    returning id
"""


def parse_name(text: str) -> str:
    """Parse the name of an investigator.

    :raises InvalidInputError: for a name that is empty, too long, or contains a control character.
    """
    name = parse_plain_text(text, "name").strip()
    if not name:
        raise InvalidInputError("name must not be empty", "name")
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidInputError(f"name must have at most {MAX_NAME_LENGTH} characters", "name")
    for character in name:
        if unicodedata.category(character) in _CONTROL_CATEGORIES or character in _BIDI_CONTROLS:
            raise InvalidInputError(
                f"name must not contain the control character U+{ord(character):04X}", "name"
            )
    return name


def parse_status(text: str) -> str:
    """Parse the status of an investigator.

    :raises InvalidInputError: for anything but ``active`` and ``disabled``.
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

    async def add(
        self,
        name: str,
        publickey: bytes | None,
        permissions: Permission = DEFAULT_PERMISSIONS,
        *,
        client: str = "",
    ) -> int:
        """Add an active investigator; return the new id.

        :param publickey: armored; without a key, the account can sign nothing.
        :param client: who adds it; clients share gpg fairly.
        :raises InvalidInputError: for a name or key that is not accepted.
        :raises ConflictError: when the key belongs to another investigator, whose id is
            ``existing_id``.
        :raises UnavailableError: when the key cannot be checked or stored now.
        """
        name = parse_name(name)
        key = None if publickey is None else await self._check_key(publickey, client)
        try:
            return await self._insert_investigator(name, key, permissions)
        except DuplicateValueError:
            # inserted at the same time by a program without our lock; now its owner can be named
            return await self._insert_investigator(name, key, permissions)

    async def _insert_investigator(
        self, name: str, key: tuple[Certificate, str] | None, permissions: Permission
    ) -> int:
        fingerprint = armored = None
        async with self._database.transaction() as transaction:
            if key is not None:
                certificate, text = key
                fingerprint, armored = certificate.fingerprint, text.encode()
                await transaction.query(_LOCK_KEYS, (_LOCK_KEY,))
                await self._refuse_known_key(transaction, certificate)
            free = await transaction.query(_SELECT_FREE_ID)
            if not free:
                raise UnavailableError(
                    "no free id was found for the investigator",
                    "the sequence investigators_id_seq is far behind the ids in the table",
                )
            new_id = int(free[0].id)
            fields = (name, fingerprint, armored, ACTIVE, int(permissions))
            await transaction.query(_INSERT, (new_id, *fields))
        return new_id

    async def update(
        self,
        investigator_id: int,
        *,
        status: str | None = None,
        permissions: Permission | None = None,
    ) -> None:
        """Change what is given; this has effect from the next request on.

        :raises NotFoundError: when no investigator has this id.
        :raises InvalidInputError: for a status other than ``active`` and ``disabled``.
        """
        if status is not None:
            parse_status(status)
        number = None if permissions is None else int(permissions)
        async with self._database.transaction() as transaction:
            changed = await transaction.query(_UPDATE, (status, number, investigator_id))
        if not changed:
            raise NotFoundError(f"there is no investigator {investigator_id}")

    async def _check_key(self, publickey: bytes, client: str) -> tuple[Certificate, str]:
        try:
            key = certificates.parse_armored(publickey)
            return await self._gpg.minimize_certificate(key, client)
        except InvalidInputError as reason:
            raise InvalidInputError(f"publickey: {reason}", "publickey") from None

    async def _refuse_known_key(self, transaction: Transaction, key: Certificate) -> None:
        for owner in await transaction.query(_SELECT_OWNER, (key.fingerprint,)):
            raise ConflictError(
                f"this is the key of investigator {owner.id}, {owner.name!r}", owner.id
            )
        # a subkey may also be bound to another certificate: docs/decisions/0026
        new = {part.fingerprint for part in key.keys}
        for signer in await self._keyring.load_signers(transaction.query):
            known = {part.fingerprint for part in signer.certificate.keys} & new
            if known:
                raise _make_adopted_key_error(signer, sorted(known)[0])


def _make_adopted_key_error(signer: Signer, fingerprint: str) -> InvalidInputError:
    return InvalidInputError(
        f"publickey: the key {fingerprint} in it belongs to investigator {signer.id},"
        f" {signer.name!r}; a key may have only one owner",
        "publickey",
    )
