"""The dashboard: the state of the agents, and the last actions.

A count reads every agent, and every command of the last actions. In a small fleet that is quick,
and each request gets a count that began after the request arrived. In a large fleet the last count
is kept, served with its age, and renewed in the background. There is one count at a time, however
many requests there are, and counting takes only a small share of a core (docs/decisions/0018).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mig.access.caller import Caller
from mig.api.responder import Responder, parse_collection_query
from mig.formats.format import DocumentFormat, DocumentTail
from mig.hypermedia.document import Data, Item
from mig.hypermedia.urls import DASHBOARD
from mig.limits import Limits
from mig.model.action import (
    ACTION,
    Action,
    ActionRow,
    count_commands_by_status,
    load_counters,
    make_counters,
)
from mig.model.row import Columns
from mig.model.statement import QueryFunction, Statement
from mig.search.records import ActionEncoder
from mig.tracing import name_no_statements
from mig.web.request import Request

MAX_LAST_ACTIONS: Final = 10


class _CountRow(NamedTuple):
    """The counts of one version of agents, or of all endpoints (see ``_COUNTS``)."""

    version: Annotated[str | None, "version"]
    agents: Annotated[int, "sum(agents)::bigint"]
    active: Annotated[int, "sum(active)::bigint"]
    started: Annotated[int, "sum(started)::bigint"]
    online: Annotated[int, "sum(online)::bigint"]
    idle: Annotated[int, "sum(idle)::bigint"]
    double: Annotated[int, "count(*) filter (where active > 1)"]
    online_endpoints: Annotated[int, "count(*) filter (where online > 0)"]
    idle_endpoints: Annotated[int, "count(*) filter (where idle > 0)"]
    new: Annotated[int, "count(*) filter (where started > 0 and not earlier)"]
    disappeared: Annotated[int, "count(*) filter (where recent and online + idle = 0)"]
    flapping: Annotated[int, "count(*) filter (where online + idle > 1)"]


_COUNT = Columns(_CountRow)
_COUNTS = Statement(
    f"""
with agent_groups as (
    select version,
        count(*) as agents,
        count(*) filter (where heartbeattime >= now() - interval '5 minutes') as active,
        count(*) filter (where status in ('heartbeating', 'online')) as online,
        count(*) filter (where status in ('inactive', 'idle')) as idle,
        count(*) filter (where starttime >= now() - interval '24 hours') as started,
        bool_or(heartbeattime >= now() - interval '7 days') as recent,
        bool_or(
            heartbeattime >= now() - interval '7 days'
            and heartbeattime < now() - interval '24 hours'
        ) as earlier
    from agents
    group by grouping sets ((version), (queueloc))
)
select {_COUNT.sql}
from agent_groups
group by version
order by version nulls first
""",
    _COUNT,
)
"""Agents grouped by version and, in the same pass, by endpoint. The first row has no version: it
counts the endpoints. Each other row counts the agents of one version."""

_LAST_ACTIONS = Statement(
    f"""
