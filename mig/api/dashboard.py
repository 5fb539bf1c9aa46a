"""The dashboard: what the agents do now, and the last actions.

Counting reads every agent, and every command of the last actions. In a small fleet that is quick,
and each request is answered by a count that began after it came. In a large one the last count is
kept, its age is shown, and it is renewed in the background: however many ask, there is one count
at a time, and it takes only a small share of a core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mig.hypermedia.document import SEPARATOR, Data, Item, encode
from mig.hypermedia.urls import DASHBOARD, Urls
from mig.model import action
from mig.model.row import Row, Rows, RunQuery

LAST_ACTIONS: Final = 10

MOST_ALWAYS_COUNTED: Final = 60_000
"""Up to so many agents and commands of the last actions together, no count is kept."""

PAUSE: Final = 20
"""A kept count is renewed after so many times the seconds that it took."""

LONGEST_KEPT_SECONDS: Final = 300.0
"""Nobody gets an older count: who asks then waits for a new one."""

_COUNTS = """
with seen as (
    select version,
        count(*) as agents,
        count(*) filter (where heartbeattime >= now() - interval '5 minutes') as active,
        count(*) filter (where status in ('heartbeating', 'online')) as online,
        count(*) filter (where status in ('inactive', 'idle')) as idle,
        count(*) filter (where starttime >= now() - interval '24 hours') as started,
        bool_or(heartbeattime >= now() - interval '7 days') as recent,
        bool_or(heartbeattime >= now() - interval '7 days'
            and heartbeattime < now() - interval '24 hours') as earlier
    from agents group by grouping sets ((version), (queueloc))
)
select version,
    sum(agents)::bigint, sum(active)::bigint, sum(started)::bigint,
    sum(online)::bigint, sum(idle)::bigint,
    count(*) filter (where active > 1), count(*) filter (where online > 0),
    count(*) filter (where idle > 0), count(*) filter (where started > 0 and not earlier),
    count(*) filter (where recent and online + idle = 0),
    count(*) filter (where online + idle > 1)
from seen group by version order by version nulls first
"""
"""Agents once by version and once by endpoint: a row for each version, and, first, one without a
version that says how many endpoints there are of each kind."""


_ACTIONS = (
    f"select {action.COLUMNS} from actions a"
    f" order by a.starttime desc nulls last, a.id desc limit {LAST_ACTIONS}"
)


@dataclass(frozen=True, kw_only=True)
class _Counted:
    """What one count found: the data that it becomes, and the counters of the last actions.

    ``began`` and ``seconds`` say when, and how long it took; ``large``, that it is to be kept.
    """

    data: list[Data]
    counters: dict[str, dict[str, int]]
    began: float
    seconds: float
    large: bool


class Dashboard:
    """Answers with the dashboard's items.

    :param clock: the reactor, or what has its ``seconds``.
    """

    log = Logger()

    def __init__(self, clock: Any, query: RunQuery, urls: Urls) -> None:
        self._clock = clock
        self._query = query
        self._urls = urls
        self._kept: _Counted | None = None
        self._counting = False
        self._waiting: list[Deferred[_Counted]] = []

    async def items(self) -> bytes:
        """The item of counts, and the last actions, newest first; encoded and separated."""
        counted = self._usable() or await self._next()
        rows = await self._query(_ACTIONS, ())
        await self._count_new_actions(counted, rows)
        actions = action.ActionList(self._urls, counted.counters)
        counts = encode(Item(href=self._urls.base + DASHBOARD, data=self._aged(counted)))
        return SEPARATOR.join([counts, *map(actions.items, rows)])

    def _usable(self) -> _Counted | None:
        """The last count, if it is kept and not too old; renewed when it is time."""
        kept = self._kept
        if kept is None or not kept.large:
            return None
        age = self._clock.seconds() - kept.began
        if age > PAUSE * kept.seconds:
            self._begin()
        return kept if age <= LONGEST_KEPT_SECONDS else None

    def _next(self) -> Deferred[_Counted]:
        """The next count to begin; who leaves stops waiting, the count goes on."""
        waiter: Deferred[_Counted] = Deferred()
        self._waiting.append(waiter)
        self._begin()
        return waiter

    def _begin(self) -> None:
        if not self._counting:
            self._counting = True
            Deferred.fromCoroutine(self._run())

    async def _run(self) -> None:
        waiting, self._waiting = self._waiting, []
        outcome: _Counted | Failure
        try:
            outcome = self._kept = await self._count()
            if outcome.large:
                waiting, self._waiting = waiting + self._waiting, []
        except Exception as reason:
            outcome = Failure()
            if not waiting:
                self.log.warn("could not renew the dashboard's counts: {reason}", reason=reason)
        self._counting = False
        if self._waiting:
            self._begin()
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(outcome)

    async def _count(self) -> _Counted:
        began = self._clock.seconds()
        agents, data = _data(await self._query(_COUNTS, ()))
        rows = await self._query(_ACTIONS, ())
        statuses = await action.statuses_by_id(self._query, [row[0] for row in rows])
        commands = sum(sum(numbers.values()) for numbers in statuses.values())
        return _Counted(
            data=data,
            counters={id: action.counters(numbers) for id, numbers in statuses.items()},
            began=began,
            seconds=self._clock.seconds() - began,
            large=agents + commands > MOST_ALWAYS_COUNTED,
        )

    async def _count_new_actions(self, counted: _Counted, rows: Rows) -> None:
        """Count the commands of actions that came since, once for each of them."""
        if new := [row[0] for row in rows if row[0] not in counted.counters]:
            counted.counters.update(await action.counters_by_id(self._query, new))

    def _aged(self, counted: _Counted) -> list[Data]:
        """The data of a count, and how old it is when it is one that is kept."""
        if not counted.large:
            return counted.data
        age = Data(
            name="counts age",
            value=round(self._clock.seconds() - counted.began),
            prompt="seconds since agents, endpoints and the commands of actions were counted",
        )
        return [*counted.data, age]


def _data(rows: Rows) -> tuple[int, list[Data]]:
    """How many agents there are, and what is said of them.

    The names of 2014 come first, then those of 2017; one that both have stands once.
    """
    endpoints, versions = (rows[0][6:], rows[1:]) if rows else ([0] * 6, [])
    agents, active, started, online, idle = (sum(row[n] for row in versions) for n in range(1, 6))
    double, online_endpoints, idle_endpoints, new, disappeared, flapping = endpoints
    values = {
        "active agents": active,
        "agents versions count": _by_version(versions, 2),
        "agents started in the last 24 hours": started,
        "endpoints running 2 or more agents": double,
        "endpoints that have disappeared over last 7 days": disappeared,
        "online agents": online,
        "online agents by version": _by_version(versions, 4),
        "online endpoints": online_endpoints,
        "idle agents": idle,
        "idle agents by version": _by_version(versions, 5),
        "idle endpoints": idle_endpoints,
        "new endpoints": new,
        "disappeared endpoints": disappeared,
        "flapping endpoints": flapping,
    }
    return agents, [Data(name=name, value=value) for name, value in values.items()]


def _by_version(versions: Sequence[Row], column: int) -> list[dict[str, Any]]:
    return [{"version": row[0], "count": row[column]} for row in versions if row[column]]
