"""Making and revoking API keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from whenever import Instant

from mig.access.apikeys import hash_key, make_key
from mig.access.audit import Actor
from mig.access.caller import Caller
from mig.database.database import Database
from mig.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from mig.investigators.changes import Change, ChangeRunner
from mig.investigators.names import parse_name
from mig.limits import Limits
from mig.model.apikey import API_KEY, API_KEY_BY_ID, ApiKey, ApiKeyRow
from mig.model.investigator import Investigator
from mig.model.permissions import ALL_PERMISSIONS, Permission
from mig.model.row import id_sql, make_row_reader
from mig.model.statement import Statement, select_ids
from mig.reactor import WallClock
from mig.signing.keyring import ACTIVE
from mig.values import parse_duration, parse_time, quote_if_short

MAX_NAME_LENGTH: Final = 256

DEFAULT_LIMITS: Final = Limits()

NO_KEYS_WITHOUT_AUTHENTICATION: Final = (
    "no API keys are made here while there is no authentication; use `mig-api apikey create` on the"
    " server"
)


class ApiKeyOwner(NamedTuple):
    """The investigator of a key."""

    id: int
    status: str
    permissions: Permission


class NewApiKey(NamedTuple):
    """A new key; ``key`` is its text, which is not stored."""

    row: ApiKeyRow
    key: str


class _OwnerRow(NamedTuple):
    status: str
    permissions: str


_SELECT_OWNER: Final = Statement(
    "select status, permissions::text from investigators where id = %s",
    make_row_reader(_OwnerRow),
)
_SELECT_ACTIVE: Final = select_ids(
    f"""
    select {id_sql("id")}
    from apikeys
    where investigatorid = %s and revokedat is null
        and (expiresat is null or expiresat > clock_timestamp())
    """
)
_SELECT_NEW_ID: Final = select_ids("select nextval('apikeys_id_seq')::text")
_INSERT: Final = Statement(
    f"""
    insert into apikeys as k (id, investigatorid, name, keyhash, permissions, expiresat)
    values (%s, %s, %s, %s, %s, %s)
    returning {API_KEY.sql}
    """,
    API_KEY,
)
_REVOKE: Final = Statement(
    f"""
    update apikeys k
    set revokedat = clock_timestamp()
    where k.id = %s and k.revokedat is null
    returning {API_KEY.sql}
    """,
    API_KEY,
)
_REVOKE_ALL: Final = Statement(
    f"""
    update apikeys k
    set revokedat = clock_timestamp()
    where k.investigatorid = %s and k.revokedat is null
    returning {API_KEY.sql}
    """,
    API_KEY,
)
_REMOVE_ADOPTED: Final = select_ids(
    f"""
    update investigators
    set apikey = null, apisalt = null, lastmodified = clock_timestamp()
    where id = %s and apikey is not null
    returning {id_sql("id")}
    """
)


def parse_expiry(text: str, now: float, limits: Limits = DEFAULT_LIMITS) -> Instant:
    """Parse when a key expires: an RFC 3339 time, or a duration from ``now``, in Unix seconds.

    :raises InvalidInputError: for another text, and for a time that is past or too far ahead.
    """
    start = Instant.from_timestamp(now)
    try:
        seconds = parse_duration(text).total_seconds()
        expiry = start.add(seconds=min(seconds, limits.api_key_seconds + 1))
    except ValueError as accepted:
        if "T" not in text:
            raise InvalidInputError(
                f"expires must be an RFC 3339 time or {accepted}{quote_if_short(text)}", "expires"
            ) from None
        expiry = parse_time("expires", text)
    if not start < expiry <= start.add(seconds=limits.api_key_seconds):
        days = limits.api_key_seconds // 86_400
        raise InvalidInputError(
            f"expires must be in the future, and at most {days:.0f} days ahead", "expires"
        )
    return expiry


class ApiKeyRegistry:
    """Makes and revokes API keys in the database.

    :param notify: see :class:`ChangeRunner`.
    """

    def __init__(
        self,
        database: Database,
        wall_clock: WallClock,
        *,
        limits: Limits = DEFAULT_LIMITS,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self._changes = ChangeRunner(database, notify)
        self._wall_clock = wall_clock
        self._limits = limits

    async def create(
        self,
        actor: Actor,
        caller: Caller | None,
        investigator_id: int,
        name: str,
        *,
        permissions: Permission | None = None,
        expires: str | None = None,
    ) -> NewApiKey:
        """Make a key for an active investigator.

        :param caller: who asks for it; ``None`` for an administrator of the server.
        :param permissions: by default those that the investigator has now.
        :param expires: see :func:`parse_expiry`; without it, the key does not expire.
        :raises InvalidInputError: for a name, permissions or an end that are not accepted.
        :raises ForbiddenError: when the caller may make no such key.
        :raises NotFoundError: when no investigator has this id.
        :raises ConflictError: when the investigator is disabled, or has too many keys.
        :raises UnauthorizedError: as :meth:`ChangeRunner.run`, like others.
        """
        check_authentication(caller)
        name = parse_name(name, MAX_NAME_LENGTH)
        now = self._wall_clock()
        expiry = None if expires is None else parse_expiry(expires, now, self._limits)
        async with self._changes.run(actor, caller) as change:
            _check_key_access(change, investigator_id)
            owner = await _find_owner(change, investigator_id)
            return await insert_key(change, owner, name, permissions, expiry, limits=self._limits)

    async def revoke(self, actor: Actor, caller: Caller | None, key_id: int) -> ApiKeyRow:
        """Revoke a key, at once and for ever; one that is revoked already stays as it is.

        :raises ForbiddenError: for a key of somebody else, without the permission for that.
        :raises NotFoundError: when no key has this id.
        :raises ConflictError: when nobody could change investigators any more.
        :raises UnauthorizedError: as :meth:`ChangeRunner.run`, like others.
        """
        async with self._changes.run(actor, caller) as change:
            found = await change.transaction.query(API_KEY_BY_ID, (key_id,))
            # who may not see other keys does not learn either which ones there are
            _check_key_access(change, int(found[0].investigatorid) if found else None)
            if not found:
                raise NotFoundError(f"there is no API key {key_id}")
            for revoked in await change.transaction.query(_REVOKE, (key_id,)):
                await change.record(ApiKey.noun, key_id, before=found[0].to_audit_value())
                return revoked
            return found[0]


def check_authentication(caller: Caller | None) -> None:
    """Check that a caller is known, who makes a key.

    :raises ForbiddenError: while the service does not require credentials.
    """
    if caller is not None and caller.investigator_id is None:
        raise ForbiddenError(NO_KEYS_WITHOUT_AUTHENTICATION)


def make_foreign_key_error() -> ForbiddenError:
    """Return the error for a key of somebody else, or of nobody."""
    permission = Permission.INVESTIGATOR_UPDATE.label
    return ForbiddenError(
        f"this request needs the permission {permission}, unless the API key is the caller's own"
    )


def _check_key_access(change: Change, investigator_id: int | None) -> None:
    """Check that the caller may see and change the keys of an investigator.

    :raises ForbiddenError: for somebody else's, without the permission for that.
    """
    caller = change.caller
    if caller is None or Permission.INVESTIGATOR_UPDATE in caller.permissions:
        return
    if investigator_id is None or caller.investigator_id != investigator_id:
        raise make_foreign_key_error()


async def insert_key(
    change: Change,
    owner: ApiKeyOwner,
    name: str,
    permissions: Permission | None = None,
    expiry: Instant | None = None,
    *,
    limits: Limits,
) -> NewApiKey:
    """Make a key of ``owner`` as a part of a change.

    :raises InvalidInputError: for permissions that the owner does not have.
    :raises ForbiddenError: when the caller does not have them, or calls by a key that ends earlier.
    :raises ConflictError: when the owner is disabled, or has too many keys.
    """
    check_authentication(change.caller)
    if owner.status != ACTIVE:
        raise ConflictError(f"investigator {owner.id} is {owner.status}, so no key would be valid")
    given = (owner.permissions if permissions is None else permissions) & ALL_PERMISSIONS
    change.check_grant(given)
    if beyond := (given & ~owner.permissions).member_names:
        raise InvalidInputError(
            f"permissions.{beyond[0]} cannot be given to a key of investigator {owner.id}, who does"
            " not have this permission",
            "permissions",
        )
    _check_end(change.caller, expiry)
    query = change.transaction.query
    if len(await query(_SELECT_ACTIVE, (owner.id,))) >= limits.active_api_keys:
        raise ConflictError(
            f"investigator {owner.id} has {limits.active_api_keys} API keys that are valid; revoke"
            " one first"
        )
    [new] = await query(_SELECT_NEW_ID)
    key = make_key(int(new.id))
    expires = None if expiry is None else expiry.format_iso()
    fields = (new.id, owner.id, name, hash_key(key), int(given), expires)
    [row] = await query(_INSERT, fields)
    await change.record(ApiKey.noun, int(new.id), after=row.to_audit_value())
    return NewApiKey(row, key)


async def revoke_all(change: Change, investigator_id: int) -> None:
    """Revoke every key of an investigator, also one that an earlier API made, in a change."""
    for row in await change.transaction.query(_REVOKE_ALL, (investigator_id,)):
        await change.record(ApiKey.noun, int(row.id), before=row.to_audit_value())
    if await change.transaction.query(_REMOVE_ADOPTED, (investigator_id,)):
        await change.record(
            Investigator.noun, investigator_id, before={"apikey": True}, after={"apikey": False}
        )


def _check_end(caller: Caller | None, expiry: Instant | None) -> None:
    """Check that a key made by an API key ends no later than that one."""
    if caller is None or caller.key_expiry is None:
        return
    # a float has the seconds of a date to the microsecond, which is how exact the column is
    end = Instant.from_timestamp(caller.key_expiry + 1e-6)
    if expiry is None or expiry > end:
        raise ForbiddenError(
            f"expires must be at most {end.round('second', mode='floor').format_iso()}, when the"
            " API key of this request expires"
        )


async def _find_owner(change: Change, investigator_id: int) -> ApiKeyOwner:
    for row in await change.transaction.query(_SELECT_OWNER, (investigator_id,)):
        return ApiKeyOwner(investigator_id, row.status, Permission(int(row.permissions)))
    raise NotFoundError(f"there is no investigator {investigator_id}")
