"""The client for plain scripts, which wait for each answer.

Twisted's reactor runs in a thread, from the first client to the end of the process. A reactor is
started once in a process, so a program that runs its own uses :class:`mig.client.MIGClient`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, cast, overload

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import blockingCallFromThread

from mig.client import client
from mig.client.credentials import TextSigner
from mig.client.filters import Filters, Noun
from mig.client.records import (
    Action,
    Agent,
    Command,
    ComplianceItem,
    Dashboard,
    Investigator,
)
from mig.hypermedia.document import Collection

Result = TypeVar("Result")


_starting = threading.Lock()
_thread: threading.Thread | None = None


def _find_reactor() -> IReactorFromThreads:
    """Return the reactor, which runs in a thread of its own.

    :raises RuntimeError: when the program itself runs it.
    """
    from twisted.internet import reactor as installed

    reactor = cast(Any, installed)
    global _thread
    with _starting:
        if _thread is None:
            if reactor.running:
                raise RuntimeError("the reactor runs already: use mig.client.MIGClient")
            started = threading.Event()
            reactor.callWhenRunning(started.set)
            _thread = threading.Thread(
                target=reactor.run,
                kwargs={"installSignalHandlers": False},
                name="mig.client",
                daemon=True,
            )
            _thread.start()
            started.wait()
    return cast(IReactorFromThreads, reactor)


class MIGClient:
    """A client of a MIG API whose methods wait for the answer.

    Arguments and errors are those of :class:`mig.client.MIGClient`.
    """

    def __init__(
        self,
        url: str,
        credentials: str | TextSigner | None = None,
        *,
        stall_seconds: float = client.STALL_SECONDS,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client.MIGClient(
            url, credentials, stall_seconds=stall_seconds, wall_clock=wall_clock
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

    def targets(
        self, target: str, /, search: Filters | None = None, **filters: Unpack[Filters]
    ) -> Iterator[Agent]:
        """Return an iterator over the agents on which an action with this target would run."""
        chosen: Filters = {**(search or Filters()), **filters, "target": target}
        return self.search("agent", chosen)

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

    def _wait_for(self, coroutine: Coroutine[Deferred[Any], Any, Result]) -> Result:
        def start() -> Deferred[Result]:
            return Deferred.fromCoroutine(coroutine)

        # the annotations of Twisted know only functions that return nothing
        result: Result = cast(Any, blockingCallFromThread)(self._reactor, start)
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
