"""The body of an answer, read while it arrives and no faster than its reader takes it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Final, cast

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse

from mig.client.errors import IncompleteResponseError, InvalidResponseError
from mig.client.reading import GzipDecoder

MAX_BUFFERED_BYTES: Final = 131_072
"""How many bytes are kept for the reader before the sender has to wait."""


class BodyReader(Protocol):
    """The bytes of a body as they were sent."""

    def __init__(self, reactor: IReactorTime, stall_seconds: float) -> None:
        self._reactor = reactor
        self._stall_seconds = stall_seconds
        self._chunks: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._is_paused = False
        self._waiting: Deferred[None] | None = None
        self._end: Failure | None = None

    @property
    def _producer(self) -> IPushProducer:
        # the body of a response is delivered by one
        return cast(IPushProducer, self.transport)

    def dataReceived(self, data: bytes) -> None:
        """Keep the next bytes."""
        self._chunks.append(data)
        self._buffered_bytes += len(data)
        if self._buffered_bytes > MAX_BUFFERED_BYTES and not self._is_paused:
            self._is_paused = True
            self._producer.pauseProducing()
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Note the end of the body."""
        self._end = reason
        self._wake()

    def _wake(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, None
            waiting.callback(None)

    async def read(self) -> bytes:
        """Return the next bytes, or none at the end.

        :raises IncompleteResponseError: when the connection was lost before the end, and when no
            byte has arrived for ``stall_seconds``.
        """
        if not self._chunks and not self._end:
            await self._wait()
        if self._chunks:
            chunk = self._chunks.popleft()
            self._buffered_bytes -= len(chunk)
            return chunk
        # without a length, the end of the connection is that of the body: readers look for a cut
        if self._end and not self._end.check(ResponseDone, PotentialDataLoss):
            message = f"the connection was lost: {self._end.getErrorMessage()}"
            raise IncompleteResponseError(message)
        return b""

    async def _wait(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._producer.resumeProducing()
        if self._chunks or self._end:  # it may have been called at once
            return
        self._waiting = Deferred(self._forget)
        try:
            await self._waiting.addTimeout(self._stall_seconds, self._reactor)
        except defer.TimeoutError:
            self.abort()
            message = f"nothing arrived for {self._stall_seconds:g} seconds"
            raise IncompleteResponseError(message) from None

    def _forget(self, _: Deferred[None]) -> None:
        self._waiting = None

    def abort(self) -> None:
        """Close the connection, unless the body has ended."""
        if not self._end:
            cast(ITransport, self.transport).loseConnection()


class Response:
    """An answer whose body is read while it arrives."""

    def __init__(
        self, response: IResponse, encoding: str, reactor: IReactorTime, stall_seconds: float
    ) -> None:
        self.status = int(response.code)
        self._headers = response.headers
        self._encoding = encoding
        self._body = BodyReader(reactor, stall_seconds)
        response.deliverBody(self._body)

    def get_header(self, name: str) -> str:
        """Return the value of a header, or an empty text."""
        # as bytes: Twisted would fail where a server has sent something else than UTF-8
        values: Sequence[bytes] = self._headers.getRawHeaders(name.encode()) or [b""]
        return values[-1].decode("latin-1")

    @property
    def media_type(self) -> str:
        """The media type of the body, without parameters."""
        return self.get_header("content-type").partition(";")[0].strip().lower()

    async def read_chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the content of the body; it is aborted when the generator ends early.

        :raises IncompleteResponseError: when it was cut.
        :raises InvalidResponseError: when its encoding is not known, or wrong.
        """
        if self._encoding not in ("", "identity", "gzip", "x-gzip"):
            self._body.abort()
            raise InvalidResponseError(f"the answer has the encoding {self._encoding!r}")
        decoder = GzipDecoder() if "gzip" in self._encoding else None
        try:
            while chunk := await self._body.read():
                if decoder is None:
                    yield chunk
                    continue
                for piece in decoder.decode(chunk):
                    yield piece
            if decoder:
                decoder.close()
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the connection, unless the body has ended."""
        self._body.abort()
