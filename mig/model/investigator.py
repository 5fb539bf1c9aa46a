"""Investigators as they are served."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec

from mig.database.prepared import Prepared
from mig.errors import Unreadable
from mig.hypermedia.document import Data, Item, Link, encode, unreadable_item
from mig.hypermedia.urls import Urls
from mig.model.row import Row, Rows, RunQuery, number
from mig.values import rfc3339

COLUMNS = "i.id::text, i.name, i.pgpfingerprint, i.status, i.createdat::text, i.lastmodified::text"

WIDTH = 6

_BY_ID = Prepared(
    "investigator_by_id",
    f"select {COLUMNS}, i.publickey from investigators i where i.id = %(id)s",
    {"id": "numeric"},
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


def item(urls: Urls, value: dict[str, Any], id: str) -> bytes:
    """The encoded item of an investigator."""
    return encode(
        Item(
            href=urls.investigator(id),
            data=[Data(name="investigator", value=value)],
            links=[Link(rel="investigator history", href=urls.actions_of(id))],
        )
    )


async def by_id(query: RunQuery, urls: Urls, id: int) -> bytes | None:
    """The investigator's item with the public key; ``None`` when there is no such investigator."""
    rows = await query(_BY_ID, {"id": id})
    if not rows:
        return None
    *row, publickey = rows[0]
    key = b64encode(publickey or b"").decode()
    return item(urls, {**value(row), "publickey": key}, row[0])


class InvestigatorList:
    """Rows of investigators to encoded items."""

    columns = COLUMNS

    def __init__(self, urls: Urls) -> None:
        self._urls = urls

    async def prepare(self, query: RunQuery, rows: Rows) -> None:
        """Nothing else is needed."""

    def items(self, row: Row) -> bytes:
        """The item of one row, encoded; one that cannot be read says so."""
        try:
            return item(self._urls, value(row[:WIDTH]), row[0])
        except Unreadable as reason:
            return unreadable_item("investigator", self._urls.investigator(row[0]), reason)
