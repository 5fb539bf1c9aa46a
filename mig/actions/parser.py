"""Parsing of submitted actions, so that no action makes another request wait.

What a client sends in a moment can take Python seconds, and some 100 bytes for each value. So only
small actions are parsed here, and few in each turn of the reactor. Large ones are parsed by other
processes, and few of them are handled at once (docs/decisions/0044).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall

from mig.actions.parser_process import FAILURE_MESSAGE, ParserProcess
from mig.actions.parser_worker import CONTINUE, Order, encode_message, parse_action
from mig.actions.submission import Submission, parse_signatures, parse_submission
from mig.errors import UnavailableError
from mig.fair_queue import FairSemaphore
from mig.limits import Limits
from mig.openpgp.packet import Signature
from mig.reactor import Reactor
from mig.web.forms import ContentType

TURN_SECONDS: Final = 0.005
"""How long small actions are parsed in one turn of the reactor; the last one is completed."""

OVERLOAD_MESSAGE: Final = "too many actions are being submitted"


@dataclass(frozen=True, kw_only=True)
class OpenedAction:
    """An action of which only the signatures are parsed.

    ``parse`` returns the whole submission.

    :raises InvalidInputError: naming the first field that is not accepted.
    :raises UnavailableError: when it cannot be parsed now.
    """

    signatures: tuple[Signature, ...]
    parse: Callable[[], Awaitable[Submission]]


class ActionParser:
    """Parses actions; clients take turns when there are many.

    :param limits: what is large, what an action may contain, how many actions are handled at once,
        and how long they may wait and take.
    """

    def __init__(self, reactor: Reactor, *, limits: Limits | None = None) -> None:
        self._reactor = reactor
        self._limits = limits or Limits()
        self._places = self._make_semaphore(self._limits.large_actions)
        self._turn = self._make_semaphore(1)
        self._turn_seconds = 0.0
        self._turn_is_over = False
        self._next_turn: IDelayedCall | None = None
        self._is_stopped = False
        self._idle: dict[ParserProcess, IDelayedCall] = {}
        self._processes: set[ParserProcess] = set()

    def _make_semaphore(self, max_running: int) -> FairSemaphore:
        return FairSemaphore(
            max_running,
            max_waiting=self._limits.waiting_actions,
            make_overload_error=lambda: UnavailableError(OVERLOAD_MESSAGE, "too many wait"),
        )

    async def _acquire(self, semaphore: FairSemaphore, client: str) -> None:
        turn = semaphore.acquire((client,))
        if not turn.called:
            turn.addTimeout(self._limits.action_wait_seconds, self._reactor, _raise_wait_timeout)
        await turn

    @asynccontextmanager
    async def open(
        self, content_type: ContentType, content: BytesIO, client: str
    ) -> AsyncIterator[OpenedAction]:
        """Parse the signatures of the action in a body; the block then handles the action.

        A large action keeps its place until the block ends, so that few of them are in memory.

        :param client: who takes turns with other clients.
        :raises InvalidInputError: when the body, or one of the signatures, is not accepted.
        :raises UnavailableError: when it cannot be parsed now.
        """
        if len(content.getbuffer()) <= self._limits.inline_action_bytes:
            yield await self._open_small(content_type, content.getvalue(), client)
            return
        await self._acquire(self._places, client)
        try:
            async with self._borrow_process() as process:
                yield await self._open_large(process, content_type, content)
        finally:
            self._places.release()

    # Small actions

    async def _open_small(
        self, content_type: ContentType, body: bytes, client: str
    ) -> OpenedAction:
        async with self._take_turn(client):
            value = parse_action(content_type, body, self._limits.action_values)
            signatures = parse_signatures(value, self._limits.action_signatures)

        async def parse() -> Submission:
            async with self._take_turn(client):
                return parse_submission(
                    value, signatures, max_operations_bytes=self._limits.action_body_bytes
                )

        return OpenedAction(signatures=signatures, parse=parse)

    @asynccontextmanager
    async def _take_turn(self, client: str) -> AsyncIterator[None]:
        """Run a block that does not wait, in a turn of the reactor that has time for it.

        Otherwise a handful of clients who post small actions could fill the time between two looks
        of the reactor at all other connections.
        """
        await self._acquire(self._turn, client)
        if self._next_turn is None:
            self._next_turn = self._reactor.callLater(0, self._begin_turn)
        began = self._reactor.seconds()
        try:
            yield
        finally:
            self._turn_seconds += self._reactor.seconds() - began
            if self._turn_seconds < TURN_SECONDS and not self._turn.waiting_count:
                self._turn.release()
            else:
                self._turn_is_over = True

    def _begin_turn(self) -> None:
        self._next_turn = None
        self._turn_seconds = 0.0
        if self._turn_is_over:
            self._turn_is_over = False
            self._turn.release()

    # Large actions

    async def _open_large(
        self, process: ParserProcess, content_type: ContentType, content: BytesIO
    ) -> OpenedAction:
        order = Order(
            length=len(content.getbuffer()),
            content_type=content_type,
            max_values=self._limits.action_values,
            max_signatures=self._limits.action_signatures,
            max_operations_bytes=self._limits.action_body_bytes,
        )
        answer = await process.ask(encode_message(order), content)
        assert answer.signatures is not None

        async def parse() -> Submission:
            submission = (await process.ask(CONTINUE)).submission
            assert submission is not None
            return submission

        return OpenedAction(signatures=answer.signatures, parse=parse)

    @asynccontextmanager
    async def _borrow_process(self) -> AsyncIterator[ParserProcess]:
        process = self._take_process()
        try:
            yield process
        finally:
            process.drop_value()
            if process.is_reusable:
                seconds = self._limits.parser_idle_seconds
                self._idle[process] = self._reactor.callLater(seconds, self._close_idle, process)
            else:
                process.close()

    def _take_process(self) -> ParserProcess:
        if self._is_stopped:
            raise UnavailableError(FAILURE_MESSAGE, "the service is stopping")
        while self._idle:
            process, idle_call = self._idle.popitem()
            idle_call.cancel()
            if process.is_reusable:
                return process
        process = ParserProcess(self._reactor, self._limits.parser_seconds)
        self._processes.add(process)
        process.exited.addCallback(lambda _: self._processes.discard(process))
        return process

    def _close_idle(self, process: ParserProcess) -> None:
        del self._idle[process]
        process.close()

    def stop(self) -> Deferred[None]:
        """Refuse large actions, and end the processes; the result fires when they are gone."""
        self._is_stopped = True
        for idle_call in self._idle.values():
            idle_call.cancel()
        self._idle.clear()
        for process in self._processes:
            process.close()
        exits = DeferredList([process.exited for process in self._processes])
        return exits.addCallback(lambda _: None)


def _raise_wait_timeout(_: object, seconds: float) -> None:
    raise UnavailableError(OVERLOAD_MESSAGE, f"an action waited longer than {seconds:g} s")
