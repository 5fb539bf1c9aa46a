"""API keys that an earlier API made: any text, stored as a slow hash of each investigator's own.

Such a key does not say whose it is, so it is compared with all of them. Once it has been found it
becomes an ordinary row of ``apikeys``, which is found by its SHA-256 from then on.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import pbkdf2_hmac
from typing import Annotated, Final, NamedTuple

from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from mig.access.audit import Actor, record_change
from mig.access.failures import FailureCounter
from mig.access.shared import BatchLoader, SharedJobs
from mig.database.database import Database
from mig.errors import DuplicateValueError, UnavailableError
from mig.fair_queue import FairSemaphore
from mig.limits import Limits
from mig.model.permissions import ALL_PERMISSIONS
from mig.model.row import Columns, id_sql, make_row_reader
from mig.model.statement import Statement
from mig.reactor import Reactor

ROUNDS: Final = 4_096
HASH_BYTES: Final = 32
SALT_BYTES: Final = 16
ADOPTED_NAME: Final = "adopted"


class _OldKeyRow(NamedTuple):
    id: Annotated[str, id_sql("id")]
    name: Annotated[str, "name"]
    apikey: Annotated[bytes, "apikey"]
    apisalt: Annotated[bytes, "apisalt"]


_OLD_KEY: Final = Columns(_OldKeyRow)
_OLD_KEYS: Final = Statement(
    f"""
    select {_OLD_KEY.sql}
    from investigators
    where status = 'active' and octet_length(apikey) = {HASH_BYTES}
        and octet_length(apisalt) = {SALT_BYTES}
    order by id
    limit %s
    """,
    _OLD_KEY,
)


class _NewIdRow(NamedTuple):
    id: int


# the row of a key that another daemon has moved in the meantime no longer has it
_CLEAR_OLD_KEY: Final = Statement(
    """
    update investigators
    set apikey = null, apisalt = null
    where id = %s and apikey = %s and status = 'active'
    returning 0
    """,
    make_row_reader(_NewIdRow),
)
_INSERT_KEY: Final = Statement(
    """
    insert into apikeys (investigatorid, name, keyhash, permissions)
    values (%s, %s, %s, %s)
    returning id
    """,
    make_row_reader(_NewIdRow),
)


class KeyAdopter:
    """Finds the owner of a key that an earlier API made, and replaces it by a hash of our form.

    :param limits: ``adopted_keys`` and ``waiting_adopted_keys``.
    """

    log = Logger()

    def __init__(
        self, reactor: Reactor, database: Database, failures: FailureCounter, limits: Limits
    ) -> None:
        self._reactor = reactor
        self._database = database
        self._failures = failures
        self._max_keys = limits.adopted_keys
        self._old_keys: BatchLoader[None, Sequence[_OldKeyRow]] = BatchLoader(self._load_old_keys)
        self._jobs: SharedJobs[tuple[bytes, str], bool] = SharedJobs()
        # one core at most, and no more threads than that
        self._turns = FairSemaphore(
            1, max_waiting=limits.waiting_adopted_keys, make_overload_error=_make_overload_error
        )
        self._has_warned = False

    async def adopt(self, digest: bytes, text: str, client: str, actor: Actor) -> None:
        """Make a row of ``apikeys`` for a key, if it is one of an active investigator.

        :param digest: the SHA-256 of the text.
        :param client: the client group, for which it counts as a failure if it is not.
        :param actor: who sent it, with the investigator still unknown.
        :raises TooManyRequestsError: when the client has failed too often.
        :raises UnavailableError: when it cannot be checked or stored now.
        """
        follows = self._jobs.is_running((digest, client))
        is_adopted = await self._jobs.run(
            (digest, client), lambda: self._adopt(digest, text.encode("latin-1"), client, actor)
        )
        if follows and not is_adopted:  # the job counts for the request that started it
            self._failures.record_failure(client, None)

    async def _adopt(self, digest: bytes, key: bytes, client: str, actor: Actor) -> bool:
        """Adopt a key as :meth:`adopt` does; return whether it is one of an investigator."""
        self._failures.check(client, None)
        await self._turns.acquire((client,))
        try:
            self._failures.check(client, None)  # it may have failed while it waited
            owner = await self._find_owner(key)
            if owner is None:
                self._failures.record_failure(client, None)
                return False
        finally:
            self._turns.release()
        await self._store_key(owner, digest, actor)
        return True

    async def _load_old_keys(self, _: Sequence[None]) -> Mapping[None, Sequence[_OldKeyRow]]:
        rows = await self._database.query(_OLD_KEYS, (self._max_keys + 1,))
        if len(rows) <= self._max_keys:
            self._has_warned = False
            return {None: rows}
        if not self._has_warned:
            self._has_warned = True
            self.log.warn(
                "more than {count} investigators have an API key of an earlier API, so none of"
                " these is accepted; make new ones with mig-api apikey create",
                count=self._max_keys,
            )
        return {}

    async def _find_owner(self, key: bytes) -> _OldKeyRow | None:
        rows = await self._old_keys.find(None)
        if not rows:
            return None
        pool = self._reactor.getThreadPool()
        return await deferToThreadPool(self._reactor, pool, _compare_with_all, rows, key)

    async def _store_key(self, owner: _OldKeyRow, digest: bytes, actor: Actor) -> None:
        """Move a key into ``apikeys``, unless another daemon has just done so."""
        owner_id = int(owner.id)
        try:
            async with self._database.transaction() as transaction:
                if not await transaction.query(_CLEAR_OLD_KEY, (owner_id, bytes(owner.apikey))):
                    return
                values = (owner_id, ADOPTED_NAME, digest, int(ALL_PERMISSIONS))
                [key] = await transaction.query(_INSERT_KEY, values)
                await record_change(
                    transaction,
                    replace(actor, caller=owner_id, callername=owner.name, key=key.id),
                    "apikey",
                    key.id,
                    after={"investigatorid": owner_id, "name": ADOPTED_NAME},
                )
        except DuplicateValueError:  # two investigators have the same text: the first row counts
            return


def _compare_with_all(rows: Sequence[_OldKeyRow], key: bytes) -> _OldKeyRow | None:
    """Return the row whose hash is that of ``key``; it takes as long whichever that is."""
    matches = [
        row
        for row in rows
        if hmac.compare_digest(
            pbkdf2_hmac("sha256", key, bytes(row.apisalt), ROUNDS, HASH_BYTES), bytes(row.apikey)
        )
    ]
    return matches[0] if matches else None


def _make_overload_error() -> UnavailableError:
    return UnavailableError("API keys cannot be checked now", "too many keys wait to be compared")
