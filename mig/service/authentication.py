"""What the log says at the start about who needs credentials."""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

from mig.model.permissions import Permission
from mig.model.row import Columns, id_sql
from mig.model.statement import QueryFunction, Statement

OFF_WARNING: Final = (
    "authentication is off: every account of this host that can connect acts with all permissions;"
    " a Unix socket with mode=660 is better"
)

_ADMINISTRATION: Final = Permission.INVESTIGATOR_CREATE | Permission.INVESTIGATOR_UPDATE


class _AdministratorRow(NamedTuple):
    id: Annotated[str, id_sql("id")]
    name: Annotated[str, "name"]


_ADMINISTRATOR: Final = Columns(_AdministratorRow)
_ADMINISTRATORS: Final = Statement(
    f"""
    select {_ADMINISTRATOR.sql}
    from investigators
    where status = 'active' and permissions & %s <> 0
    order by id
    """,
    _ADMINISTRATOR,
)


async def describe_administrators(query: QueryFunction) -> str:
    """Return the line that says who may add and change investigators."""
    rows = await query(_ADMINISTRATORS, (int(_ADMINISTRATION),))
    if not rows:
        return (
            "authentication is on, and no active investigator may add or change investigators; use"
            " `mig-api investigator permissions ID --set admin`"
        )
    names = ", ".join(f"{row.name!a} ({row.id})" for row in rows)
    return f"authentication is on; these investigators may add or change others: {names}"
