"""The dashboard: what the agents do now, and the last actions.

Counting reads every agent, and every command of the last actions. In a small fleet that is quick,
and each request is answered by a count that began after it came. In a large one the last count is
kept, its age is shown, and it is renewed in the background: however many ask, there is one count
at a time, and it takes only a small share of a core.
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
from mig.api.responder import refuse_parameters
from mig.formats.collection_json import CollectionJson
from mig.formats.format import DocumentTail
from mig.hypermedia.document import Data, Item
from mig.hypermedia.urls import DASHBOARD, Urls
from mig.limits import Limits
from mig.model.action import (
    ACTION,
    ActionRow,
    count_commands_by_status,
    load_counters,
    make_counters,
)
from mig.model.record import encode_json
from mig.model.row import Columns
from mig.model.statement import QueryFunction, Statement
from mig.search.records import ActionEncoder
from mig.web.request import Request

MAX_LAST_ACTIONS: Final = 10

RENEWAL_FACTOR: Final = 20
"""A kept count is renewed after so many times the seconds that it took."""


class _CountRow(NamedTuple):
    """Agents and endpoints: of one version, or, when that is null, of all agents by endpoint."""

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
select {_COUNT.sql} from seen group by version order by version nulls first
""",
    _COUNT,
)
"""Agents once by version and once by endpoint: a row for each version, and, first, one without a
version that says how many endpoints there are of each kind."""

_ACTIONS = Statement(
    f"select {ACTION.sql} from actions a"
    f" order by a.starttime desc nulls last, a.id desc limit {MAX_LAST_ACTIONS}",
    ACTION,
)


@dataclass(frozen=True, kw_only=True)
class _FleetCount:
    """What one count found: the data that it becomes, and the counters of the last actions.

    ``started_at`` and ``seconds`` say when, and how long it took; ``is_large``, that
    it is kept.
    """

    data: list[Data]
    counters: dict[str, dict[str, int]]
    started_at: float
    seconds: float
    is_large: bool


class DashboardResource:
    """Answers with the dashboard.

    :param clock: the reactor, or what has its ``seconds``.
    """

    log = Logger()

    def __init__(
        self, clock: IReactorTime, query: QueryFunction, urls: Urls, limits: Limits
    ) -> None:
        self._clock = clock
        self._query = query
        self._urls = urls
        self._limits = limits
        self._format = CollectionJson(urls)
        self._last_count: _FleetCount | None = None
        self._is_counting = False
        self._waiters: list[Deferred[_FleetCount]] = []

    async def get_dashboard(self, request: Request, caller: Caller) -> bytes:
        """What the agents do now, and the last actions."""
        refuse_parameters(request)
        href, format_ = request.build_url(), self._format
        items = await self.encode_items()
        return request.prepare_response(
            format_.encode_head(href)
            + items
            + format_.encode_tail(DocumentTail(href=href, is_empty=False))
        )

    async def encode_items(self) -> bytes:
        """The item of counts, and the last actions, newest first; encoded and separated."""
        counted = self._find_usable_count() or await self._wait_for_count()
        rows = await self._query(_ACTIONS, ())
        await self._count_new_actions(counted, rows)
        actions = ActionEncoder(self._format, counted.counters)
        counts = encode_json(Item(href=self._urls.base + DASHBOARD, data=self._add_age(counted)))
        return self._format.separator.join([counts, *map(actions.encode_row, rows)])

    def _find_usable_count(self) -> _FleetCount | None:
        """The last count, if it is kept and not too old; renewed when it is time."""
        kept = self._last_count
        if kept is None or not kept.is_large:
            return None
        age = self._clock.seconds() - kept.started_at
        if age > RENEWAL_FACTOR * kept.seconds:
            self._start_counting()
        return kept if age <= self._limits.count_age_seconds else None

    def _wait_for_count(self) -> Deferred[_FleetCount]:
        """The next count to begin; who leaves stops waiting, the count goes on."""
        waiter: Deferred[_FleetCount] = Deferred()
        self._waiters.append(waiter)
        self._start_counting()
        return waiter

    def _start_counting(self) -> None:
        if not self._is_counting:
            self._is_counting = True
            Deferred.fromCoroutine(self._run_count())

    async def _run_count(self) -> None:
        waiting, self._waiters = self._waiters, []
        outcome: _FleetCount | Failure
        try:
            outcome = self._last_count = await self._count_fleet()
            if outcome.is_large:
                waiting, self._waiters = waiting + self._waiters, []
        except Exception as reason:
            outcome = Failure()
            if not waiting:
                self.log.warn("could not renew the dashboard's counts: {reason}", reason=reason)
        self._is_counting = False
        if self._waiters:
            self._start_counting()
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(outcome)

    async def _count_fleet(self) -> _FleetCount:
        started_at = self._clock.seconds()
        agents, data = _build_data(await self._query(_COUNTS, ()))
        rows = await self._query(_ACTIONS, ())
        statuses = await count_commands_by_status(self._query, [row.id for row in rows])
        commands = sum(sum(numbers.values()) for numbers in statuses.values())
        return _FleetCount(
            data=data,
            counters={id_: make_counters(numbers) for id_, numbers in statuses.items()},
            started_at=started_at,
            seconds=self._clock.seconds() - started_at,
            is_large=agents + commands > self._limits.counted_rows,
        )

    async def _count_new_actions(self, counted: _FleetCount, rows: Sequence[ActionRow]) -> None:
        """Count the commands of actions that came since, once for each of them."""
        if new := [row.id for row in rows if row.id not in counted.counters]:
            counted.counters.update(await load_counters(self._query, new))

    def _add_age(self, counted: _FleetCount) -> list[Data]:
        """The data of a count, and how old it is when it is one that is kept."""
        if not counted.is_large:
            return counted.data
        age = Data(
            name="counts age",
            value=round(self._clock.seconds() - counted.started_at),
            prompt="seconds since agents, endpoints and the commands of actions were counted",
        )
        return [*counted.data, age]


def _build_data(rows: Sequence[_CountRow]) -> tuple[int, list[Data]]:
    """How many agents there are, and what is said of them.

    The names of 2014 come first, then those of 2017; one that both have stands once.
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
