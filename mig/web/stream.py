"""An answer written while it is made, as fast as the client takes it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from mig.errors import ClientStalled, VersionNotSupported
from mig.web.request import Request

LONGEST_SECONDS = 3_600.0
STALL_SECONDS = 30.0
SLOWEST_BYTES_PER_SECOND = 16_384
SEND_LIMIT = 1_000_000
"""How much the transport joins into one send; Twisted's default of 128 KiB costs a tenth more."""

LONGEST_WHOLE = 1_048_576

log = Logger()


@implementer(IPushProducer)
class Writer:
    """Writes to a request and waits while the transport's buffer is full.

    A chunk must be taken within ``STALL_SECONDS`` and a second for each
    ``SLOWEST_BYTES_PER_SECOND`` in it.
    """

    def __init__(self, request: Request, clock: Any) -> None:
        self._request = request
        self._clock = clock
        self._paused: Deferred[None] | None = None

    async def write(self, chunk: bytes) -> None:
        """Write *chunk* and come back when there is room for more.

        :raises ClientStalled: when the client is too slow.
        """
        self._request.write(chunk)
        if self._paused is None:
            return
        patience = STALL_SECONDS + len(chunk) / SLOWEST_BYTES_PER_SECOND
        deadline = self._clock.callLater(patience, self._stalled, self._paused)
        try:
            await self._paused
        finally:
            if deadline.active():
                deadline.cancel()

    def _stalled(self, waiting: Deferred[None]) -> None:
        waiting.errback(ClientStalled())

    def pauseProducing(self) -> None:
        if self._paused is None:
            self._paused = Deferred()

    def resumeProducing(self) -> None:
        waiting, self._paused = self._paused, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)

    def stopProducing(self) -> None:
        """The client is gone; Klein cancels the handler."""


async def _whole(first: bytes, chunks: AsyncGenerator[bytes, None]) -> bytes:
    """The answer for a client that cannot tell an answer that was cut from one that ended.

    :raises VersionNotSupported: when it is longer than :data:`LONGEST_WHOLE`.
    """
    parts, length = [first], len(first)
    async for chunk in chunks:
        parts.append(chunk)
        length += len(chunk)
        if length > LONGEST_WHOLE:
            raise VersionNotSupported(
                f"an answer of more than {LONGEST_WHOLE} bytes needs HTTP/1.1, since a client of"
                " HTTP/1.0 cannot see that it was cut (nginx: proxy_http_version 1.1)"
            )
    return b"".join(parts)


async def send(request: Request, clock: Any, chunks: AsyncGenerator[bytes, None]) -> None:
    """Answer 200 with *chunks*.

    The first chunk is made before the status line is written: what fails until then is an
    ordinary error. What fails later aborts the connection, so that a cut answer is seen to be cut.
    """
    async with aclosing(chunks):
        first = await anext(chunks)
        if request.clientproto == b"HTTP/1.0":
            request.write(request.answer(await _whole(first, chunks)))
            return
        request.negotiate()
        request.channel.transport.SEND_LIMIT = SEND_LIMIT
        writer = Writer(request, clock)
        request.registerProducer(writer, True)
        deadline = clock.callLater(LONGEST_SECONDS, request.abort, "took too long")
        try:
            await writer.write(first)
            async for chunk in chunks:
                if chunk:
                    await writer.write(chunk)
        except CancelledError:
            raise
        except ClientStalled:
            request.abort("client stalled")
        except Exception:
            log.failure("operation {operation} failed while streaming", operation=request.operation)
            request.abort("failed while streaming")
        finally:
            if deadline.active():
                deadline.cancel()
            if request.channel is not None:
                request.unregisterProducer()
