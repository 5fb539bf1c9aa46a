"""The agents that fulfil the condition of a client.

The condition runs before the search, in a transaction of its own (docs/decisions/0057).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from mig.database.database import Database
from mig.errors import InvalidInputError, QueryCancelledError, StatementError
from mig.limits import Limits
from mig.model.row import id_sql, make_row_reader
from mig.model.statement import Statement

MAX_MESSAGE_CHARACTERS: Final = 500
"""The length of PostgreSQL's message for the client: it may repeat a stored value."""

_NO_COLUMN: Final = re.compile(r'column "[^"]*" does not exist')

SLICE_AGENTS: Final = 40_000
"""How many ids are read and sent at once: more would keep other requests waiting."""


class _SliceRow(NamedTuple):
    agent_count: int
    ids: str


# the table has no alias: conditions of 2014 say agents.os
_BEFORE_CONDITION: Final = f"""
select count(*), array_agg({id_sql("id")})::text from (
    select id, row_number() over () as place from (
        select distinct on (queueloc) id from agents where ("""  # noqa: S608 - a constant
_AFTER_CONDITION: Final = f""")
        and status in ('online', 'idle', 'heartbeating')
        order by queueloc, heartbeattime desc, id desc limit {{limit:d}}
    ) found
) numbered group by (place - 1) / {SLICE_AGENTS}
"""


async def find_targeted_agents(
    database: Database, target: str, *, client: str, limits: Limits
) -> list[str]:
    """Return the ids of the agents that fulfil ``target``, as PostgreSQL arrays in text form.

    They are online, idle or heartbeating, and each is the one with the newest heartbeat of its
    queue.

    :param target: what :func:`mig.search.target.parse_target` returned.
    :raises InvalidInputError: when PostgreSQL refuses the condition, it takes too long, or too many
        agents fulfil it.
    :raises UnavailableError: when it cannot be evaluated now.
    """
    sql = f"{_BEFORE_CONDITION}{target}{_AFTER_CONDITION.format(limit=limits.targeted_agents + 1)}"
    statement = Statement(sql, make_row_reader(_SliceRow))
    try:
        slices = await database.query_restricted(statement, client=client)
    except QueryCancelledError:
        # not 503, which clients take as a reason to try again
        raise InvalidInputError(
            f"target: the condition took more than {limits.restricted_seconds:g} s", "target"
        ) from None
    except StatementError as reason:
        description = _describe_error(reason, target)
        if _NO_COLUMN.match(description):  # of PostgreSQL, "web1" is a column and 'web1' a text
            description += "; a text has single quotes: name = 'web1'"
        raise InvalidInputError(f"target: {description}", "target") from None
    if sum(each.agent_count for each in slices) > limits.targeted_agents:
        raise InvalidInputError(
            f"target must be fulfilled by at most {limits.targeted_agents} agents", "target"
        )
    return [each.ids for each in slices]


def _describe_error(reason: StatementError, target: str) -> str:
    message = str(reason)[:MAX_MESSAGE_CHARACTERS]
    if reason.position is None:
        return message
    position = reason.position - len(_BEFORE_CONDITION)
    if 1 <= position <= len(target):
        return f"{message} (at character {position})"
    return f"{message} (at the end of the condition)" if position > 0 else message
