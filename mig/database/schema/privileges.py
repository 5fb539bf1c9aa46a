"""What the service may do in a database, as its own user.

A migration grants the role migapi what the service needs. The service may also run as another user
who has these privileges in another way; then it does not matter what migapi lacks
(docs/decisions/0055).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from mig.database.database import Database
from mig.database.schema.catalog import find_missing_grants
from mig.database.schema.declaration import API_ROLE, load_schema
from mig.errors import SchemaError
from mig.model.row import make_row_reader
from mig.model.statement import Statement


class _UserRow(NamedTuple):
    name: str


_USER = Statement("select current_user::text", make_row_reader(_UserRow))


async def ensure_privileges(database: Database) -> None:
    """Check that the current user may do everything that the service does.

    :raises SchemaError: when it may not; the message names the first missing privilege.
    :raises UnavailableError: when the database cannot be reached.
    """
    [user] = await database.query(_USER)
    needed = [
        replace(grant, role=user.name) for grant in load_schema().grants if grant.role == API_ROLE
    ]
    missing = await find_missing_grants(database.query, needed)
    for grant in needed:
        if grant in missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise SchemaError(
                f"{user.name} lacks privileges that this service needs:"
                f" {grant.privilege} on {grant.relation}{more};"
                f" `mig-api migrate` grants them to {API_ROLE}: run it as the owner of the tables,"
                f" and run the service as {API_ROLE} or a member of it"
            )
