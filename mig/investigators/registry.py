"""Adding, enabling and disabling investigators, and giving them permissions and API keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from mig.access.audit import Actor
from mig.access.caller import Caller
from mig.database.database import Database, Transaction
from mig.errors import (
    ConflictError,
    DuplicateValueError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from mig.investigators.apikeys import (
    DEFAULT_LIMITS,
    ApiKeyOwner,
    NewApiKey,
    insert_key,
    revoke_all,
)
from mig.investigators.changes import Change, ChangeRunner
from mig.investigators.names import parse_name
from mig.limits import Limits
from mig.model.investigator import (
    DOCUMENT_SQL,
    Investigator,
    InvestigatorDocument,
    read_document,
)
from mig.model.permissions import DEFAULT_PERMISSIONS, Permission
from mig.model.record import UnreadableRecord
from mig.model.row import id_sql, make_row_reader
from mig.model.statement import Statement, select_ids
from mig.openpgp import certificate as certificates
from mig.openpgp.certificate import Certificate
from mig.signing.gpg.verify import Gpg
from mig.signing.keyring import ACTIVE, Keyring, Signer

DISABLED: Final = "disabled"
STATUSES: Final = (ACTIVE, DISABLED)
MAX_NAME_LENGTH: Final = 1024

CONSOLE_KEY_NAME: Final = "console"
"""The name of the keys that clients of 2017 make by ``apikey=active``."""


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
_INSERT: Final = Statement(
    f"""
    insert into investigators as i (
        id, name, pgpfingerprint, publickey, status, createdat, lastmodified, permissions
    )
    values (%s, %s, %s, %s, %s, now(), now(), %s)
    returning {DOCUMENT_SQL}
    """,
    read_document,
)
_LOCK_INVESTIGATOR: Final = Statement(
    f"select {DOCUMENT_SQL} from investigators i where i.id = %s for no key update", read_document
)
# clock_timestamp(): the update may wait for a lock, and now() is the start of the transaction.
_UPDATE: Final = Statement(
    f"""
    update investigators i
    set status = %s, permissions = %s, lastmodified = clock_timestamp()
    where i.id = %s
    returning {DOCUMENT_SQL}
    """,
    read_document,
)


def parse_status(text: str, where: str = "status") -> str:
    """Parse the status of an investigator, or of their API keys.

    :raises InvalidInputError: for anything but ``active`` and ``disabled``.
    """
    if text not in STATUSES:
        raise InvalidInputError(f"{where} must be active or disabled", where)
    return text


class _State(NamedTuple):
    """What changes of an investigator, and what the audit says about it."""

    status: str
    permissions: Permission

    def to_audit_value(self) -> dict[str, object]:
        return {"status": self.status, "permissions": self.permissions.member_names}

    def list_granted(self, before: _State) -> Permission:
        """Return the permissions that become effective: all of them when the status does."""
        if self.status == ACTIVE != before.status:
            return self.permissions
        return self.permissions & ~before.permissions


class InvestigatorRegistry:
    """Adds and changes investigators in the database.

    :param notify: see :class:`ChangeRunner`.
    """

    def __init__(
        self,
        database: Database,
        gpg: Gpg,
        keyring: Keyring,
        *,
        limits: Limits = DEFAULT_LIMITS,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self._limits = limits
        self._changes = ChangeRunner(database, notify)
        self._gpg = gpg
        self._keyring = keyring

    async def add(
        self,
        actor: Actor,
        caller: Caller | None,
        name: str,
        publickey: bytes | None,
        permissions: Permission = DEFAULT_PERMISSIONS,
        *,
        client: str = "",
    ) -> InvestigatorDocument:
        """Add an active investigator.

        :param caller: who adds it; ``None`` for an administrator of the server.
        :param publickey: armored; without a key, the account can sign nothing.
        :param client: who adds it; clients share gpg fairly.
        :raises InvalidInputError: for a name or key that is not accepted.
        :raises ForbiddenError: for a permission that the caller does not have.
        :raises ConflictError: when the key belongs to another investigator, whose id is
            ``existing_id``.
        :raises UnavailableError: when the key cannot be checked or stored now.
        :raises UnauthorizedError: as :meth:`ChangeRunner.run`, like others.
        """
        name = parse_name(name, MAX_NAME_LENGTH)
        key = None if publickey is None else await self._check_key(publickey, client)

        async def insert() -> InvestigatorDocument:
            async with self._changes.run(actor, caller, Permission.INVESTIGATOR_CREATE) as change:
                change.check_grant(permissions)
                return await self._insert_investigator(change, name, key, permissions)

        try:
            return await insert()
        except DuplicateValueError:
            # inserted at the same time by a program without our lock; now its owner can be named
            return await insert()

    async def _insert_investigator(
        self,
        change: Change,
        name: str,
        key: tuple[Certificate, str] | None,
        permissions: Permission,
    ) -> InvestigatorDocument:
        fingerprint = armored = None
        if key is not None:
            certificate, text = key
            fingerprint, armored = certificate.fingerprint, text.encode()
            await self._refuse_known_key(change.transaction, certificate)
        free = await change.transaction.query(_SELECT_FREE_ID)
        if not free:
            raise UnavailableError(
                "no free id was found for the investigator",
                "the sequence investigators_id_seq is far behind the ids in the table",
            )
        new_id = int(free[0].id)
        fields = (name, fingerprint, armored, ACTIVE, int(permissions))
        [added] = await change.transaction.query(_INSERT, (new_id, *fields))
        state = _State(ACTIVE, permissions)
        await change.record(Investigator.noun, new_id, after=state.to_audit_value())
        return added

    async def update(
        self,
        actor: Actor,
        caller: Caller | None,
        investigator_id: int,
        *,
        status: str | None = None,
        change_permissions: Callable[[Permission], Permission] | None = None,
        apikey: str | None = None,
    ) -> Investigator | UnreadableRecord:
        """Change what is given; this has effect from the next request on.

        :param caller: who changes it; ``None`` for an administrator of the server.
        :param change_permissions: returns the new permissions for the present ones.
        :param apikey: ``active`` makes an API key, which is in the returned investigator;
            ``disabled`` revokes all.
        :raises NotFoundError: when no investigator has this id.
        :raises InvalidInputError: for a status other than ``active`` and ``disabled``.
        :raises ForbiddenError: for a permission that the caller does not have.
        :raises ConflictError: when nobody could change investigators any more.
        :raises UnauthorizedError: as :meth:`ChangeRunner.run`, like others.
        """
        status = None if status is None else parse_status(status)
        apikey = None if apikey is None else parse_status(apikey, "apikey")
        async with self._changes.run(actor, caller, Permission.INVESTIGATOR_UPDATE) as change:
            document = await _lock_investigator(change, investigator_id)
            row = document.investigator
            before = _State(row.status, Permission(int(row.permissions)))
            permissions = before.permissions
            if change_permissions is not None:
                permissions = change_permissions(permissions)
            after = _State(status or before.status, permissions)
            if after != before:
                document = await _store_state(change, investigator_id, before, after)
            if apikey == ACTIVE:
                owner = ApiKeyOwner(investigator_id, *after)
                made = await insert_key(change, owner, CONSOLE_KEY_NAME, limits=self._limits)
                return _read_with_key(document, made)
            if apikey == DISABLED:
                await revoke_all(change, investigator_id)
                document = await _lock_investigator(change, investigator_id)
            return document.read()

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


async def _lock_investigator(change: Change, investigator_id: int) -> InvestigatorDocument:
    """Return an investigator, which no other program can change until the change ends."""
    for document in await change.transaction.query(_LOCK_INVESTIGATOR, (investigator_id,)):
        return document
    raise NotFoundError(f"there is no investigator {investigator_id}")


async def _store_state(
    change: Change, investigator_id: int, before: _State, after: _State
) -> InvestigatorDocument:
    change.check_grant(after.list_granted(before))
    fields = (after.status, int(after.permissions), investigator_id)
    [document] = await change.transaction.query(_UPDATE, fields)
    await change.record(
        Investigator.noun,
        investigator_id,
        before=before.to_audit_value(),
        after=after.to_audit_value(),
    )
    return document


def _read_with_key(document: InvestigatorDocument, made: NewApiKey) -> Investigator:
    """Return an investigator with a new API key.

    :raises ConflictError: when the investigator cannot be served, and so not the key either.
    """
    investigator = document.read(made.key)
    if isinstance(investigator, UnreadableRecord):
        raise ConflictError(f"the investigator cannot be read: {investigator.reason}")
    return investigator
