"""Searches and compliance reports: parameters → pages of rows → a format → the client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Final

from whenever import Instant

from mig.access.caller import Caller
from mig.api.errors import answer_refusal
from mig.api.responder import Responder
from mig.compliance.quota import SummaryQuota
from mig.compliance.selection import AnswerKeeper
from mig.database.database import Database, Snapshot
from mig.errors import InvalidInputError, NoResultsError, QueryCancelledError, RequestError
from mig.formats.format import DocumentTail, Format
from mig.formats.seal import Seal
from mig.hypermedia.document import Data, Item, Link
from mig.limits import Limits
from mig.model.search import SearchParameters
from mig.reactor import WallClock, run_in_slices
from mig.search.item_limit import ItemLimit
from mig.search.kinds import MAX_COUNT
from mig.search.order import PagePosition, make_cursor_error
from mig.search.parameters import COMPLIANCE_SUMMARY
from mig.search.records import find_record_type, make_row_encoder
from mig.search.results import Preparation
from mig.search.search import Search, parse_search
from mig.search.stream import PageStream, SearchStream
from mig.search.summary import SummaryStream
from mig.search.targeted_agents import find_targeted_agents
from mig.tracing import build_application_name
from mig.web.gate import check_origin
from mig.web.rates import RequestLimiter
from mig.web.request import Request

RESUMPTION_PROMPT: Final = (
    "these results were read later than those before them, while the client was slow"
)


class SearchResource:
    """The handler of searches.

    :param wall_clock: the time of day, at which the default search window ends.
    :param limiter: refuses clients and callers that have too many long answers.
    """

    def __init__(
        self,
        wall_clock: WallClock,
        database: Database,
        responder: Responder,
        limits: Limits,
        limiter: RequestLimiter,
    ) -> None:
        self._wall_clock = wall_clock
        self._database = database
        self._responder = responder
        self._limits = limits
        self._limiter = limiter
        self._answers = AnswerKeeper(limits)
        self._summaries = SummaryQuota(limits)

    async def run_search(self, request: Request, caller: Caller) -> bytes | None:
        """Answer a search or a report, streamed in the format that the client prefers."""
        now = Instant.from_timestamp(self._wall_clock())
        pairs = request.parse_query()
        try:
            search = parse_search(pairs, now)
        except InvalidInputError as refusal:
            return _answer_refused_search(request, refusal, parse_search([], now).echo_parameters())
        try:
            format_ = self._responder.make_format(
                request,
                find_record_type(search),
                search.parsed_values,
                subject=search.report or search.type,
                is_list=True,
            )
        except InvalidInputError as refusal:
            return _answer_refused_search(request, refusal, search.echo_parameters())
        if search.cursor is not None and search.cursor.items and format_.max_items is None:
            return _answer_refused_search(request, make_cursor_error(), search.echo_parameters())
        if not format_.is_paged:
            search = replace(search, default_limit=MAX_COUNT)
        if search.target is not None:  # its SQL runs before anything is answered
            check_origin(request)
        if request.method == b"HEAD":  # the query would run only to be thrown away
            request.set_headers()
            return b""
        try:
            if self._is_short(search):
                return await self._answer_search(request, format_, search, now)
            with self._limiter.count_stream(request.identified_client, caller):
                return await self._answer_search(request, format_, search, now)
        except (InvalidInputError, NoResultsError) as refusal:
            return _answer_refused_search(request, refusal, search.echo_parameters())

    def _is_short(self, search: Search) -> bool:
        """Return whether few rows are read for the answer.

        A summary reads all, and the newest answers of a page are known only after those before it.
        """
        reads_more = search.report == COMPLIANCE_SUMMARY or (
            search.takes_latest and search.cursor is not None
        )
        return search.limit <= self._limits.short_search_rows and not reads_more

    async def _answer_search(
        self, request: Request, format_: Format, search: Search, now: Instant
    ) -> bytes | None:
        if search.target is not None:
            agents = await find_targeted_agents(
                self._database, search.target, client=request.client_group, limits=self._limits
            )
            search = replace(search, targeted_agents=agents)
        if search.report == COMPLIANCE_SUMMARY:
            return await self._answer_summary(request, format_, search, now)
        if self._is_short(search) and not self._database.can_stream():
            answer = await self._answer_if_short(request, format_, search)
            if answer is not None:
                return answer
        async with self._keep_latest(request, search) as search:
            stream = self._make_stream(request, format_, search)
            document = self._encode_document(request, format_, search, stream)
            await self._responder.stream_document(request, document, stream)
        return None

    async def _answer_summary(
        self, request: Request, format_: Format, search: Search, now: Instant
    ) -> bytes | None:
        client = request.client_group
        async with self._keep_latest(request, search) as search:
            with self._summaries.open_share(client) as share:
                stream = SummaryStream(
                    search,
                    format_,
                    self._responder.urls,
                    self._limits,
                    open_snapshot=lambda: self._open_snapshot(request),
                    get_page_bytes=self._responder.streams.get_page_bytes,
                    preparation=self._start_preparation(),
                    share=share,
                    now=now,
                )
                document = self._encode_document(request, format_, search, stream)
                await self._responder.stream_document(request, document)
        return None

    @asynccontextmanager
    async def _keep_latest(self, request: Request, search: Search) -> AsyncIterator[Search]:
        """Return the search that keeps answers during the block, if it takes only the newest."""
        if search.takes_latest:
            with self._answers.keep_answers(request.client_group) as latest:
                try:
                    yield replace(search, latest=latest)
                finally:
                    await run_in_slices(self._responder.clock, latest.clear())
        else:
            yield search

    def _start_preparation(self) -> Preparation:
        return Preparation(self._responder.clock, self._limits.preparation_seconds)

    def _open_snapshot(
        self, request: Request, *, is_resumed: bool = False
    ) -> AbstractAsyncContextManager[Snapshot]:
        name = build_application_name(request.operation, request.trace)
        return self._database.snapshot(name, client=request.client_group, is_patient=is_resumed)

    async def _answer_if_short(
        self, request: Request, format_: Format, search: Search
    ) -> bytes | None:
        """Return the whole answer, unless it is long or takes long: it must not wait for streams.

        :raises UnavailableError: when the database cannot be reached in time.
        """
        async with self._keep_latest(request, search) as search:
            stream = self._make_stream(request, format_, search, is_short=True)
            parts: list[bytes] = []
            size = 0
            chunks = self._encode_document(request, format_, search, stream)
            try:
                async with aclosing(chunks):
                    async for chunk in chunks:
                        parts.append(chunk)
                        size += len(chunk)
                        if size > self._limits.short_answer_bytes:
                            return None
            except QueryCancelledError:
                return None
        return request.prepare_response(b"".join(parts))

    def _make_stream(
        self, request: Request, format_: Format, search: Search, *, is_short: bool = False
    ) -> SearchStream:
        client = request.client_group

        def open_snapshot(*, is_resumed: bool) -> AbstractAsyncContextManager[Snapshot]:
            if is_short:
                name = build_application_name(request.operation, request.trace)
                return self._database.short_snapshot(name, client=client)
            return self._open_snapshot(request, is_resumed=is_resumed)

        return SearchStream(
            search,
            open_snapshot=open_snapshot,
            make_encoder=lambda: make_row_encoder(
                search, format_, self._responder.urls, self._limits
            ),
            get_page_bytes=self._responder.streams.get_page_bytes,
            item_limit=_make_item_limit(format_, search),
            preparation=self._start_preparation(),
            is_connection_needed=lambda paused: self._is_connection_needed(client, paused),
        )

    def _is_connection_needed(self, client: str, paused_seconds: float) -> bool:
        if self._database.is_stream_overdrawn(client):
            return True
        is_wanted = self._database.is_stream_wanted()
        limits = self._limits
        return paused_seconds >= (
            limits.wanted_pause_seconds if is_wanted else limits.pause_seconds
        )

    async def _encode_document(
        self, request: Request, format_: Format, search: Search, stream: PageStream
    ) -> AsyncGenerator[bytes, None]:
        """Yield the document; its first chunk is the head and the first page."""
        href = request.build_url()
        seal = Seal() if format_.needs_seal else None
        # The head leaves with the first page, so that an error of the query still becomes an error
        # answer: stream_response writes nothing before the first chunk.
        pending = format_.encode_head(href)
        async with aclosing(stream):
            while not stream.is_complete:
                head, pending = pending, b""
                # without a name: it would keep a page in memory that waits for its client
                yield _add_to_seal(seal, head + await _read_page(request, search, stream))
        links = self._link_next_page(format_, search, stream.next_position)
        is_first_page_of_records = not search.report and search.cursor is None
        parameters = search.echo_parameters(stream.total) if is_first_page_of_records else None
        yield format_.encode_tail(
            DocumentTail(
                href=href,
                is_empty=not stream.has_items,
                links=[*links, *stream.links, *self._link_resumption(stream.resumption)],
                row_count=stream.row_count,
                seal=seal,
                parameters=parameters,
                total=stream.total,
            )
        )

    def _link_next_page(
        self, format_: Format, search: Search, position: PagePosition | None
    ) -> list[Link]:
        if position is None:
            return []
        # a page for browsers links to the same in other formats, which would have its limit
        is_limited = format_.max_items is None or "limit" in search.texts
        href = self._build_url(search, search.limit if is_limited else 0, position)
        return [Link(rel="next", href=href)]

    def _link_resumption(self, resumption: Search | None) -> list[Link]:
        """Return the link that tells a client that not all results are of the same moment."""
        if resumption is None or resumption.cursor is None or not resumption.limit:
            return []
        href = self._build_url(resumption, resumption.limit, resumption.cursor)
        return [Link(rel="resumed", href=href, prompt=RESUMPTION_PROMPT)]

    def _build_url(self, search: Search, limit: int, position: PagePosition) -> str:
        """Return the URL of the search for at most ``limit`` results after ``position``.

        :param limit: 0 for the default one.
        """
        parameters = dict(search.texts)
        # written out: the default of `after` moves with the clock, and that of `limit` may change
        parameters["limit"] = (str(limit),) if limit else ()
        if search.after is not None:
            parameters["after"] = (search.after.format_iso(),)
        # the cursor continues after the offset
        parameters |= {"offset": (), "cursor": (str(position),)}
        return self._responder.urls.for_search(
            (name, text) for name, texts in parameters.items() for text in texts
        )


def _make_item_limit(format_: Format, search: Search) -> ItemLimit | None:
    if format_.max_items is None:
        return None
    return ItemLimit(search.order, format_.max_items, format_.separator, search.cursor)


async def _read_page(request: Request, search: Search, stream: PageStream) -> bytes:
    page = await stream.read_page()
    if stream.total is not None:  # takes effect before the first page
        request.setHeader(b"x-total-count", b"%d" % stream.total)
    request.rows, request.items = stream.row_count, stream.item_count
    if search.must_find_something and stream.is_complete and not stream.row_count:
        raise NoResultsError
    return page


def _add_to_seal(seal: Seal | None, chunk: bytes) -> bytes:
    """Return a chunk of a document, after adding it to the document's seal, if it needs one."""
    return chunk if seal is None else seal.add(chunk)


def _answer_refused_search(
    request: Request, refusal: RequestError, parameters: SearchParameters
) -> bytes:
    """Refuse a search, with parameters as an item, which existing clients expect."""
    data = [Data(name=parameters.noun, value=parameters)]
    return answer_refusal(request, refusal, items=[Item(href=request.build_url(), data=data)])
