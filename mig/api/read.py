"""The handlers that only read."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from difflib import get_close_matches
from http import HTTPStatus
from typing import Any, Final

from whenever import Instant

from mig.access.caller import Caller
from mig.api import errors
from mig.api.dashboard import Dashboard
from mig.compliance.encoder import ComplianceItems
from mig.database.pool import Database
from mig.errors import InvalidInput, NotFound, Unavailable, Unreadable
from mig.hypermedia import document as collection
from mig.hypermedia import templates as home
from mig.hypermedia.document import Data, Item, Link, Template
from mig.hypermedia.urls import Urls
from mig.model import action, agent, command, investigator
from mig.model.row import RunQuery
from mig.search.parameters import PARAMETERS, Search, parse_search
from mig.search.results import Format, Results
from mig.values import parse_id
from mig.web.request import Request
from mig.web.stream import send
from mig.web.urlencoded import Parameters

SLICE_BYTES: Final = 262_144

ById = Callable[[RunQuery, Urls, int], Awaitable[bytes | None]]

LISTS: Final[dict[str, Callable[[Urls], Format]]] = {
    "action": action.ActionList,
    "agent": agent.AgentList,
    "command": command.CommandList,
    "investigator": investigator.InvestigatorList,
}


class Read:
    """Answers GET requests from the database.

    :param reactor: the clock of deadlines and of the default search window.
    """

    def __init__(self, reactor: Any, database: Database, urls: Urls) -> None:
        self._reactor = reactor
        self._database = database
        self._large = 0
        self._urls = urls
        self._dashboard = Dashboard(reactor, database.query, urls)

    async def home(self, request: Request, caller: Caller) -> bytes:
        """What there is to find and to submit, for clients that know nothing of MIG."""
        _no_parameters(request)
        search = [Data(name=p.name, value="", prompt=p.prompt) for p in PARAMETERS]
        document = collection.document(
            self._urls.home(),
            links=home.links(self._urls),
            queries=home.queries(self._urls, search),
        )
        return request.answer(document)

    async def root(self, request: Request, caller: Caller) -> bytes:
        """The server's root: the way to the API."""
        request.setHeader(b"location", self._urls.home().encode())
        link = Link(rel="home", href=self._urls.home())
        return request.answer(collection.document(request.href(), links=[link]), HTTPStatus.FOUND)

    async def heartbeat(self, request: Request, caller: Caller) -> bytes:
        """That the service runs, in the words that existing monitoring looks for."""
        _no_parameters(request)
        data = [Data(name="heartbeat", value="gatorz say hi")]
        item = Item(href=request.href(), data=data)
        return request.answer(collection.document(request.href(), items=[item]))

    async def dashboard(self, request: Request, caller: Caller) -> bytes:
        """What the agents do now, and the last actions."""
        _no_parameters(request)
        items = await self._dashboard.items()
        return request.answer(collection.head(request.href()) + items + collection.tail())

    async def action_template(self, request: Request, caller: Caller) -> bytes:
        """What to fill in for a new action."""
        return self._template(request, home.ACTION)

    async def investigator_template(self, request: Request, caller: Caller) -> bytes:
        """What to fill in for a new investigator."""
        return self._template(request, home.INVESTIGATOR)

    async def update_template(self, request: Request, caller: Caller) -> bytes:
        """What to fill in to change an investigator."""
        return self._template(request, home.INVESTIGATOR_UPDATE)

    def _template(self, request: Request, template: Template) -> bytes:
        _no_parameters(request)
        return request.answer(collection.document(request.href(), template=template))

    async def action(self, request: Request, caller: Caller) -> bytes | None:
        """One action by its id, with links to its commands."""
        return await self._one(request, "action", action.by_id)

    async def agent(self, request: Request, caller: Caller) -> bytes | None:
        """One agent by its id."""
        return await self._one(request, "agent", agent.by_id)

    async def command(self, request: Request, caller: Caller) -> bytes | None:
        """One command by its id, with its action and its agent."""
        return await self._one(request, "command", command.by_id)

    async def investigator(self, request: Request, caller: Caller) -> bytes | None:
        """One investigator by its id, with the public key."""
        return await self._one(request, "investigator", investigator.by_id)

    async def _one(self, request: Request, noun: str, by_id: ById) -> bytes | None:
        id = _the_id(f"{noun}id", request.parameters())
        try:
            item = await by_id(self._database.query, self._urls, id)
        except Unreadable as reason:
            href = f"{self._urls.base}/{noun}?{noun}id={id}"
            item = collection.unreadable_item(noun, href, reason)
        if item is None:
            raise NotFound(f"there is no {noun} {id}")
        request.rows = 1
        document = collection.head(request.href()) + item + collection.tail()
        limits = request.site.limits
        if len(document) <= limits.whole_answer_bytes or request.clientproto == b"HTTP/1.0":
            return request.answer(document)
        if self._large >= limits.large_documents:
            raise Unavailable("too many large documents are being sent")
        self._large += 1
        try:
            await send(request, self._reactor, _slices(document))
        finally:
            self._large -= 1
        return None

    async def search(self, request: Request, caller: Caller) -> bytes | None:
        """A search, streamed in the form that it asks for."""
        now = Instant.from_timestamp(self._reactor.seconds())
        given = request.parameters()
        try:
            search = parse_search(given, now)
        except InvalidInput as refusal:
            shown = parse_search([], now)
            return errors.refused(request, refusal, [self._shown(request, shown)])
        if request.method == b"HEAD":
            request.negotiate()
            return b""
        await send(request, self._reactor, self._document(request, search))
        return None

    def _format(self, search: Search) -> Format:
        if search.report == "complianceitems":
            return ComplianceItems(self._urls)
        return LISTS[search.type](self._urls)

    async def _document(self, request: Request, search: Search) -> AsyncGenerator[bytes, None]:
        """The chunks of the document: the first has the head and the first page."""
        async with self._database.snapshot(f"mig-api {request.operation}") as snapshot:
            results = Results(snapshot, search, self._format(search))
            await results.open()
            pending = collection.head(request.href())
            empty = True
            async with aclosing(results.pages()) as pages:
                async for page in pages:
                    request.rows = results.rows
                    empty = empty and not page
                    yield pending + page
                    pending = b""
        end = b""
        if not search.report and search.cursor is None:
            separator = b"" if empty else collection.SEPARATOR
            end = separator + collection.encode(self._shown(request, search))
        yield end + collection.tail(self._links(search, results))

    def _shown(self, request: Request, search: Search) -> Item:
        return Item(
            href=request.href(), data=[Data(name="search parameters", value=search.shown())]
        )

    def _links(self, search: Search, results: Results) -> list[Link] | None:
        if results.more is None:
            return None
        values = {name: str(value) for name, value in search.given.items()}
        values |= {"after": search.after.format_iso(), "limit": str(search.limit)}
        values |= {"offset": "", "cursor": str(results.more)}
        href = self._urls.search((name, value) for name, value in values.items() if value)
        return [Link(rel="next", href=href)]


async def _slices(document: bytes) -> AsyncGenerator[bytes, None]:
    """A large document in pieces, so that a client that does not take them is cut."""
    for begin in range(0, len(document), SLICE_BYTES):
        yield document[begin : begin + SLICE_BYTES]


def _no_parameters(request: Request) -> None:
    for name, text in request.parameters():
        if text:
            raise InvalidInput(f"unknown parameter {name!r}; there are none here", name)


def _the_id(name: str, given: Parameters) -> int:
    """The one parameter of a request for a single document."""
    values = []
    for other, text in given:
        if other != name:
            near = get_close_matches(other.lower(), [name], 1)
            hint = f"; did you mean {name}?" if near else f"; it takes only {name}"
            raise InvalidInput(f"unknown parameter {other!r}{hint}", other)
        values.append(text)
    if len(values) > 1:
        raise InvalidInput(f"{name} is given twice", name)
    return parse_id(name, values[0] if values else "")
