"""Answers that are sent while they are made, as fast as the client takes them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from mig.errors import ClientStalledError, HttpVersionError, RequestError, describe_error
from mig.web.request import Request

MAX_SEND_BYTES = 1_000_000
"""How much the transport sends at once; Twisted's default of 128 KiB takes a tenth more time."""

log = Logger()


@implementer(IPushProducer)
class ResponseWriter:
    """A producer that waits while the transport's buffer is full.

    The client must take a chunk within ``stall_seconds``, plus one second for each
    ``stall_bytes_per_second`` in the chunk (docs/decisions/0017).
    """

    def __init__(self, request: Request, clock: IReactorTime) -> None:
        self._request = request
        self._clock = clock
        self._limits = request.site.limits
        self._paused: Deferred[None] | None = None

    async def write(self, chunk: bytes) -> None:
        """Write ``chunk`` and return when there is room for more.

        :raises ClientStalledError: when the client does not take it in time.
        """
        self._request.write(chunk)
        if self._paused is None:
            return
        timeout = self._limits.stall_seconds + len(chunk) / self._limits.stall_bytes_per_second
        deadline = self._clock.callLater(timeout, self._fail_stalled_write, self._paused)
        try:
            await self._paused
        finally:
            if deadline.active():
                deadline.cancel()

    def _fail_stalled_write(self, waiting: Deferred[None]) -> None:
        waiting.errback(ClientStalledError())

    def pauseProducing(self) -> None:
        """Make the next ``write`` wait: the transport's buffer is full."""
        if self._paused is None:
            self._paused = Deferred()

    def resumeProducing(self) -> None:
        """Let ``write`` return: the transport's buffer is empty."""
        waiting, self._paused = self._paused, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)

    def stopProducing(self) -> None:
        """Do nothing when the client has left: Klein cancels the handler."""


async def _join_chunks(first: bytes, chunks: AsyncGenerator[bytes, None], limit: int) -> bytes:
    """Return the whole answer, for a client that cannot tell a cut answer from a complete one.

    :raises HttpVersionError: when the answer is longer than ``limit`` bytes.
    """
    parts, length = [first], len(first)
    async for chunk in chunks:
        parts.append(chunk)
        length += len(chunk)
        if length > limit:
            raise HttpVersionError(
                f"an answer of more than {limit} bytes needs HTTP/1.1, since a client of"
                " HTTP/1.0 cannot see that it was cut (nginx: proxy_http_version 1.1)"
            )
    return b"".join(parts)


async def stream_response(
    request: Request, clock: IReactorTime, chunks: AsyncGenerator[bytes, None]
) -> None:
    """Answer 200 with ``chunks``.

    The first chunk is produced before the status line is written, so an error until then has an
    ordinary error answer. A later error aborts the connection: the client sees that the answer was
    cut.
    """
    async with aclosing(chunks):
        first = await anext(chunks)
        if request.clientproto == b"HTTP/1.0":
            document = await _join_chunks(first, chunks, request.site.limits.whole_answer_bytes)
            request.write(request.prepare_response(document))
            return
        request.set_headers()
        transport = request.channel.transport
        if isinstance(transport, FileDescriptor):
            transport.SEND_LIMIT = MAX_SEND_BYTES  # internal: docs/twisted-internals.md
        writer = ResponseWriter(request, clock)
        request.registerProducer(writer, True)
        deadline = clock.callLater(
            request.site.limits.stream_seconds, request.abort, "took too long"
        )
        try:
            await writer.write(first)
            async for chunk in chunks:
                if chunk:
                    await writer.write(chunk)
        except CancelledError:  # the client has left
            raise
        except ClientStalledError:
            request.abort("client stalled")
        except RequestError as reason:
            log.warn(
                "operation {operation} was cut off: {reason}",
                operation=request.operation,
                reason=describe_error(reason),
            )
            request.abort("failed while streaming")
        except Exception:
            log.failure("operation {operation} failed while streaming", operation=request.operation)
            request.abort("failed while streaming")
        finally:
            if deadline.active():
                deadline.cancel()
            if request.channel is not None:  # Twisted unsets it when the connection is lost
                request.unregisterProducer()
