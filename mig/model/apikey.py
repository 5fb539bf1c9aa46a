"""API keys of investigators, without their secrets."""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

from msgspec import UNSET, UnsetType

from mig.model.permissions import Permission
from mig.model.record import Id, StoredRecord, Time, UnreadableRecord, make_raw_id, read_record
from mig.model.row import Columns, id_sql
from mig.model.statement import QueryFunction, Statement
from mig.values import format_time


class ApiKeyRow(NamedTuple):
    """The columns of an API key ``k``."""

    id: Annotated[str, id_sql("k.id")]
    investigatorid: Annotated[str, id_sql("k.investigatorid")]
    name: Annotated[str, "k.name"]
    permissions: Annotated[str, "k.permissions::text"]
    createdat: Annotated[str, "k.createdat::text"]
    expiresat: Annotated[str | None, "k.expiresat::text"]
    revokedat: Annotated[str | None, "k.revokedat::text"]
    lastused: Annotated[
        str | None, "(select u.lastused::text from apikeyuses u where u.keyid = k.id)"
    ]

    def to_audit_value(self) -> dict[str, object]:
        """Return what the audit says about the key."""
        return {
            "name": self.name,
            "permissions": Permission(int(self.permissions)).member_names,
            "expires": None if self.expiresat is None else format_time(self.expiresat),
        }


class ApiKey(StoredRecord, gc=False, omit_defaults=True):
    """An API key; ``key``, its text, is only in the answer to the request that has made it.

    ``permissions`` are those that it may have at most: its investigator must have them, too.
    """

    noun = "apikey"
    investigatorid: Id
    name: str
    permissions: dict[str, bool]
    createdat: Time
    expires: Time | None
    revokedat: Time | UnsetType = UNSET
    lastused: Time | UnsetType = UNSET
    key: str | UnsetType = UNSET

    @classmethod
    def from_row(cls, row: ApiKeyRow, key: str | UnsetType = UNSET) -> ApiKey:
        """Return the API key of a row.

        :raises UnreadableError: for an id or a time that cannot be served.
        """
        return cls(
            make_raw_id(row.id),
            make_raw_id(row.investigatorid),
            row.name,
            Permission(int(row.permissions)).to_json_value(),
            format_time(row.createdat),
            None if row.expiresat is None else format_time(row.expiresat),
            UNSET if row.revokedat is None else format_time(row.revokedat),
            UNSET if row.lastused is None else format_time(row.lastused),
            key,
        )


API_KEY: Final = Columns(ApiKeyRow)

API_KEY_BY_ID: Final = Statement(
    f"""
select {API_KEY.sql}
from apikeys k
where k.id = %s
""",
    API_KEY,
)
# Ids come from a sequence, so the highest id is the newest key.
_API_KEYS: Final = Statement(
    f"""
select {API_KEY.sql}
from apikeys k
where (%(investigator)s::numeric is null or k.investigatorid = %(investigator)s::numeric)
    and (%(below)s::numeric is null or k.id < %(below)s::numeric)
order by k.id desc
limit %(limit)s
""",
    API_KEY,
)


async def list_api_keys(
    query: QueryFunction,
    *,
    investigator_id: int | None = None,
    below: int | None = None,
    limit: int | None = None,
) -> list[ApiKeyRow]:
    """Return the API keys of one investigator, or of all, the newest first.

    :param below: only those with a smaller id.
    :param limit: how many at most.
    """
    parameters = {"investigator": investigator_id, "below": below, "limit": limit}
    return await query(_API_KEYS, parameters)


def read_api_key(row: ApiKeyRow, key: str | UnsetType = UNSET) -> ApiKey | UnreadableRecord:
    """Return the API key of a row, or the placeholder for an unreadable one."""
    return read_record(ApiKey.noun, ApiKey.from_row, row, key)
