"""Answers that are sent while they are made, as fast as the client takes them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from mig.errors import ClientStalledError, HttpVersionError, RequestError, describe_error
from mig.web.encoding import MIN_ENCODED_BYTES, SLICE_BYTES, ContentEncoder, make_encoder
from mig.web.request import Request
from mig.web.send_queue import count_unread_bytes, find_descriptor
from mig.web.streams import Streams

MAX_SEND_BYTES = 1_000_000
"""How much the transport sends at once; Twisted's default of 128 KiB takes a tenth more time."""

log = Logger()


class ChunkSource(Protocol):
    """What makes the chunks of an answer, on a connection that others may need."""

    @property
    def held_bytes(self) -> int:
        """How much it holds while it is suspended."""

    def should_suspend(self, paused_seconds: float) -> bool:
        """Return whether to give the connection back to a client that pauses."""

    async def suspend(self) -> None:
        """Give the connection back until the next chunk is read."""


@implementer(IPushProducer)
class ResponseWriter:
    """A producer that waits while the transport's buffer is full.

    The client must take a chunk within ``stall_seconds``, plus one second for each
    ``stall_bytes_per_second`` that it has to read for this (docs/decisions/0017). When it takes
    long, the source of the chunks is suspended (docs/decisions/0042).

    :param source: the source, if it can be suspended.
    :param encoder: the encoder of the answer, if its client accepts one.
    """

    def __init__(
        self,
        request: Request,
        clock: IReactorTime,
        streams: Streams,
        source: ChunkSource | None,
        encoder: ContentEncoder | None,
    ) -> None:
        self._request = request
        self._clock = clock
        self._limits = request.site.limits
        self._size = 0
        self._streams = streams
        self._source = source
        self._encoder = encoder
        self._is_paused = False
        self._room: Deferred[None] | None = None

    async def write(self, chunk: bytes) -> None:
        """Write ``chunk``; then await :meth:`wait_until_taken`.

        Until then the transport holds it, so the caller should not: it may take long.
        """
        if self._encoder is not None:
            chunk = await self._encode(self._encoder, chunk)
        self._size = len(chunk)
        self._request.write(chunk)

    async def _encode(self, encoder: ContentEncoder, chunk: bytes) -> bytes:
        """Return an encoded chunk; a large one is encoded while other requests are served."""
        parts = [encoder.encode(chunk[:SLICE_BYTES])]
        for begin in range(SLICE_BYTES, len(chunk), SLICE_BYTES):
            await deferLater(self._clock, 0)
            parts.append(encoder.encode(chunk[begin : begin + SLICE_BYTES]))
        return b"".join(parts)

    def write_end(self) -> None:
        """Write what tells the client that its answer is whole."""
        if self._encoder is not None:
            self._request.write(self._encoder.finish())

    async def wait_until_taken(self) -> None:
        """Return when there is room for another chunk.

        :raises ClientStalledError: when the client does not take the last chunk in time.
        """
        if not self._is_paused:
            return
        size = self._size + count_unread_bytes(self._request.channel.transport)
        patience = self._limits.stall_seconds + size / self._limits.stall_bytes_per_second
        waited = 0.0
        while self._source is not None and waited < patience:
            if self._should_suspend(self._source, waited):
                held_bytes = self._size + self._source.held_bytes
                with self._streams.count_suspended(self._request, held_bytes):
                    if self._encoder is not None:
                        self._request.write(self._encoder.release_memory())
                    await self._source.suspend()
                    await self._require_room(patience - waited)
                return
            step = min(self._limits.wanted_pause_seconds, patience - waited)
            if await self._wait_for_room(step):
                return
            waited += step
        await self._require_room(patience - waited)

    def _should_suspend(self, source: ChunkSource, waited: float) -> bool:
        if not source.should_suspend(waited):
            return False
        held_bytes = self._size + source.held_bytes
        if self._streams.can_suspend(held_bytes):
            return True
        # Other streams are cut only when someone waits for the connection.
        is_wanted = source.should_suspend(min(waited, self._limits.wanted_pause_seconds))
        return is_wanted and self._streams.make_room(self._request, held_bytes)

    async def _require_room(self, seconds: float) -> None:
        if not await self._wait_for_room(seconds):
            raise ClientStalledError

    async def _wait_for_room(self, seconds: float) -> bool:
        """Return whether the transport has room within ``seconds``."""
        if self._is_paused:
            room = self._room = Deferred()
            timeout = self._clock.callLater(max(seconds, 0), room.callback, None)
            try:
                await room
            finally:
                self._room = None
                if timeout.active():
                    timeout.cancel()
        return not self._is_paused

    def pauseProducing(self) -> None:
        """Let nothing more be written: the transport's buffer is full."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """Let more be written: the transport's buffer is empty."""
        self._is_paused = False
        if self._room is not None and not self._room.called:
            self._room.callback(None)

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
    request: Request,
    clock: IReactorTime,
    streams: Streams,
    chunks: AsyncGenerator[bytes, None],
    source: ChunkSource | None = None,
) -> None:
    """Answer 200 with ``chunks``.

    The first chunk is produced before the status line is written, so an error until then has an
    ordinary error answer. A later error aborts the connection: the client sees that the answer was
    cut.

    :param source: what makes the chunks, if it can be suspended.
    :raises UnavailableError: when too many answers are being streamed.
    """
    async with aclosing(chunks):
        with streams.count_stream(request):
            first = await anext(chunks)
            if request.clientproto == b"HTTP/1.0":
                document = await _join_chunks(first, chunks, request.site.limits.whole_answer_bytes)
                request.write(request.prepare_response(document))
                return
            encoding = request.choose_encoding()
            if encoding is not None:
                first = await _join_first_chunks(first, chunks)
                if len(first) < MIN_ENCODED_BYTES:
                    encoding = None
            writer = _start_response(request, clock, streams, source, encoding)
            await writer.write(first)
            del first  # like every chunk, it must be held only once while the client takes it
            await _write_chunks(request, clock, writer, chunks)


async def _join_first_chunks(first: bytes, chunks: AsyncGenerator[bytes, None]) -> bytes:
    """Return the first chunks together, as many as show whether the answer is small."""
    while len(first) < MIN_ENCODED_BYTES:
        following = await anext(chunks, None)
        if following is None:
            break
        first += following
    return first


def _start_response(
    request: Request,
    clock: IReactorTime,
    streams: Streams,
    source: ChunkSource | None,
    encoding: str | None,
) -> ResponseWriter:
    request.set_headers()
    if encoding is not None:
        request.setHeader(b"content-encoding", encoding.encode())
    descriptor = find_descriptor(request.channel.transport)
    if descriptor is not None:
        descriptor.SEND_LIMIT = MAX_SEND_BYTES  # internal: docs/twisted-internals.md
    encoder = None if encoding is None else make_encoder(encoding)
    writer = ResponseWriter(request, clock, streams, source, encoder)
    request.registerProducer(writer, True)
    return writer


async def _write_chunks(
    request: Request,
    clock: IReactorTime,
    writer: ResponseWriter,
    chunks: AsyncGenerator[bytes, None],
) -> None:
    """Write ``chunks`` after the first one, which has been written."""
    deadline = clock.callLater(request.site.limits.stream_seconds, request.abort, "took too long")
    try:
        await writer.wait_until_taken()
        async for chunk in chunks:
            if chunk:
                await writer.write(chunk)
            del chunk
            await writer.wait_until_taken()
        writer.write_end()
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
