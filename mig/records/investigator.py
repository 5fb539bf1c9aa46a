"""Investigators as they are served."""

from __future__ import annotations

from typing import Any

import msgspec

from mig.records.stored import Row, number
from mig.values import rfc3339

COLUMNS = (
    "i.id::text, i.name, i.pgpfingerprint, i.status, i.createdat::text, i.lastmodified::text"
)

SIGNERS_OF_ACTION = (
    f"(select json_agg(json_build_array({COLUMNS}) order by i.id)::text"
    " from signatures s join investigators i on i.id = s.investigatorid where s.actionid = a.id)"
)
"""A column of a query over ``actions a``: the rows of those who signed it, as JSON."""

_signers = msgspec.json.Decoder(list[tuple[str, str, str | None, str, str, str]])


def value(row: Row) -> dict[str, Any]:
    """The investigator of a row of :data:`COLUMNS`."""
    id, name, fingerprint, status, createdat, lastmodified = row
    return {
        "id": number(id),
        "name": name,
        "pgpfingerprint": fingerprint or "",
        "status": status,
        "createdat": rfc3339(createdat),
        "lastmodified": rfc3339(lastmodified),
    }


def signers(column: str | None) -> list[dict[str, Any]]:
    """The investigators in a column :data:`SIGNERS_OF_ACTION`."""
    return [value(row) for row in _signers.decode(column)] if column else []
