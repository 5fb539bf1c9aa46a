"""Answers in the format that the client prefers, in one piece or streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Final

from twisted.internet.interfaces import IReactorTime

from mig.errors import InvalidInputError, NotFoundError, UnavailableError
from mig.formats import FORMATS
from mig.formats.format import AnyRecord, DocumentTail, Format
from mig.hypermedia.document import Link
from mig.hypermedia.urls import Urls
from mig.limits import Limits
from mig.values import parse_id, suggest_name
from mig.web.request import Request
from mig.web.stream import ChunkSource, stream_response
from mig.web.streams import Streams

SLICE_BYTES: Final = 262_144
"""The pieces of a large document: small enough that a slow client takes each one in time."""


class Responder:
    """The answers to requests, in one of the ``formats``."""

    def __init__(
        self,
        reactor: IReactorTime,
        urls: Urls,
        limits: Limits,
        streams: Streams | None = None,
        formats: Mapping[str, Callable[[Urls], Format]] = FORMATS,
    ) -> None:
        self.urls = urls
        self.streams = streams or Streams(limits)
        self._reactor = reactor
        self._limits = limits
        self._large_documents = 0
        instances = [make(urls) for make in formats.values()]
        self._formats = {name: format_ for format_ in instances for name in format_.media_types}
        self._media_types = tuple(self._formats)

    def choose_format(self, request: Request) -> Format:
        """Return the format that the client prefers."""
        return self._formats[request.choose_media_type(self._media_types)]

    async def answer_record(
        self, request: Request, record: AnyRecord, links: Sequence[Link] = (), *, status: int = 200
    ) -> bytes | None:
        """Answer with the document of one record.

        :raises UnavailableError: when too many large documents are being sent.
        """
        format_ = self.choose_format(request)
        request.rows = 1
        tail = DocumentTail(href=request.build_url(), is_empty=False)
        document = (
            format_.encode_head(request.build_url())
            + format_.encode_record(record, links)
            + format_.encode_tail(tail)
        )
        return await self.answer_document(request, document, status=status)

    async def answer_document(
        self, request: Request, document: bytes, *, status: int = 200
    ) -> bytes | None:
        """Answer with a whole document, in pieces if it is large.

        :raises UnavailableError: when too many large documents are being sent.
        """
        is_small = len(document) <= self._limits.whole_answer_bytes
        # A stream has no Content-Length, which a client of HTTP/1.0 needs.
        if is_small or request.clientproto == b"HTTP/1.0":
            return request.prepare_response(document, status)
        if self._large_documents >= self._limits.large_documents:
            raise UnavailableError("too many large documents are being sent at once")
        self._large_documents += 1
        request.setResponseCode(status)
        try:
            await self.stream_document(request, _split_document(document))
        finally:
            self._large_documents -= 1
        return None

    def answer_records(
        self,
        request: Request,
        records: Sequence[tuple[AnyRecord, Sequence[Link]]],
        links: Sequence[Link] = (),
    ) -> bytes:
        """Answer with the document of a few records, each with its links.

        :param links: of the document.
        """
        format_ = self.choose_format(request)
        items = [format_.encode_record(record, its_links) for record, its_links in records]
        tail = DocumentTail(href=request.build_url(), is_empty=not records, links=links)
        request.rows = len(records)
        return request.prepare_response(
            format_.encode_head(request.build_url())
            + format_.separator.join(items)
            + format_.encode_tail(tail)
        )

    async def stream_document(
        self,
        request: Request,
        chunks: AsyncGenerator[bytes, None],
        source: ChunkSource | None = None,
    ) -> None:
        """Answer with ``chunks`` as fast as the client takes them; ``source`` makes them."""
        await stream_response(request, self._reactor, self.streams, chunks, source)


async def _split_document(document: bytes) -> AsyncGenerator[bytes, None]:
    """Yield a large document in pieces, so that a client that stalls is disconnected."""
    for begin in range(0, len(document), SLICE_BYTES):
        yield document[begin : begin + SLICE_BYTES]


def make_not_found_error(noun: str, record_id: int) -> NotFoundError:
    """Return the error for a record that does not exist."""
    return NotFoundError(f"there is no {noun} {record_id}")


def make_deleted_error() -> UnavailableError:
    """Return the error for a record that was deleted just after it was stored."""
    return UnavailableError("the record was stored, but has been deleted since")


def refuse_parameters(request: Request) -> None:
    """Refuse a request that has a parameter with a value.

    :raises InvalidInputError: naming the parameter.
    """
    for name, text in request.parse_query():
        if text:
            raise InvalidInputError(
                f"unknown parameter {name!r}; this path has no parameters", name
            )


def parse_id_parameter(noun: str, request: Request) -> int:
    """Return the id of the one record that a request asks for.

    :raises InvalidInputError: for another parameter, a second id, and a value that is not an id.
    """
    name = f"{noun}id"
    values = []
    for other, text in request.parse_query():
        if other != name:
            hint = suggest_name(other.lower(), [name], f"the only parameter is {name}")
            raise InvalidInputError(f"unknown parameter {other!r}; {hint}", other)
        values.append(text)
    if len(values) > 1:
        raise InvalidInputError(f"{name} is given twice", name)
    return parse_id(name, values[0] if values else "")
