"""Actions as they are served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mig.database.prepared import Prepared
from mig.errors import Unreadable
from mig.hypermedia.document import Data, Item, Link, encode, unreadable_item
from mig.hypermedia.urls import Urls
from mig.model.investigator import SIGNERS_OF_ACTION, signers
from mig.model.row import Row, Rows, RunQuery, id_array, number, stored_json
from mig.values import UNSET_TIME, rfc3339

OWN_COLUMNS = (
    "a.id::text, a.name, a.target, a.description::text, a.threat::text, a.validfrom::text,"
    " a.expireafter::text, a.operations::text, a.pgpsignatures::text, a.status,"
    " a.starttime::text, a.finishtime::text, a.lastupdatetime::text, a.syntaxversion"
)
COLUMNS = f"{OWN_COLUMNS}, {SIGNERS_OF_ACTION}"
WIDTH = 15

BY_IDS = f"select {COLUMNS} from actions a where a.id = any(%s::numeric[])"

LINKED_COMMANDS = 1_000
_BY_ID = Prepared(
    "action_by_id",
    f"select {COLUMNS}, (select json_object_agg(s.status, s.count)::text from (select status,"
    " count(*) from commands where actionid = a.id group by status) s),"
    " (select json_agg(json_build_array(c.id::text, c.name))::text from (select c.id, g.name"
    " from commands c left join agents g on g.id = c.agentid where c.actionid = a.id"
    f" order by c.starttime, c.id limit {LINKED_COMMANDS + 1}) c)"
    " from actions a where a.id = %(id)s",
    {"id": "numeric"},
)
_STATUSES = (
    "select a.id::text, c.status, c.count from unnest(%s::numeric[]) as a (id),"
    " lateral (select status, count(*) from commands where actionid = a.id group by status) c"
)
_signatures = msgspec.json.Decoder(list[str] | None).decode
_counts = msgspec.json.Decoder(dict[str, int]).decode
_linked = msgspec.json.Decoder(list[tuple[str, str | None]]).decode
_DONE = ("success", "cancelled", "expired", "failed", "timeout")


def value(row: Row, counters: dict[str, int]) -> dict[str, Any]:
    """The action of a row of :data:`COLUMNS`."""
    (
        id,
        name,
        target,
        description,
        threat,
        validfrom,
        expireafter,
        operations,
        pgpsignatures,
        status,
        starttime,
        finishtime,
        lastupdatetime,
        syntaxversion,
        investigators,
    ) = row
    return {
        "id": number(id),
        "name": name,
        "target": target,
        "description": stored_json(description),
        "threat": stored_json(threat),
        "validfrom": rfc3339(validfrom),
        "expireafter": rfc3339(expireafter),
        "operations": stored_json(operations, "[]"),
        "pgpsignatures": _pgpsignatures(pgpsignatures),
        "investigators": signers(investigators),
        "status": status or "",
        "starttime": rfc3339(starttime),
        "finishtime": rfc3339(finishtime),
        "lastupdatetime": rfc3339(lastupdatetime),
        "counters": counters,
        "syntaxversion": syntaxversion or 0,
    }


def _pgpsignatures(column: str | None) -> list[str]:
    """The signatures, in a column that may be a varchar, of which PostgreSQL checks nothing."""
    try:
        return _signatures(column or "[]") or []
    except msgspec.MsgspecError:
        raise Unreadable("its signatures are no array of strings") from None


def counters(statuses: dict[str, int]) -> dict[str, int]:
    """An action's counters from the number of its commands of each status; zeros are left out."""
    counts = {
        "sent": sum(statuses.values()) - statuses.get("prepared", 0),
        "done": sum(statuses.get(status, 0) for status in _DONE),
        "inflight": statuses.get("sent", 0),
        **{status: statuses.get(status, 0) for status in _DONE},
    }
    return {name: count for name, count in counts.items() if count}


async def statuses_by_id(query: RunQuery, ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many commands of each status several actions have."""
    statuses: dict[str, dict[str, int]] = {id: {} for id in ids}
    for id, status, count in await query(_STATUSES, (id_array(ids),)):
        statuses.setdefault(id, {})[status] = count
    return statuses


async def counters_by_id(query: RunQuery, ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """The counters of several actions."""
    found = await statuses_by_id(query, ids)
    return {id: counters(statuses) for id, statuses in found.items()}


def item(
    urls: Urls, row: Row, counters: dict[str, int], links: Sequence[Link] | None = None
) -> bytes:
    """The encoded item of a row of :data:`COLUMNS`."""
    data = [Data(name="action", value=value(row, counters))]
    return encode(Item(href=urls.action(row[0]), data=data, links=links))


async def by_id(query: RunQuery, urls: Urls, id: int) -> bytes | None:
    """The action's item with links to its commands; ``None`` when there is no such action."""
    rows = await query(_BY_ID, {"id": id})
    if not rows:
        return None
    *row, statuses, commands = rows[0]
    linked = _linked(commands or "[]")
    links = [
        Link(rel=f"Command ID {command} on agent {agent}", href=urls.command(command))
        for command, agent in linked[:LINKED_COMMANDS]
    ]
    if len(linked) > LINKED_COMMANDS:
        everything = [("type", "command"), ("actionid", str(id)), ("after", UNSET_TIME)]
        links.append(Link(rel="commands", href=urls.search(everything)))
    return item(urls, row, counters(_counts(statuses or "{}")), links or None)


class ActionList:
    """Rows of actions to encoded items.

    :param counters: the counters of actions by id, for who does without :meth:`prepare`.
    """

    columns = COLUMNS

    def __init__(self, urls: Urls, counters: dict[str, dict[str, int]] | None = None) -> None:
        self._urls = urls
        self._counters = counters or {}

    async def prepare(self, query: RunQuery, rows: Rows) -> None:
        """Count the commands of the actions in *rows*."""
        self._counters = await counters_by_id(query, [row[0] for row in rows]) if rows else {}

    def items(self, row: Row) -> bytes:
        """The item of one row, encoded; one that cannot be read says so."""
        try:
            return item(self._urls, row[:WIDTH], self._counters.get(row[0], {}))
        except Unreadable as reason:
            return unreadable_item("action", self._urls.action(row[0]), reason)
