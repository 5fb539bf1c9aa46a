"""Who may change investigators, and whether anyone still can."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Final, NamedTuple

from mig.access.adoption import HASH_BYTES, SALT_BYTES
from mig.model.permissions import Permission
from mig.model.row import Columns, id_sql, make_row_reader
from mig.model.statement import QueryFunction, Statement

_LISTED: Final = Permission.INVESTIGATOR_CREATE | Permission.INVESTIGATOR_UPDATE


class AdministratorRow(NamedTuple):
    """An active investigator who may create or change investigators.

    ``has_way_in`` is whether credentials that do not expire let this investigator change others: a
    certificate, a key that an earlier API made, or an API key with the permission.
    """

    id: Annotated[str, id_sql("i.id")]
    name: Annotated[str, "i.name"]
    permissions: Annotated[str, f"(i.permissions & {int(_LISTED)})::text"]
    has_way_in: Annotated[
        bool,
        f"""coalesce(
            octet_length(i.publickey) > 0
                or octet_length(i.apikey) = {HASH_BYTES} and octet_length(i.apisalt) = {SALT_BYTES},
            false
        ) or exists (
            select from apikeys k
            where k.investigatorid = i.id and k.revokedat is null and k.expiresat is null
                and k.permissions & {int(Permission.INVESTIGATOR_UPDATE)} <> 0
        )""",
    ]


_ADMINISTRATOR: Final = Columns(AdministratorRow)

ADMINISTRATORS: Final = Statement(
    f"""
select {_ADMINISTRATOR.sql}
from investigators i
where i.status = 'active' and i.permissions & {int(_LISTED)} <> 0
order by i.id
""",
    _ADMINISTRATOR,
)
"""Every active investigator who may create or change investigators."""


class _CountRow(NamedTuple):
    active: int
    administrators: int


_COUNT: Final = Statement(
    f"""
select count(*), count(*) filter (
    where permissions & {int(Permission.INVESTIGATOR_UPDATE)} <> 0
)
from investigators
where status = 'active'
""",
    make_row_reader(_CountRow),
)


async def count_administrators(query: QueryFunction) -> tuple[int, int]:
    """Return how many investigators are active, and how many of them may change investigators."""
    [counts] = await query(_COUNT)
    return counts


def can_administer(administrators: Collection[AdministratorRow]) -> bool:
    """Return whether one of them may change investigators and has a way in."""
    return any(
        Permission.INVESTIGATOR_UPDATE in Permission(int(row.permissions)) and row.has_way_in
        for row in administrators
    )


def describe_administrators(administrators: Sequence[AdministratorRow]) -> str:
    """Return the line of the log that says who may create or change investigators."""
    names = [
        f"{row.id} {row.name!r} ({', '.join(Permission(int(row.permissions)).member_names)})"
        for row in administrators
    ]
    if not names:
        names.append("nobody (`mig-api investigator permissions ID --set admin` makes somebody)")
    return f"who may create or change investigators: {'; '.join(names)}"
