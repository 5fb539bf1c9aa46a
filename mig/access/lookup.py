"""The rows of callers: API keys and investigators as the database has them now.

What each look-up demands of a row is also the condition of a :class:`~mig.model.statement.Guard`,
which checks that the row is still as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final, NamedTuple, Self

from mig.access.caller import Caller
from mig.access.shared import BatchLoader
from mig.model.permissions import ALL_PERMISSIONS, Permission
from mig.model.row import Columns, id_sql
from mig.model.statement import Condition, Guard, QueryFunction, Statement

_IS_VALID_KEY: Final = (
    "k.revokedat is null and (k.expiresat is null or k.expiresat > now()) and i.status = 'active'"
)
_IS_VALID_SIGNER: Final = "i.status = 'active' and i.publickey is not null"


class KeyRow(NamedTuple):
    """A key, with its investigator; ``is_valid`` is whether it may be used now."""

    asked: Annotated[int, "n.id"]
    id: Annotated[int, "k.id"]
    keyhash: Annotated[bytes, "k.keyhash"]
    permissions: Annotated[int, "k.permissions"]
    expiry: Annotated[float | None, "extract(epoch from k.expiresat)::float8"]
    investigatorid: Annotated[str, id_sql("i.id")]
    name: Annotated[str, "i.name"]
    granted: Annotated[int, "i.permissions"]
    is_valid: Annotated[bool, _IS_VALID_KEY]


class _SignerRow(NamedTuple):
    id: Annotated[str, id_sql("i.id")]
    name: Annotated[str, "i.name"]
    permissions: Annotated[int, "i.permissions"]
    digest: Annotated[bytes, "sha256(i.publickey)"]


_KEY: Final = Columns(KeyRow)
_SIGNER: Final = Columns(_SignerRow)

# An id that nobody has costs the same as any other: the key before it is read, and its hash is
# compared with that of the request (docs/decisions/0063).
_KEYS_BY_IDS: Final = Statement(
    f"""
    select {_KEY.sql}
    from unnest(%(ids)s) as n (id)
    cross join lateral (
        select id, investigatorid, keyhash, permissions, expiresat, revokedat
        from apikeys
        where id <= n.id
        order by id desc
        limit 1
    ) k
    join investigators i on i.id = k.investigatorid
    """,
    _KEY,
    name="keys_by_ids",
    types={"ids": "bigint[]"},
)
_KEYS_BY_HASHES: Final = Statement(
    f"""
    select {_KEY.sql}
    from apikeys k
    join investigators i on i.id = k.investigatorid
    cross join (select 0) as n (id)
    where k.keyhash = any(%(hashes)s)
    """,
    _KEY,
    name="keys_by_hashes",
    types={"hashes": "bytea[]"},
)
_SIGNERS_BY_IDS: Final = Statement(
    f"""
    select {_SIGNER.sql}
    from investigators i
    where i.id = any(%(ids)s) and {_IS_VALID_SIGNER}
    """,
    _SIGNER,
    name="signers_by_ids",
    types={"ids": "numeric[]"},
)
_KEY_IS_UNCHANGED: Final = Condition(
    sql=f"""
    from apikeys k
    join investigators i on i.id = k.investigatorid
    where k.id = %(caller_key)s and k.keyhash = %(caller_hash)s
        and k.permissions = %(caller_permissions)s and i.id = %(caller_id)s
        and i.permissions = %(caller_granted)s and {_IS_VALID_KEY}
    """,
    name="key_is_unchanged",
    types={
        "caller_key": "bigint",
        "caller_hash": "bytea",
        "caller_permissions": "bigint",
        "caller_id": "numeric",
        "caller_granted": "bigint",
    },
)
_SIGNER_IS_UNCHANGED: Final = Condition(
    sql=f"""
    from investigators i
    where i.id = %(caller_id)s and i.permissions = %(caller_permissions)s
        and sha256(i.publickey) = %(caller_digest)s and {_IS_VALID_SIGNER}
    """,
    name="signer_is_unchanged",
    types={"caller_id": "numeric", "caller_permissions": "bigint", "caller_digest": "bytea"},
)


@dataclass(frozen=True, kw_only=True)
class FoundCaller:
    """A caller whose row was found; ``secret_digest`` is that of the key that proves it.

    It is the SHA-256 of an API key or of an investigator's public key.
    """

    caller: Caller
    secret_digest: bytes

    @classmethod
    def from_key(cls, row: KeyRow) -> Self:
        """Return the caller with an API key, who has the permissions of key and investigator."""
        keyhash = bytes(row.keyhash)
        guard = Guard(
            _KEY_IS_UNCHANGED,
            {
                "caller_key": row.id,
                "caller_hash": keyhash,
                "caller_permissions": row.permissions,
                "caller_id": int(row.investigatorid),
                "caller_granted": row.granted,
            },
        )
        caller = Caller(
            name=row.name,
            permissions=_read_permissions(row.permissions & row.granted),
            investigator_id=int(row.investigatorid),
            key_id=row.id,
            key_expiry=row.expiry,
            guard=guard,
        )
        return cls(caller=caller, secret_digest=keyhash)

    @classmethod
    def from_signer(cls, row: _SignerRow) -> Self:
        """Return the caller with a token, who has the permissions of the investigator."""
        digest = bytes(row.digest)
        guard = Guard(
            _SIGNER_IS_UNCHANGED,
            {
                "caller_id": int(row.id),
                "caller_permissions": row.permissions,
                "caller_digest": digest,
            },
        )
        caller = Caller(
            name=row.name,
            permissions=_read_permissions(row.permissions),
            investigator_id=int(row.id),
            guard=guard,
        )
        return cls(caller=caller, secret_digest=digest)

    @property
    def checked_caller(self) -> Caller:
        """The caller, for a request that has just found the row."""
        return replace(self.caller, guard=None)


def _read_permissions(stored: int) -> Permission:
    return Permission(stored) & ALL_PERMISSIONS


class CallerLookup:
    """Finds callers in the database; requests that wait at the same time share the queries.

    ``by_key_id`` finds a key or, when there is none with the id, another one: the hash decides.
    ``by_signer_id`` finds active investigators alone.
    """

    def __init__(self, query: QueryFunction) -> None:
        self._query = query
        self.by_key_id = BatchLoader(self._load_by_key_id)
        self.by_key_hash = BatchLoader(self._load_by_key_hash)
        self.by_signer_id = BatchLoader(self._load_by_signer_id)

    async def _load_by_key_id(self, ids: Sequence[int]) -> Mapping[int, KeyRow]:
        rows = await self._query(_KEYS_BY_IDS, {"ids": list(ids)})
        return {row.asked: row for row in rows}

    async def _load_by_key_hash(self, hashes: Sequence[bytes]) -> Mapping[bytes, KeyRow]:
        rows = await self._query(_KEYS_BY_HASHES, {"hashes": list(hashes)})
        return {bytes(row.keyhash): row for row in rows}

    async def _load_by_signer_id(self, ids: Sequence[int]) -> Mapping[int, FoundCaller]:
        rows = await self._query(_SIGNERS_BY_IDS, {"ids": list(ids)})
        return {int(row.id): FoundCaller.from_signer(row) for row in rows}
