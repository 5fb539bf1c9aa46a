"""Changes of investigators and API keys: one after another, each with its row of the audit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from twisted.logger import Logger

from mig.access.audit import Actor, record_change
from mig.access.caller import Caller
from mig.database.database import Database, Transaction
from mig.errors import ConflictError, ForbiddenError, UnauthorizedError
from mig.investigators.administrators import (
    ADMINISTRATORS,
    can_administer,
    describe_administrators,
)
from mig.model.permissions import (
    ALL_PERMISSIONS,
    ANY_CALLER,
    DEFAULT_PERMISSIONS,
    Permission,
)
from mig.model.row import make_row_reader
from mig.model.statement import Statement

NOBODY_LEFT: Final = (
    "no administrator is left who has a certificate, or an API key that does not expire: `mig-api"
    " investigator permissions ID --set admin` makes one"
)
_LAST_ADMINISTRATOR: Final = (
    "after this, no active investigator who may change others would have a certificate or an API"
    " key that does not expire; make another administrator first, or use `mig-api` on the server"
)

# A row lock that every change takes first (docs/decisions/0065). All rows, since a migration adds
# one.
LOCK: Final = "select version from mig_schema order by version for update"


class _CallerRow(NamedTuple):
    permissions: str
    key_permissions: str | None


# clock_timestamp(): now() is the start of the transaction, which may have waited for the lock.
_SELECT_CALLER: Final = Statement(
    """
    select i.permissions::text, k.permissions::text
    from investigators i
    left join apikeys k on k.id = %(key)s and k.investigatorid = i.id and k.revokedat is null
        and (k.expiresat is null or k.expiresat > clock_timestamp())
    where i.id = %(id)s and i.status = 'active'
    """,
    make_row_reader(_CallerRow),
)

NOTHING: Final = Permission(0)

_log = Logger()


def _log_notice(notice: str) -> None:
    _log.info("{notice}", notice=notice)


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change that is being made, in its transaction.

    ``caller`` has the permissions of this moment; ``None`` may do everything, as an administrator
    of the server.
    """

    transaction: Transaction
    actor: Actor
    caller: Caller | None

    async def record(
        self, noun: str, object_id: int, *, before: object = None, after: object = None
    ) -> None:
        """Add the change's row to the audit: see :func:`mig.access.audit.record_change`."""
        await record_change(
            self.transaction, self.actor, noun, object_id, before=before, after=after
        )

    def check_permission(self, permission: Permission) -> None:
        """Check that the caller has a permission.

        :raises ForbiddenError: naming the permission.
        """
        if self.caller is not None and permission not in self.caller.permissions:
            raise ForbiddenError(f"this request needs the permission {permission.label}")

    def check_grant(self, permissions: Permission) -> None:
        """Check that the caller has all permissions that an investigator or a key gets.

        Without authentication, a caller grants no more than the default set.

        :raises ForbiddenError: naming the first one that is missing.
        """
        if self.caller is None:
            return
        is_known = self.caller.investigator_id is not None
        missing = permissions & ~(self.caller.permissions if is_known else DEFAULT_PERMISSIONS)
        if not missing.member_names:
            return
        [name, *_] = missing.member_names
        if is_known:
            raise ForbiddenError(
                f"permissions.{name} cannot be given by a caller who does not have the permission"
                f" {name}"
            )
        names = ", ".join(DEFAULT_PERMISSIONS.member_names)
        raise ForbiddenError(
            f"permissions.{name} cannot be true here while there is no authentication; {names} can."
            " For others use `mig-api investigator` on the server"
        )


class ChangeRunner:
    """Runs changes one after another, by whichever process.

    :param notify: what is told who may change investigators whenever that has changed; by default
        the log.
    """

    def __init__(self, database: Database, notify: Callable[[str], None] | None = None) -> None:
        self._database = database
        self._notify = notify or _log_notice

    @asynccontextmanager
    async def run(
        self, actor: Actor, caller: Caller | None, permission: Permission = ANY_CALLER
    ) -> AsyncIterator[Change]:
        """Run a change that is on disk when the block ends, and undone when it raises.

        :param permission: what the caller needs. The gate has checked that when the request began;
            since then the caller may have lost it.
        :raises UnauthorizedError: when the caller's credentials have become invalid.
        :raises ForbiddenError: when the caller does not have the permission any more.
        :raises ConflictError: when nobody could change investigators after this, except for a
            change of the command line.
        :raises UnavailableError: when the change or its row of the audit cannot be stored now.
        """
        async with self._database.transaction() as transaction:
            await transaction.query(LOCK)
            rights = await _find_rights(transaction, caller)
            current = None if caller is None else replace(caller, permissions=rights or NOTHING)
            before = await transaction.query(ADMINISTRATORS)
            change = Change(transaction=transaction, actor=actor, caller=current)
            yield change
            after = await transaction.query(ADMINISTRATORS)
            is_last = can_administer(before) and not can_administer(after)
            if is_last and caller is not None:
                raise ConflictError(_LAST_ADMINISTRATOR)
            # last, because of two administrators who disable each other one is told 409
            if rights is None:
                raise UnauthorizedError("the caller has been disabled, or the API key revoked")
            change.check_permission(permission)
        if describe_administrators(before) != describe_administrators(after):
            self._notify(describe_administrators(after))
        if is_last:
            self._notify(NOBODY_LEFT)


async def _find_rights(transaction: Transaction, caller: Caller | None) -> Permission | None:
    """Return the permissions of a caller that were not lost since the request began.

    :returns: ``None`` when the investigator was disabled, or the API key revoked.
    """
    if caller is None:
        return ALL_PERMISSIONS
    if caller.investigator_id is None:
        return caller.permissions
    parameters = {"id": caller.investigator_id, "key": caller.key_id}
    for row in await transaction.query(_SELECT_CALLER, parameters):
        permissions = caller.permissions & Permission(int(row.permissions))
        if caller.key_id is None:
            return permissions
        if row.key_permissions is not None:
            return permissions & Permission(int(row.key_permissions))
    return None
