"""The client for code on Twisted, also on its asyncio reactor."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self, TypeVar, Unpack, cast, overload

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.web.client import Agent as HTTPAgent
from twisted.web.client import HTTPConnectionPool
from twisted.web.iweb import IAgent

from mig.client.administration import Administration
from mig.client.credentials import TextSigner, check_transport, make_credentials
from mig.client.documents import read_document, read_record
from mig.client.errors import InvalidResponseError, WaitTimeoutError
from mig.client.filters import Filters, Noun, build_query, drop_report_filters
from mig.client.pages import (
    convert,
    convert_record,
    list_data,
)
from mig.client.records import (
    Action,
    Agent,
    Command,
    ComplianceItem,
    ComplianceSummary,
    Dashboard,
    Investigator,
    JsonValue,
    Record,
)
from mig.client.searches import Searches
from mig.client.session import RetryObserver, Session
from mig.hypermedia import urls
from mig.hypermedia.document import Collection
from mig.model.record import UnreadableRecord

RecordType = TypeVar("RecordType", bound=Record)

STALL_SECONDS: Final = 60.0
"""How long nothing may arrive, by default."""
FINAL_STATUSES: Final = ("completed", "invalid")
"""The statuses of an action that has ended."""
_CONNECT_SECONDS: Final = 30.0
_SECONDS_AFTER_EXPIRY: Final = 60.0
_FIRST_WAIT_SECONDS: Final = 1.0
_MAX_WAIT_SECONDS: Final = 30.0
RECORDS: Final[Mapping[str, type[Record]]] = {
    "action": Action,
    "command": Command,
    "agent": Agent,
    "investigator": Investigator,
}
"""The class of the results of a search."""
_UNREADABLE: Final = UnreadableRecord.noun


class SubmittedAction(Protocol):
    """An action that can be submitted, such as a :class:`mig.client.signer.Action`."""

    def to_json(self) -> str:
        """Return the action as JSON."""
        ...


class MIGClient(Administration):
    """A client of a MIG API, also of the original one.

    :param url: the base URL, such as ``https://mig.example.com/api/v1``.
    :param credentials: an API key, or a signer whose tokens are sent; both only over TLS, or to
        this host.
    :param reactor: Twisted's reactor by default.
    :param agent: what sends the requests; by default an agent that checks certificates and keeps
        connections.
    :param stall_seconds: how long nothing may arrive before the service counts as unreachable.
    :param on_retry: called before each pause after which a request is sent again.
    :raises InsecureURLError: when the credentials would go over plain HTTP to another host.
    """

    def __init__(
        self,
        url: str,
        credentials: str | TextSigner | None = None,
        *,
        reactor: IReactorTime | None = None,
        agent: IAgent | None = None,
        stall_seconds: float = STALL_SECONDS,
        on_retry: RetryObserver | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        base = url.rstrip("/")
        if credentials is not None:
            check_transport(base)
        if reactor is None:
            # here, because its import installs a reactor, which the caller may want to choose
            from twisted.internet import reactor as installed

            reactor = cast(IReactorTime, installed)
        self._pool: HTTPConnectionPool | None = None
        if agent is None:
            self._pool = HTTPConnectionPool(reactor)
            agent = HTTPAgent(reactor, connectTimeout=_CONNECT_SECONDS, pool=self._pool)
        self._reactor = reactor
        self._wall_clock = wall_clock
        self._session = Session(
            reactor,
            agent,
            base,
            make_credentials(credentials, wall_clock),
            wall_clock=wall_clock,
            stall_seconds=stall_seconds,
            on_retry=on_retry,
        )
        self._searches = Searches(self._session)

    async def close(self) -> None:
        """Close the connections that are kept for later requests."""
        if self._pool:
            closed: Deferred[None] = self._pool.closeCachedConnections()
            await closed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        reason: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def home(self) -> Collection:
        """Return the home document: the links and queries of the service."""
        _, members = await read_document(await self._session.get(urls.HOME))
        # the original API sends an empty error and template with every document
        filled = {name: value for name, value in members.items() if value}
        return convert(filled, Collection)

    async def dashboard(self) -> Dashboard:
        """Return the dashboard."""
        items, _ = await read_document(await self._session.get(urls.DASHBOARD))
        values: dict[str, JsonValue] = {}
        actions = []
        for name, value in list_data(items):
            if name == "action":
                actions.append(convert_record(value, Action))
            elif name != _UNREADABLE:
                values[name] = value
        return Dashboard(values=values, actions=actions)

    async def action(self, action_id: int) -> Action:
        """Return an action.

        :raises NotFoundError: when there is none with this id.
        """
        return await self._get_record(urls.ACTION, "action", action_id, Action)

    async def command(self, command_id: int) -> Command:
        """Return a command.

        :raises NotFoundError: when there is none with this id.
        """
        return await self._get_record(urls.COMMAND, "command", command_id, Command)

    async def agent(self, agent_id: int) -> Agent:
        """Return an agent.

        :raises NotFoundError: when there is none with this id.
        """
        return await self._get_record(urls.AGENT, "agent", agent_id, Agent)

    async def investigator(self, investigator_id: int) -> Investigator:
        """Return an investigator.

        :raises NotFoundError: when there is none with this id.
        """
        path, noun = urls.INVESTIGATOR, "investigator"
        return await self._get_record(path, noun, investigator_id, Investigator)

    @overload
    def search(
        self, noun: Literal["action"], search: Filters | None = None, **filters: Unpack[Filters]
    ) -> AsyncGenerator[Action, None]: ...
    @overload
    def search(
        self, noun: Literal["command"], search: Filters | None = None, **filters: Unpack[Filters]
    ) -> AsyncGenerator[Command, None]: ...
    @overload
    def search(
        self, noun: Literal["agent"], search: Filters | None = None, **filters: Unpack[Filters]
    ) -> AsyncGenerator[Agent, None]: ...
    @overload
    def search(
        self,
        noun: Literal["investigator"],
        search: Filters | None = None,
        **filters: Unpack[Filters],
    ) -> AsyncGenerator[Investigator, None]: ...
    def search(
        self, noun: Noun, search: Filters | None = None, **filters: Unpack[Filters]
    ) -> AsyncGenerator[Any, None]:
        """Return an iterator over the results of a search, from all of its pages.

        It reads as fast as its results are taken. Without filters, the results are those of the
        default window: the last 7 days. ``limit`` is the largest number of results.

        :param search: filters, to which ``filters`` are added.
        :raises IncompleteResponseError: while iterating, when an answer was cut.
        :raises UnreadableRecordsError: at the end, when the service could not read some results.
        :raises MIGClientError: while iterating, when there is no answer.
        """
        return _flatten(self.search_batches(noun, RECORDS[noun], search, **filters))

    def compliance_items(
        self, search: Filters | None = None, **filters: Unpack[Filters]
    ) -> AsyncGenerator[ComplianceItem, None]:
        """Return an iterator over the items of a compliance report, from all of its pages.

        Without filters, it has everything of the default window. ``limit`` counts commands. The
        errors are those of :meth:`search`.
        """
        return _flatten(self.compliance_batches(search, **filters))

    def compliance_summary(
        self,
        search: Filters | None = None,
        *,
        groupby: Sequence[str] = (),
        maxage: timedelta | str | None = None,
        scope: Literal["agents"] | None = None,
        **filters: Unpack[Filters],
    ) -> AsyncGenerator[ComplianceSummary, None]:
        """Return an iterator over the groups of a summary, the lowest rate first.

        The last one has an empty ``group``, and the totals. The errors are those of :meth:`search`.

        :param groupby: one or two names, such as ``["policy", "check"]``, which is the default.
        :param maxage: how old an answer may be before its agent counts as stale.
        :param scope: ``"agents"`` to count also the agents that no command has asked.
        """
        return _flatten(
            self.summary_batches(search, groupby=groupby, maxage=maxage, scope=scope, **filters)
        )

    def targets(
        self, target: str, /, search: Filters | None = None, **filters: Unpack[Filters]
    ) -> AsyncGenerator[Agent, None]:
        """Return an iterator over the agents on which an action with this target would run.

        The errors are those of :meth:`search`.
        """
        chosen: Filters = {**(search or Filters()), **filters, "target": target}
        return self.search("agent", chosen)

    def search_batches(
        self,
        noun: Noun,
        record: type[RecordType],
        search: Filters | None = None,
        **filters: Unpack[Filters],
    ) -> AsyncGenerator[list[RecordType], None]:
        """Return an iterator over the results of a search, as many at once as have arrived.

        :param record: the class of the results.
        """
        chosen: Filters = {**(search or Filters()), **filters}
        return self._searches.read_pages(
            [("type", noun), *build_query(chosen)], noun, record, has_limit="limit" in chosen
        )

    def compliance_batches(
        self, search: Filters | None = None, **filters: Unpack[Filters]
    ) -> AsyncGenerator[list[ComplianceItem], None]:
        """Return an iterator over the items of a report, as many at once as have arrived."""
        chosen: Filters = {**(search or Filters()), **filters}
        query = [("type", "command"), ("report", "complianceitems"), *build_query(chosen)]
        return self._searches.read_pages(
            query, "compliance item", ComplianceItem, has_limit="limit" in chosen
        )

    def summary_batches(
        self,
        search: Filters | None = None,
        *,
        groupby: Sequence[str] = (),
        maxage: timedelta | str | None = None,
        scope: Literal["agents"] | None = None,
        **filters: Unpack[Filters],
    ) -> AsyncGenerator[list[ComplianceSummary], None]:
        """Return an iterator over the groups of a summary, as many at once as have arrived."""
        chosen: Filters = {**(search or Filters()), **filters}
        query = [
            ("type", "command"),
            ("report", "compliancesummary"),
            ("groupby", groupby if isinstance(groupby, str) else ",".join(groupby)),
            (
                "maxage",
                f"{maxage.total_seconds():.0f}s" if isinstance(maxage, timedelta) else maxage or "",
            ),
            ("scope", scope or ""),
        ]
        query = [(name, text) for name, text in query if text] + build_query(chosen)
        return self._searches.read_pages(
            query, "compliance summary", ComplianceSummary, has_limit="limit" in chosen
        )

    async def count(
        self, noun: Noun, search: Filters | None = None, **filters: Unpack[Filters]
    ) -> int | None:
        """Return how many results a search has; of a report, how many commands.

        The original API does not count: then it is ``None``, as for filters that are refused.
        ``limit`` has no effect, nor has what only chooses items of a report.

        :raises MIGClientError: when there is no answer.
        """
        chosen = drop_report_filters({**(search or Filters()), **filters, "limit": 1})
        return await self._searches.count([("type", noun), *build_query(chosen)])

    async def create_action(self, action: SubmittedAction | str) -> Action:
        """Submit a signed action, and return it as it was stored.

        It may be repeated: an action that was accepted before is not stored again.

        :param action: a :class:`mig.client.signer.Action`, or the JSON of an action.
        :raises RequestError: when it is refused.
        """
        fields = {"action": action if isinstance(action, str) else action.to_json()}
        response = await self._session.post(urls.CREATE_ACTION, fields, is_idempotent=True)
        return await read_record(response, "action", Action)

    async def wait(
        self,
        action: Action | int,
        *,
        timeout_seconds: float | None = None,
        on_change: Callable[[Action], object] | None = None,
    ) -> Action:
        """Return an action when it has ended: its status is completed or invalid.

        It is asked for after one second, then less and less often, up to every 30 seconds.

        :param timeout_seconds: how long to wait; by default until one minute after it expires.
        :param on_change: called with every answer.
        :raises WaitTimeoutError: when it has not ended then.
        """
        action_id = action if isinstance(action, int) else action.id
        start = self._reactor.seconds()
        pause = _FIRST_WAIT_SECONDS
        while True:
            found = await self.action(action_id)
            if on_change:
                on_change(found)
            if found.status in FINAL_STATUSES:
                return found
            left = self._measure_remaining_time(found, start, timeout_seconds)
            if left <= 0:
                message = f"the action {action_id} has the status {found.status!r} and did not end"
                raise WaitTimeoutError(message)
            await deferLater(self._reactor, min(pause, left))
            pause = min(pause * 1.5, _MAX_WAIT_SECONDS)

    def _measure_remaining_time(
        self, action: Action, start: float, timeout_seconds: float | None
    ) -> float:
        if timeout_seconds is not None:
            return start + timeout_seconds - self._reactor.seconds()
        try:
            end = datetime.fromisoformat(action.expireafter).timestamp()
        except (ValueError, OverflowError):
            message = f"expireafter of the action is not a date: {action.expireafter!r}"
            raise InvalidResponseError(message) from None
        return end + _SECONDS_AFTER_EXPIRY - self._wall_clock()

    async def _get_record(
        self, path: str, noun: str, record_id: int, record: type[RecordType]
    ) -> RecordType:
        response = await self._session.get(path, [(f"{noun}id", str(record_id))])
        return await read_record(response, noun, record)


async def _flatten(
    batches: AsyncGenerator[list[RecordType], None],
) -> AsyncGenerator[RecordType, None]:
    try:
        async for records in batches:
            for record in records:
                yield record
    finally:
        await batches.aclose()
