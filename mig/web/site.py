"""The web server: what its connections and requests have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web import http
from twisted.web.resource import IResource, Resource

from mig.limits import Limits
from mig.web.body import BufferBudget
from mig.web.channel import Channel
from mig.web.gate import Authenticator, Gate
from mig.web.interfaces import Router
from mig.web.request import BaseSite, Request, RequestEnded

ErrorRenderer = Callable[[Request, BaseException], bytes]
"""Sets status and headers of the answer that tells of an error; returns its document."""

RequestObserver = Callable[[RequestEnded], None]
"""Is told when a request has ended."""


class ApiSite(BaseSite):
    """Serves the routes of *router* at the public URL *base*, as in ``http://localhost:1664/api``.

    :param clock: of all deadlines.
    :param media_types: those that a document is given as unless its handler says others.
    """

    protocol: Callable[[], Any] = Channel  # declared by Twisted to be its switch to HTTP/2
    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        base: str,
        *,
        router: Router,
        authenticate: Authenticator,
        render_error: ErrorRenderer,
        media_types: tuple[str, ...],
        limits: Limits,
        observers: Sequence[RequestObserver] = (),
    ) -> None:
        parts = urlsplit(base)
        self.public_root = f"{parts.scheme}://{parts.netloc}"
        self.clock = clock
        self.limits = limits
        self.media_types = media_types
        self.body_budget = BufferBudget(limits.total_body_bytes)
        self.check_request = Gate(base, router, authenticate).check_request
        self._render_error = render_error
        self._observers = observers
        super().__init__(
            Resource(),  # never asked: the route of a request has its own
            requestFactory=Request,
            timeout=limits.idle_seconds,
            reactor=clock,
            parsePOSTFormSubmission=False,
        )
        self.displayTracebacks = False

    @property
    def buffered_bytes(self) -> int:
        """How many bytes of bodies are held."""
        return self.body_budget.total

    def getResourceFor(self, request: Request) -> IResource:
        """Return the resource of the route that is known since the headers were complete."""
        assert request.route is not None
        return request.route.resource

    def render_error(self, request: Request, error: BaseException) -> bytes:
        """Set status and headers of the answer that tells of *error*; return its document."""
        return self._render_error(request, error)

    def notify_observers(self, event: RequestEnded) -> None:
        """Tell every observer that a request has ended; one that fails stops no other."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                self._log.failure(
                    "operation {operation} was not observed", operation=event.operation
                )

    def acceptableProtocols(self) -> list[bytes]:
        """HTTP/1.1 alone: what is checked here is the text of HTTP/1."""
        return [b"http/1.1"]

    def log(self, request: http.Request) -> None:
        """Requests have their own event when they end."""
