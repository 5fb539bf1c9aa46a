"""The dashboard: what the agents do now, and the last actions."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from mig.records import action
from mig.records.collection import SEPARATOR, Data, Item, encode
from mig.records.stored import RunQuery
from mig.records.urls import DASHBOARD, Urls

LAST_ACTIONS: Final = 10

_COUNTS = """
with seen as materialized (
    select queueloc, version,
        heartbeattime >= now() - interval '5 minutes' as active,
        status in ('heartbeating', 'online') as online,
        status in ('inactive', 'idle') as idle,
        starttime >= now() - interval '24 hours' as started,
        heartbeattime >= now() - interval '7 days' as recent,
        heartbeattime >= now() - interval '7 days'
            and heartbeattime < now() - interval '24 hours' as earlier
    from agents
), endpoints as (
    select
        count(*) filter (where active) as active,
        count(*) filter (where online) as online,
        count(*) filter (where idle) as idle,
        bool_or(started) as started,
        bool_or(recent) as recent,
        bool_or(earlier) as earlier
    from seen group by queueloc
), versions as (
    select version,
        count(*) filter (where active) as active,
        count(*) filter (where online) as online,
        count(*) filter (where idle) as idle
    from seen group by version
)
select
    (select json_build_array(
        count(*) filter (where active), count(*) filter (where started),
        count(*) filter (where online), count(*) filter (where idle)) from seen)::text,
    (select json_build_array(
        count(*) filter (where active > 1), count(*) filter (where online > 0),
        count(*) filter (where idle > 0), count(*) filter (where started and not earlier),
        count(*) filter (where recent and online + idle = 0),
        count(*) filter (where online + idle > 1)) from endpoints)::text,
    (select coalesce(json_agg(json_build_array(version, active, online, idle) order by version),
        '[]') from versions)::text
"""

_ACTIONS = (
    f"select {action.COLUMNS} from actions a"
    f" order by a.starttime desc nulls last, a.id desc limit {LAST_ACTIONS}"
)

_numbers = msgspec.json.Decoder(list[int]).decode
_versions = msgspec.json.Decoder(list[tuple[str, int, int, int]]).decode


def _data(agents: list[int], endpoints: list[int], versions: list[Any]) -> list[Data]:
    """The names of 2014 first, then those of 2017; one that both have stands once."""
    active, started, online, idle = agents
    double, online_endpoints, idle_endpoints, new, disappeared, flapping = endpoints
    by_version = [
        [{"version": row[0], "count": row[kind]} for row in versions if row[kind]]
        for kind in (1, 2, 3)
    ]
    values = {
        "active agents": active,
        "agents versions count": by_version[0],
        "agents started in the last 24 hours": started,
        "endpoints running 2 or more agents": double,
        "endpoints that have disappeared over last 7 days": disappeared,
        "online agents": online,
        "online agents by version": by_version[1],
        "online endpoints": online_endpoints,
        "idle agents": idle,
        "idle agents by version": by_version[2],
        "idle endpoints": idle_endpoints,
        "new endpoints": new,
        "disappeared endpoints": disappeared,
        "flapping endpoints": flapping,
    }
    return [Data(name=name, value=value) for name, value in values.items()]


async def items(query: RunQuery, urls: Urls) -> bytes:
    """The item of counts, and the last actions, newest first; encoded and separated."""
    [(agents, endpoints, versions)] = await query(_COUNTS, ())
    data = _data(_numbers(agents), _numbers(endpoints), _versions(versions))
    rows = await query(_ACTIONS, ())
    actions = action.ActionList(urls)
    await actions.prepare(query, rows)
    counts = encode(Item(href=urls.base + DASHBOARD, data=data))
    return SEPARATOR.join([counts, *map(actions.items, rows)])