select {ACTION.sql}
from actions a
order by a.starttime desc nulls last, a.id desc
limit {MAX_LAST_ACTIONS}
""",
    ACTION,
)


@dataclass(frozen=True, kw_only=True)
class _FleetCount:
    """The result of one count: the data of the dashboard, and the counters of the last actions.

    ``started_at`` and ``seconds`` tell when it began and how long it took; ``is_large``, whether
    it is kept.
    """

    data: list[Data]
    counters: dict[str, dict[str, int]]
    started_at: float
    seconds: float
    is_large: bool


class DashboardResource:
    """The handler of the dashboard.

    :param clock: tells the age of a count.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        query: QueryFunction,
        responder: Responder,
        limits: Limits,
    ) -> None:
        self._clock = clock
        self._query = query
        self._responder = responder
        self._limits = limits
        self._last_count: _FleetCount | None = None
        self._is_counting = False
        self._waiters: list[Deferred[_FleetCount]] = []

    async def get_dashboard(self, request: Request, caller: Caller) -> bytes:
        """Return the state of the agents, and the last actions."""
        values = parse_collection_query(request)
        href = request.build_url()
        format_ = self._responder.make_document_format(request, Action, values, "Dashboard")
        items = await self.encode_items(format_)
        return request.prepare_response(
            format_.encode_head(href)
            + items
            + format_.encode_tail(DocumentTail(href=href, is_empty=False))
        )

    async def encode_items(self, format_: DocumentFormat) -> bytes:
        """Return the item of counts, then the last actions, newest first, all encoded."""
        count = self._find_usable_count() or await self._wait_for_count()
        rows = await self._query(_LAST_ACTIONS, ())
        await self._count_new_actions(count, rows)
        actions = ActionEncoder(format_, count.counters)
        href = self._responder.urls.base + DASHBOARD
        counts = format_.encode_item(Item(href=href, data=self._add_age(count)))
        return format_.separator.join([counts, *map(actions.encode_row, rows)])

    def _find_usable_count(self) -> _FleetCount | None:
        """Return the last count if it is kept and not too old; renew it when that is due."""
        count = self._last_count
        if count is None or not count.is_large:
            return None
        age = self._clock.seconds() - count.started_at
        if age * self._limits.count_share > count.seconds:
            self._start_counting()
        return count if age <= self._limits.count_age_seconds else None

    def _wait_for_count(self) -> Deferred[_FleetCount]:
        """Wait for the next count to begin and end; it goes on when the client leaves."""
        waiter: Deferred[_FleetCount] = Deferred()
        self._waiters.append(waiter)
        self._start_counting()
        return waiter

    def _start_counting(self) -> None:
        if not self._is_counting:
            self._is_counting = True
            with name_no_statements():
                Deferred.fromCoroutine(self._run_count())

    async def _run_count(self) -> None:
        waiting, self._waiters = self._waiters, []
        outcome: _FleetCount | Failure
        try:
            outcome = self._last_count = await self._count_fleet()
            if outcome.is_large:  # requests that came while it ran may use it too
                waiting, self._waiters = waiting + self._waiters, []
        except Exception as reason:  # goes to every request that waits
            outcome = Failure()
            if not waiting:
                self.log.warn("could not renew the dashboard's counts: {reason}", reason=reason)
        self._is_counting = False
        if self._waiters:
            self._start_counting()
        for waiter in waiting:
            if not waiter.called:  # it is cancelled when its client leaves
                waiter.callback(outcome)

    async def _count_fleet(self) -> _FleetCount:
        started_at = self._clock.seconds()
        agents, data = _build_data(await self._query(_COUNTS, ()))
        rows = await self._query(_LAST_ACTIONS, ())
        statuses = await count_commands_by_status(self._query, [row.id for row in rows])
        commands = sum(sum(numbers.values()) for numbers in statuses.values())
        return _FleetCount(
            data=data,
            counters={id_: make_counters(numbers) for id_, numbers in statuses.items()},
            started_at=started_at,
            seconds=self._clock.seconds() - started_at,
            is_large=agents + commands > self._limits.counted_rows,
        )

    async def _count_new_actions(self, count: _FleetCount, rows: Sequence[ActionRow]) -> None:
        """Count the commands of each action that is newer than the count, once."""
        if new := [row.id for row in rows if row.id not in count.counters]:
            count.counters.update(await load_counters(self._query, new))

    def _add_age(self, count: _FleetCount) -> list[Data]:
        """Return the data of a count, with the age of a count that is kept."""
        if not count.is_large:
            return count.data
        age = Data(
            name="counts age",
            value=round(self._clock.seconds() - count.started_at),
            prompt="seconds since agents, endpoints and the commands of actions were counted",
        )
        return [*count.data, age]


def _build_data(rows: Sequence[_CountRow]) -> tuple[int, list[Data]]:
    """Return the number of agents, and the data of the dashboard.

    The data names of MIG's API of 2014 come first, then those of 2017, without duplicates.
    """
    endpoints, versions = rows[0] if rows else _NO_AGENTS, rows[1:]
    values = {
        "active agents": sum(row.active for row in versions),
        "agents versions count": _group_by_version((row.version, row.active) for row in versions),
        "agents started in the last 24 hours": sum(row.started for row in versions),
        "endpoints running 2 or more agents": endpoints.double,
        "endpoints that have disappeared over last 7 days": endpoints.disappeared,
        "online agents": sum(row.online for row in versions),
        "online agents by version": _group_by_version(
            (row.version, row.online) for row in versions
        ),
        "online endpoints": endpoints.online_endpoints,
        "idle agents": sum(row.idle for row in versions),
        "idle agents by version": _group_by_version((row.version, row.idle) for row in versions),
        "idle endpoints": endpoints.idle_endpoints,
        "new endpoints": endpoints.new,
        "disappeared endpoints": endpoints.disappeared,
        "flapping endpoints": endpoints.flapping,
    }
    agents = sum(row.agents for row in versions)
    return agents, [Data(name=name, value=value) for name, value in values.items()]


_NO_AGENTS: Final = _CountRow(None, *[0] * (len(_CountRow._fields) - 1))


def _group_by_version(
    counts: Iterable[tuple[str | None, int]],
) -> list[dict[str, str | int | None]]:
    return [{"version": version, "count": count} for version, count in counts if count]
