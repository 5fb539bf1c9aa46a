"""What the service may do in a database, as its own user.

A migration grants the role migapi what the service needs. The service may also run as another user
who has these privileges in another way; then it does not matter what migapi lacks
(docs/decisions/0055).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from mig.database.database import Database
from mig.database.schema.catalog import find_missing_grants
from mig.database.schema.declaration import API_ROLE, Grant, load_schema
from mig.errors import SchemaError
from mig.model.row import make_row_reader
from mig.model.statement import Statement

MAX_LISTED_PRIVILEGES: Final = 5


class _UserRow(NamedTuple):
    name: str


_USER = Statement("select current_user::text", make_row_reader(_UserRow))


async def ensure_privileges(database: Database) -> str:
    """Check that the current user may do everything that the service does; return its name.

    :raises SchemaError: when it may not; the message names the missing privileges.
    :raises UnavailableError: when the database cannot be reached.
    """
    [user] = await database.query(_USER)
    needed = [
        replace(grant, role=user.name, columns=columns)
        for grant in load_schema().grants
        if grant.role == API_ROLE
        for columns in _split_columns(grant)
    ]
    missing = await find_missing_grants(database.query, needed)
    if missing:
        raise SchemaError(
            f"{user.name} lacks privileges that this service needs:"
            f" {_list_privileges([grant for grant in needed if grant in missing])};"
            f" `mig-api migrate` grants them to {API_ROLE}: run it as the owner of the tables,"
            f" and run the service as {API_ROLE} or a member of it"
        )
    return user.name


def _split_columns(grant: Grant) -> list[tuple[str, ...]]:
    """Return the columns of a grant one by one, so that each can be missing."""
    return [(name,) for name in grant.columns] if grant.columns else [()]


def _list_privileges(grants: Sequence[Grant]) -> str:
    """Return the first privileges, each with its columns, and how many more there are."""
    columns: dict[str, list[str]] = {}
    for grant in grants:
        columns.setdefault(f"{grant.privilege}{{}} on {grant.relation}", []).extend(grant.columns)
    names = [
        text.format(f" ({', '.join(names)})" if names else "") for text, names in columns.items()
    ]
    more = len(names) - MAX_LISTED_PRIVILEGES
    return ", ".join(names[:MAX_LISTED_PRIVILEGES]) + (f" and {more} more" if more > 0 else "")
