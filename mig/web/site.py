"""The web server: the state that its connections and requests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import Logger
from twisted.web import http
from twisted.web.resource import IResource, Resource

from mig.limits import Limits
from mig.reactor import WallClock
from mig.web.budget import BodyBudget
from mig.web.channel import Channel
from mig.web.connections import ConnectionLimiter
from mig.web.gate import Authenticator, Gate
from mig.web.interfaces import ClientIdentifier, Router
from mig.web.pages import Pages
from mig.web.rates import RequestLimiter
from mig.web.request import BaseSite, Request, RequestEnded
from mig.web.turns import FairScheduler

ErrorRenderer = Callable[[Request, BaseException], bytes]
"""A function that sets status and headers of the answer to an error, and returns its document."""

RequestObserver = Callable[[RequestEnded], None]
"""A function that is called when a request has ended."""


class ApiSite(BaseSite):
    """The server of the routes of ``router`` at the public URL ``base``.

    :param clock: the clock of all deadlines.
    :param wall_clock: the time of day, for the header Date.
    :param base: for example ``http://localhost:1664/api``.
    :param clients: finds the client of each request.
    :param media_types: those of every document whose handler does not offer others.
    :param limiter: refuses requests of clients that send too many.
    :param pages: decides which answers are pages for browsers; ``None`` if none of them are.
    """

    protocol: Callable[[], Any] = Channel  # Twisted declares its own type, a switch to HTTP/2
    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        base: str,
        *,
        wall_clock: WallClock,
        router: Router,
        authenticate: Authenticator,
        clients: ClientIdentifier,
        render_error: ErrorRenderer,
        media_types: tuple[str, ...],
        limits: Limits,
        limiter: RequestLimiter,
        max_connections: int,
        observers: Sequence[RequestObserver] = (),
        pages: Pages | None = None,
    ) -> None:
        parts = urlsplit(base)
        self.base = base
        self.public_root = f"{parts.scheme}://{parts.netloc}"
        self.clock = clock
        self.wall_clock = wall_clock
        self.clients = clients
        self.limits = limits
        self.media_types = media_types
        self.body_budget = BodyBudget(limits)
        self.connections = ConnectionLimiter(clock, max_connections)
        self.scheduler = FairScheduler(clock)
        self.is_stopping = False
        self.check_request = Gate(base, router, authenticate, limiter, pages).check_request
        self._render_error = render_error
        self._observers = observers
        super().__init__(
            Resource(),  # never used: getResourceFor returns the resource of the route
            requestFactory=Request,
            timeout=limits.idle_seconds,
            reactor=clock,
            parsePOSTFormSubmission=False,  # mig.web.forms is strict, and the gate limits bodies
        )
        self.displayTracebacks = False  # a client must not see our code

    def buildProtocol(  # type: ignore[override]  # Twisted declares the switch to HTTP/2
        self, addr: IAddress | None
    ) -> Channel | None:
        """Return the channel of a new connection, or ``None`` when it is turned away."""
        assert addr is not None
        group = self.clients.identify_peer(addr).group
        if not self.connections.make_room(group):
            return None
        channel = super().buildProtocol(addr)
        assert isinstance(channel, Channel)
        channel.peer_group = group
        return channel

    def stopFactory(self) -> None:
        """Stop what runs by the clock."""
        self.connections.stop()
        super().stopFactory()

    async def drain(self, seconds: float) -> None:
        """Answer what clients ask on open connections, each of which then ends.

        What has not ended after ``seconds`` is cut. The site must not accept any more.
        """
        self.is_stopping = True
        closed = self.connections.wait_until_closed()
        closed.addTimeout(seconds + self.limits.cut_seconds, self.clock, _go_on)
        calls = [
            self.clock.callLater(
                self.limits.last_request_seconds, self.connections.close_idle, used_only=True
            ),
            self.clock.callLater(
                self.limits.first_request_seconds, self.connections.close_idle, used_only=False
            ),
            self.clock.callLater(seconds, self.cut),
        ]
        try:
            await closed
        finally:
            for call in calls:
                if call.active():
                    call.cancel()

    def cut(self) -> None:
        """Cut every connection, so that clients see it; what they asked ends as ``stopped``."""
        self.connections.cut_all("stopped")

    @property
    def buffered_bytes(self) -> int:
        """How many bytes of request bodies are held."""
        return self.body_budget.total

    def getResourceFor(self, request: Request) -> IResource:
        """Return the resource of the route that the gate has found."""
        assert request.route is not None
        return request.route.resource

    def render_error(self, request: Request, error: BaseException) -> bytes:
        """Set the status and headers of the answer to an error; return its document."""
        return self._render_error(request, error)

    def notify_observers(self, event: RequestEnded) -> None:
        """Tell every observer that a request has ended, even if another observer fails."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                self._log.failure(
                    "an observer failed at the end of operation {operation}",
                    operation=event.operation,
                )

    def acceptableProtocols(self) -> list[bytes]:
        """Return HTTP/1.1 alone, since the gate checks the text of HTTP/1 requests."""
        return [b"http/1.1"]

    def log(self, request: http.Request) -> None:
        """Write nothing: ``notify_observers`` replaces the access log of Twisted."""


def _go_on(result: object, seconds: float) -> None:
    """Wait no longer for connections that have been cut."""
