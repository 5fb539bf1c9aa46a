"""The reactor that the tests run in: what it logs, where it listens, and calls from threads."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import (
    IListeningPort,
)
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from mig.reactor import get_reactor
from mig.service.endpoints import parse_endpoint
from mig.service.listeners import Listener, bind_listener

Result = TypeVar("Result")


reactor = get_reactor()
"""The reactor that runs; Twisted's type for it lacks the methods for threads."""


@implementer(ILogObserver)
class LogRecorder:
    """The events that were logged."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        self.events.append(event)

    @property
    def lines(self) -> list[str]:
        return [formatEvent(event) for event in self.events]

    @property
    def failures(self) -> list[str]:
        """The events that report a failure."""
        events = [event for event in self.events if event.get("log_failure") is not None]
        return [formatEvent(event) for event in events]


@contextmanager
def record_log() -> Iterator[LogRecorder]:
    """Record what is logged until the end of the block."""
    log = LogRecorder()
    globalLogPublisher.addObserver(log)
    try:
        yield log
    finally:
        globalLogPublisher.removeObserver(log)


def port_number(port: IListeningPort) -> int:
    """Return the number of a TCP port."""
    host = port.getHost()
    assert isinstance(host, IPv4Address | IPv6Address)
    return host.port


def listen_on(text: str) -> Listener:
    """Bind the listener that an endpoint text names."""
    return bind_listener(parse_endpoint(text))


async def stop_listening(port: IListeningPort) -> None:
    """Close a port, and wait until it is closed."""
    await maybeDeferred(port.stopListening)


async def wait_until(condition: Callable[[], object]) -> None:
    """Wait until *condition* is true, which is asked in a thread, 20 seconds at the most."""
    deadline = reactor.seconds() + 20
    while not await deferToThread(condition):
        assert reactor.seconds() < deadline, "it never came true"
        await deferLater(reactor, 0.02)


def call_in_reactor(start: Callable[[], Coroutine[Deferred[Any], Any, Result]]) -> Result:
    """Run a coroutine in the reactor's thread, and wait in this one for what it returns."""
    result: Future[Result] = Future()

    def set_failure(failure: Failure) -> None:
        result.set_exception(failure.value)

    def start_coroutine() -> None:
        Deferred.fromCoroutine(start()).addCallbacks(result.set_result, set_failure)

    reactor.callFromThread(start_coroutine)
    return result.result()
