"""Answers in the format that the client prefers, in one piece or streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from whenever import Instant

from mig.errors import InvalidInputError, NotFoundError, UnavailableError
from mig.formats import COLLECTION, FORMATS
from mig.formats.collection_json import CollectionJson
from mig.formats.format import (
    AnyRecord,
    DocumentFormat,
    DocumentTail,
    Format,
    FormatOptions,
)
from mig.formats.seal import Seal
from mig.hypermedia.document import Link
from mig.hypermedia.urls import Urls
from mig.limits import Limits
from mig.model.record import Record
from mig.search.parameters import (
    DOCUMENT_PARAMETERS,
    PARAMETERS_BY_NAME,
    Parameter,
    find_parameter,
)
from mig.search.search import parse_values
from mig.values import parse_id
from mig.web.request import Request
from mig.web.stream import ChunkSource, stream_response
from mig.web.streams import Streams

_PAGE: Final = "html"  # no format of a parameter: only Accept asks for it

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
        formats: Mapping[str, Callable[[Urls, FormatOptions], Format]] = FORMATS,
    ) -> None:
        self.urls = urls
        self.streams = streams or Streams(limits)
        self.clock = reactor
        self._limits = limits
        self._large_documents = 0
        self._formats = formats
        self._media_types = {
            name: make(urls, FormatOptions()).media_types for name, make in formats.items()
        }
        self._names = {
            media_type: name
            for name, media_types in self._media_types.items()
            for media_type in media_types
        }

    def make_format(
        self,
        request: Request,
        record: type[Record],
        values: Mapping[str, Any],
        *,
        subject: str = "",
        is_list: bool = False,
        offered: Sequence[str] | None = None,
    ) -> Format:
        """Return the format of the answer: that of the parameters, or that which Accept prefers.

        :param record: the kind of record in the answer.
        :param values: the parameters of the request that have a value.
        :param subject: what the answer is about, for the name of a file; the record by default.
        :param is_list: whether the answer may have several records.
        :param offered: the names of the formats that it may have; by default all.
        :raises InvalidInputError: for a parameter that does not fit the format.
        """
        chosen: str | None = values.get("format")
        if request.is_page_wanted and chosen is None:
            # neither a form nor a route with one format has a parameter for another one
            has_parameter = request.method != b"POST" and offered is None
            alternatives = tuple(self._formats) if has_parameter else ()
            options = FormatOptions(record=record, is_list=is_list, alternatives=alternatives)
            return self._make_page(request, values, options)
        names = [chosen] if chosen else offered or list(self._formats)
        media_types = tuple(each for name in names for each in self._media_types[name])
        name = self._names[request.choose_media_type(media_types)]
        _check_options(name, values)
        options = FormatOptions(
            record=record,
            is_list=is_list,
            fields=values.get("fields"),
            ids_as_text=values.get("ids") == "text",
            is_limited="limit" in values,
            is_sealed=values.get("seal", False),
            is_raw=values.get("raw", False),
            has_bom=values.get("bom", False),
        )
        format_ = self._formats[name](self.urls, options)
        headers: dict[bytes, bytes] = {}
        if format_.file_extension:
            date = read_clock(request).format_iso()[:10]
            file = f"mig-{subject or record.noun}-{date}.{format_.file_extension}"
            headers[b"content-disposition"] = f'attachment; filename="{file}"'.encode()
        if options.is_limited and not format_.is_paged:
            headers[b"x-limit"] = b"%d" % values["limit"]
        request.describe_answer(format_.charset, headers)
        return format_

    def _make_page(
        self, request: Request, values: Mapping[str, Any], options: FormatOptions
    ) -> DocumentFormat:
        from mig.formats.html import Html

        _check_options(_PAGE, values)
        request.describe_page()
        return Html(self.urls, options)

    def make_document_format(
        self, request: Request, record: type[Record], values: Mapping[str, Any], title: str
    ) -> DocumentFormat:
        """Return the format of a list that has other items, too: Collection+JSON, or a page."""
        if request.is_page_wanted and "format" not in values:
            options = FormatOptions(
                record=record, is_list=True, title=title, alternatives=(COLLECTION,)
            )
            return self._make_page(request, values, options)
        request.choose_media_type(self._media_types[COLLECTION])
        _check_options(COLLECTION, values)
        return CollectionJson(self.urls, FormatOptions(ids_as_text=values.get("ids") == "text"))

    async def answer_record(
        self,
        request: Request,
        format_: Format,
        record: AnyRecord,
        links: Sequence[Link] = (),
        *,
        status: int = 200,
    ) -> bytes | None:
        """Answer with the document of one record.

        :raises UnavailableError: when too many large documents are being sent.
        """
        request.rows = 1
        encoded = format_.encode_record(record, links)
        document = encode_document(format_, request.build_url(), [encoded])
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
        format_: Format,
        records: Sequence[tuple[AnyRecord, Sequence[Link]]],
        links: Sequence[Link] = (),
    ) -> bytes:
        """Answer with the document of a few records, each with its links.

        :param links: of the document.
        """
        request.rows = len(records)
        encoded = [format_.encode_record(record, its_links) for record, its_links in records]
        document = encode_document(format_, request.build_url(), encoded, links)
        return request.prepare_response(document)

    async def stream_document(
        self,
        request: Request,
        chunks: AsyncGenerator[bytes, None],
        source: ChunkSource | None = None,
    ) -> None:
        """Answer with ``chunks`` as fast as the client takes them; ``source`` makes them."""
        await stream_response(request, self.clock, self.streams, chunks, source)


def encode_document(
    format_: Format, href: str, records: Sequence[bytes], links: Sequence[Link] = ()
) -> bytes:
    """Return a document of encoded records, one for each row.

    :param href: the document's address.
    """
    document = format_.encode_head(href) + format_.separator.join(records)
    seal = Seal() if format_.needs_seal else None
    if seal is not None:
        seal.add(document)
    tail = DocumentTail(
        href=href, is_empty=not records, links=links, row_count=len(records), seal=seal
    )
    return document + format_.encode_tail(tail)


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


def parse_document_query(noun: str, request: Request) -> tuple[int, dict[str, Any]]:
    """Return the id of the one record that a request asks for, and how it is to be written.

    :raises InvalidInputError: for another parameter, one that is given twice, and a value that is
        not accepted.
    """
    id_name = f"{noun}id"
    _, values = parse_values(
        request.parse_query(), list_document_parameters(id_name), read_clock(request)
    )
    record_id = values.pop(id_name, None)
    return record_id or parse_id(id_name, ""), values


@cache
def list_document_parameters(id_name: str) -> Mapping[str, Parameter]:
    """Return the parameters of the document of one record, whose id is the first, by name."""
    return {id_name: PARAMETERS_BY_NAME[id_name], **DOCUMENT_PARAMETERS}


def parse_collection_query(request: Request) -> dict[str, Any]:
    """Return how a document that has no other format than Collection+JSON is to be written.

    :raises InvalidInputError: as :func:`parse_document_query` does, and for another format.
    """
    _, values = parse_values(request.parse_query(), DOCUMENT_PARAMETERS, read_clock(request))
    if values.get("format", COLLECTION) != COLLECTION:
        raise InvalidInputError(
            f"format must be {COLLECTION} at this path, which has no other", "format"
        )
    return values


def read_clock(request: Request) -> Instant:
    """Return the current time, for parameters that depend on it."""
    return Instant.from_timestamp(request.site.wall_clock())


def _check_options(format_name: str, values: Mapping[str, Any]) -> None:
    """Refuse a parameter that does not fit the format of the answer.

    :raises InvalidInputError: naming both.
    """
    for name in values:
        formats = find_parameter(name).formats
        if formats is not None and format_name not in formats:
            chosen = "a page for browsers" if format_name == _PAGE else f"format={format_name}"
            raise InvalidInputError(
                f"{name} does not fit {chosen}, which the answer has; it is for"
                f" format={' and '.join(formats)}",
                name,
            )
