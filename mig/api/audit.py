"""Read the audit."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from whenever import Instant

from mig.access.caller import Caller
from mig.api.responder import Responder, encode_document, make_not_found_error
from mig.database.database import Database
from mig.formats.format import Format
from mig.hypermedia.document import Link
from mig.model.audit import AuditEntry
from mig.model.record import read_record
from mig.reactor import WallClock
from mig.search.audit import AuditSearch, load_page, parse_audit_search
from mig.web.request import Request

SLICE_ROWS: Final = 100
"""How many rows are encoded before the reactor runs again: entries can be long."""


class AuditResource:
    """The handler of the audit.

    :param wall_clock: the time of day, at which the default window ends.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        wall_clock: WallClock,
        database: Database,
        responder: Responder,
    ) -> None:
        self._reactor = reactor
        self._wall_clock = wall_clock
        self._database = database
        self._responder = responder

    async def get_audit(self, request: Request, caller: Caller) -> bytes | None:
        """Return a page of the audit, the newest entry first."""
        now = Instant.from_timestamp(self._wall_clock())
        search = parse_audit_search(request.parse_query(), now)
        format_ = self._make_format(request, search)
        if format_.max_items is not None:
            search = search.limit_to(format_.max_items)
        page = await load_page(self._database.query, search, search.values.get("cursor"))
        if search.entry_id is not None and not page.rows:
            raise make_not_found_error(AuditEntry.noun, search.entry_id)
        entries: list[bytes] = []
        for begin in range(0, len(page.rows), SLICE_ROWS):
            if begin:  # other requests are handled before the next slice
                await deferLater(self._reactor, 0)
            entries += (
                format_.encode_record(read_record(AuditEntry.noun, AuditEntry.from_row, row))
                for row in page.rows[begin : begin + SLICE_ROWS]
            )
        links = []
        if page.next_position is not None:
            href = self._responder.urls.for_audit(search.list_parameters(page.next_position))
            links.append(Link(rel="next", href=href))
        request.rows = len(entries)
        document = encode_document(format_, request.build_url(), entries, links)
        return await self._responder.answer_document(request, document)

    def _make_format(self, request: Request, search: AuditSearch) -> Format:
        # a page always has a limit, so that NDJSON and CSV tell where it has cut the answer
        values = {**search.options, "limit": search.limit}
        is_list = search.entry_id is None
        return self._responder.make_format(request, AuditEntry, values, is_list=is_list)
