"""The client for plain scripts, which wait for each answer.

Twisted's reactor runs in a thread, from the first client to the end of the process. Where the
program itself runs it, these clients can be used in other threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, cast, overload

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import blockingCallFromThread
from twisted.python.threadable import isInIOThread
from twisted.web.iweb import IAgent

from mig.client import client
from mig.client.credentials import TextSigner
from mig.client.filters import Filters, Noun
from mig.client.records import (
    Action,
    Agent,
    ApiKey,
    Command,
    ComplianceItem,
    ComplianceSummary,
    Dashboard,
    Investigator,
)
from mig.client.session import RetryObserver
from mig.hypermedia.document import Collection

Result = TypeVar("Result")


_starting = threading.Lock()


def _find_reactor() -> IReactorFromThreads:
    """Return the reactor, which runs in another thread.

    :raises RuntimeError: when it runs in this one.
    """
    from twisted.internet import reactor as installed

    reactor = cast(Any, installed)
    with _starting:
        if reactor.running and isInIOThread():
            raise RuntimeError("the reactor runs in this thread: use mig.client.MIGClient")
        if not reactor.running:
            started = threading.Event()
            reactor.callWhenRunning(started.set)
            threading.Thread(
                target=reactor.run,
                kwargs={"installSignalHandlers": False},
                name="mig.client",
                daemon=True,
            ).start()
            started.wait()
    return cast(IReactorFromThreads, reactor)


class MIGClient:
    """A client of a MIG API whose methods wait for the answer.

    Arguments and errors are those of :class:`mig.client.MIGClient`; ``on_retry`` is called in the
    reactor's thread.
    """

    def __init__(
        self,
        url: str,
        credentials: str | TextSigner | None = None,
        *,
        agent: IAgent | None = None,
        stall_seconds: float = client.STALL_SECONDS,
        on_retry: RetryObserver | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client.MIGClient(
            url,
            credentials,
            agent=agent,
            stall_seconds=stall_seconds,
            on_retry=on_retry,
            wall_clock=wall_clock,
        )
        self._reactor = _find_reactor()

    def close(self) -> None:
        """Close the connections that are kept for later requests."""
        self._wait_for(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        reason: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def home(self) -> Collection:
        """Return the home document."""
        return self._wait_for(self._client.home())

    def dashboard(self) -> Dashboard:
        """Return the dashboard."""
        return self._wait_for(self._client.dashboard())

    def action(self, action_id: int) -> Action:
        """Return an action."""
        return self._wait_for(self._client.action(action_id))

    def command(self, command_id: int) -> Command:
        """Return a command."""
        return self._wait_for(self._client.command(command_id))

    def agent(self, agent_id: int) -> Agent:
        """Return an agent."""
        return self._wait_for(self._client.agent(agent_id))

    def investigator(self, investigator_id: int) -> Investigator:
        """Return an investigator."""
        return self._wait_for(self._client.investigator(investigator_id))

    @overload
    def search(
        self, noun: Literal["action"], search: Filters | None = None, **filters: Unpack[Filters]
    ) -> Iterator[Action]: ...
    @overload
    def search(
        self, noun: Literal["command"], search: Filters | None = None, **filters: Unpack[Filters]
    ) -> Iterator[Command]: ...
    @overload
    def search(
        self, noun: Literal["agent"], search: Filters | None = None, **filters: Unpack[Filters]
    ) -> Iterator[Agent]: ...
    @overload
    def search(
        self,
        noun: Literal["investigator"],
        search: Filters | None = None,
        **filters: Unpack[Filters],
    ) -> Iterator[Investigator]: ...
    def search(
        self, noun: Noun, search: Filters | None = None, **filters: Unpack[Filters]
    ) -> Iterator[Any]:
        """Return an iterator over the results of a search, from all of its pages."""
        record = client.RECORDS[noun]
        return self._iterate(self._client.search_batches(noun, record, search, **filters))

    def compliance_items(
        self, search: Filters | None = None, **filters: Unpack[Filters]
    ) -> Iterator[ComplianceItem]:
        """Return an iterator over the items of a compliance report, from all of its pages."""
        return self._iterate(self._client.compliance_batches(search, **filters))

    def compliance_summary(
        self,
        search: Filters | None = None,
        *,
        groupby: Sequence[str] = (),
        maxage: timedelta | str | None = None,
        scope: Literal["agents"] | None = None,
        **filters: Unpack[Filters],
    ) -> Iterator[ComplianceSummary]:
        """Return an iterator over the groups of a summary; the last one has the totals."""
        return self._iterate(
            self._client.summary_batches(
                search, groupby=groupby, maxage=maxage, scope=scope, **filters
            )
        )

    def targets(
        self, target: str, /, search: Filters | None = None, **filters: Unpack[Filters]
    ) -> Iterator[Agent]:
        """Return an iterator over the agents on which an action with this target would run."""
        chosen: Filters = {**(search or Filters()), **filters, "target": target}
        return self.search("agent", chosen)

    def count(
        self, noun: Noun, search: Filters | None = None, **filters: Unpack[Filters]
    ) -> int | None:
        """Return how many results a search has; of a report, how many commands."""
        return self._wait_for(self._client.count(noun, search, **filters))

    def create_action(self, action: client.SubmittedAction | str) -> Action:
        """Submit a signed action, and return it as it was stored."""
        return self._wait_for(self._client.create_action(action))

    def wait(
        self,
        action: Action | int,
        *,
        timeout_seconds: float | None = None,
        on_change: Callable[[Action], object] | None = None,
    ) -> Action:
        """Return an action when it has ended; ``on_change`` is called in the reactor's thread."""
        return self._wait_for(
            self._client.wait(action, timeout_seconds=timeout_seconds, on_change=on_change)
        )

    def create_investigator(
        self, name: str, publickey: str, permissions: Mapping[str, bool] | None = None
    ) -> Investigator:
        """Add an investigator, and return it."""
        return self._wait_for(self._client.create_investigator(name, publickey, permissions))

    def update_investigator(
        self,
        investigator_id: int,
        *,
        status: Literal["active", "disabled"] | None = None,
        permissions: Mapping[str, bool] | None = None,
        apikey: Literal["active", "disabled"] | None = None,
    ) -> Investigator:
        """Change an investigator, and return it."""
        return self._wait_for(
            self._client.update_investigator(
                investigator_id, status=status, permissions=permissions, apikey=apikey
            )
        )

    def api_keys(self, investigator_id: int | None = None) -> list[ApiKey]:
        """Return the API keys of an investigator, or all that may be seen."""
        return self._wait_for(self._client.api_keys(investigator_id))

    def create_api_key(
        self,
        name: str,
        *,
        investigator_id: int | None = None,
        permissions: str | Mapping[str, bool] | None = None,
        expires: str | None = None,
    ) -> ApiKey:
        """Make an API key, and return it with its text."""
        return self._wait_for(
            self._client.create_api_key(
                name, investigator_id=investigator_id, permissions=permissions, expires=expires
            )
        )

    def revoke_api_key(self, key_id: int) -> ApiKey:
        """Revoke an API key, and return it."""
        return self._wait_for(self._client.revoke_api_key(key_id))

    def _wait_for(self, coroutine: Coroutine[Deferred[Any], Any, Result]) -> Result:
        """Return the result of a coroutine, which runs in the reactor's thread.

        When the wait is interrupted, the coroutine is cancelled, and has ended when this raises.
        """
        running: list[Deferred[Result]] = []

        def start() -> Deferred[Result]:
            running.append(Deferred.fromCoroutine(coroutine))
            return running[0]

        def cancel() -> Deferred[Result]:
            running[0].cancel()
            return running[0]

        # the annotations of Twisted know only functions that return nothing
        call = cast(Any, blockingCallFromThread)
        try:
            result: Result = call(self._reactor, start)
        except KeyboardInterrupt:
            call(self._reactor, cancel)
            raise
        return result

    def _iterate(self, batches: AsyncGenerator[list[Result], None]) -> Iterator[Result]:
        async def take() -> list[Result] | None:
            return await anext(batches, None)

        async def close() -> None:
            await batches.aclose()

        # batches, since each change of threads costs as much as many records
        try:
            while records := self._wait_for(take()):
                yield from records
        finally:
            self._wait_for(close())
