"""Commands as they are served, with the action and the agent they belong to."""

from __future__ import annotations

from mig.database.prepared import Prepared
from mig.errors import Unreadable
from mig.hypermedia.document import encode, unreadable_item
from mig.hypermedia.urls import Urls
from mig.model import action, agent
from mig.model.row import Lookup, Row, Rows, RunQuery, number
from mig.values import rfc3339

INLINE_BYTES = 262_144
LARGEST_BYTES = 33_554_432

_LARGE = (
    "pg_column_size(c.results) > 32768"  # cheap, and no compression is better than one to eight
    f" and octet_length(c.results::text) > {INLINE_BYTES}"
)
RESULTS = (
    f"case when {_LARGE} then null else c.results end::text,"
    f" case when {_LARGE} then octet_length(c.results::text) end"
)
"""Two columns: the results, and, where these are too large to come with a page, their size."""

_RESULTS_BY_ID = "select results::text from commands where id = %s"

COLUMNS = (
    "c.id::text, c.actionid::text, c.agentid::text, c.status, c.starttime::text,"
    f" c.finishtime::text, {RESULTS}"
)
WIDTH = 8

_BY_ID = Prepared(
    "command_by_id",
    f"select {COLUMNS}, {action.COLUMNS}, {agent.COLUMNS} from commands c"
    " left join actions a on a.id = c.actionid left join agents g on g.id = c.agentid"
    " where c.id = %(id)s",
    {"id": "numeric"},
)


def _action(row: Row) -> bytes:
    return encode(action.value(row, counters={}))


def _agent(row: Row) -> bytes:
    return encode(agent.value(row))


async def by_id(query: RunQuery, urls: Urls, id: int) -> bytes | None:
    """The command's item, encoded; ``None`` when there is no such command."""
    rows = await query(_BY_ID, {"id": id})
    if not rows:
        return None
    row, rest = rows[0][:WIDTH], rows[0][WIDTH:]
    actions, agents = rest[: action.WIDTH], rest[action.WIDTH :]
    try:
        return item(
            urls,
            await with_results(query, row) if row[-1] else row,
            _action(actions) if actions[0] is not None else b"{}",
            _agent(agents) if agents[0] is not None else b"{}",
        )
    except Unreadable as reason:
        return unreadable_item("command", urls.command(row[0]), reason)


async def with_results(query: RunQuery, row: Row) -> Row:
    """A row whose last columns are :data:`RESULTS` with the results that were left out of it."""
    if row[-1] > LARGEST_BYTES:
        return row
    [(results,)] = await query(_RESULTS_BY_ID, (row[0],))
    return (*row[:-2], results, None)


def check_size(size: int | None) -> None:
    """Refuse results that were left out.

    :raises Unreadable: always, when there is a *size*.
    """
    if size is not None:
        raise Unreadable(f"its results have {size} bytes, more than {LARGEST_BYTES}")


def item(urls: Urls, row: Row, action: bytes, agent: bytes) -> bytes:
    """The encoded item of a row of :data:`COLUMNS` beside its encoded action and agent."""
    id, actionid, _, status, starttime, finishtime, results, size = row[:WIDTH]
    number(id)
    check_size(size)
    links = b""
    if actionid is not None:
        links = b',"links":[{"rel":"action","href":"%b"}]' % urls.action(actionid).encode()
    return (
        b'{"href":"%b","data":[{"name":"command","value":{"id":%b,"action":%b,"agent":%b,'
        b'"status":%b,"results":%b,"starttime":"%b","finishtime":"%b"}}]%b}'
        % (
            urls.command(id).encode(),
            id.encode(),
            action,
            agent,
            encode(status),
            b"[]" if results is None else results.encode(),
            rfc3339(starttime).encode(),
            rfc3339(finishtime).encode(),
            links,
        )
    )


class CommandList:
    """Rows of commands to encoded items: the Collection+JSON form of a command search."""

    columns = COLUMNS

    def __init__(self, urls: Urls) -> None:
        self._urls = urls
        self._actions = Lookup(action.BY_IDS, _action, bound=1_000)
        self._agents = Lookup(agent.BY_IDS, _agent, bound=2_000)

    async def prepare(self, query: RunQuery, rows: Rows) -> None:
        """Load the actions and agents that *rows* belong to."""
        await self._actions.load(query, (row[1] for row in rows))
        await self._agents.load(query, (row[2] for row in rows))

    def items(self, row: Row) -> bytes:
        """The item of one row, encoded; one that cannot be read says so."""
        try:
            action = self._actions.get(row[1]) or b"{}"
            agent = self._agents.get(row[2]) or b"{}"
            return item(self._urls, row, action, agent)
        except Unreadable as reason:
            return unreadable_item("command", self._urls.command(row[0]), reason, target="")
