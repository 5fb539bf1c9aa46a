"""The site without a database, with POST handlers that echo their fields."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from mig.access.caller import ANONYMOUS, Caller
from mig.api.health import HealthMonitor, HealthResource
from mig.api.routes import ROUTES
from mig.database.database import Database
from mig.hypermedia import templates as home
from mig.hypermedia import urls
from mig.hypermedia.document import Template
from mig.limits import Limits
from mig.service.site import authenticate_anonymously, make_site
from mig.web.forms import parse_form
from mig.web.gate import Authenticator
from mig.web.request import Request, RequestEnded
from mig.web.site import ApiSite, RequestObserver
from tests.support.json_types import Json

BASE = "http://mig.example:1664/api/v1"
CREATE = "/api/v1/action/create/"
FORM = "Content-Type: application/x-www-form-urlencoded"

FORMS: dict[str, tuple[Template] | tuple[Template, str]] = {
    urls.CREATE_ACTION: (home.ACTION, "action"),
    urls.CREATE_INVESTIGATOR: (home.INVESTIGATOR,),
    urls.UPDATE_INVESTIGATOR: (home.INVESTIGATOR_UPDATE,),
    urls.CREATE_API_KEY: (home.API_KEY_CREATION,),
    urls.REVOKE_API_KEY: (home.API_KEY_REVOCATION,),
}
Handler = Callable[[Any, Request, Caller], Awaitable[bytes]]


class PendingAuthenticator:
    """An authenticator that answers when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[Caller]] = []

    async def __call__(self, request: Request) -> Caller:
        answer: Deferred[Caller] = Deferred()
        self.waiting.append(answer)
        return await answer

    def accept_next(self, caller: Caller = ANONYMOUS) -> None:
        """Accept *caller* for the request that has waited longest."""
        self.waiting.pop(0).callback(caller)

    def refuse_next(self, error: Exception) -> None:
        """Refuse the request that has waited longest."""
        self.waiting.pop(0).errback(error)


class EchoRoutes:
    """Routes whose handlers echo the form, and the number of their calls."""

    def __init__(self) -> None:
        self.call_count = 0
        self.routes = [
            route
            if route.method == "GET"
            else replace(route, handler=self._make_echo_handler(*FORMS[route.path]))
            for route in ROUTES
        ]

    def _make_echo_handler(self, template: Template, object_field: str = "") -> Handler:
        async def handler(_: object, request: Request, caller: Caller) -> bytes:
            self.call_count += 1
            fields = parse_form(
                request.content_type,
                request.content.getvalue(),
                template,
                object_field=object_field,
                object_fields=("permissions",),
                optional=("permissions", "apikey"),
                max_object_values=Limits().action_values,
            )
            return request.prepare_response(json.dumps(fields).encode())

        return handler


def make_echo_site(
    reactor: Any,
    base: str,
    echo_routes: EchoRoutes,
    limits: Limits = Limits(),  # noqa: B008 - nothing changes it
    authenticate: Authenticator = authenticate_anonymously,
    observers: Sequence[RequestObserver] = (),
) -> ApiSite:
    """Return a site that has no handlers for POST except those of *echo_routes*."""
    nothing: Any = None
    return make_site(
        reactor,
        Database(reactor, ""),
        base,
        wall_clock=time.time,
        actions=nothing,
        investigators=nothing,
        health=HealthResource(HealthMonitor(reactor, []), nothing),
        limits=limits,
        routes=echo_routes.routes,
        authenticate=authenticate,
        observers=observers,
    )


class SiteClient:
    """One connection to the site, in memory, under a clock that the test moves.

    ``ended`` lists the requests that have ended.
    """

    def __init__(
        self,
        base: str = BASE,
        limits: Limits = Limits(),  # noqa: B008 - nothing changes it
        authenticate: Authenticator = authenticate_anonymously,
        observers: Sequence[RequestObserver] = (),
    ) -> None:
        self.clock = Clock()
        self.echo_routes = EchoRoutes()
        self.ended: list[RequestEnded] = []
        self.site = make_echo_site(
            self.clock,
            base,
            self.echo_routes,
            limits,
            authenticate,
            [*observers, self.ended.append],
        )
        self.connect()

    def connect(self, host: str = "127.0.0.1") -> None:
        """Open another connection, from the address *host*."""
        peer = (IPv6Address if ":" in host else IPv4Address)("TCP", host, 1)
        self.transport = StringTransport(peerAddress=peer)
        factory: IProtocolFactory = self.site
        channel = factory.buildProtocol(peer)
        assert channel is not None
        self.channel: Any = channel
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes) -> bytes:
        """Send *data*, and return what the site has answered since the last call."""
        self.channel.dataReceived(data)
        return self.take_output()

    def take_output(self) -> bytes:
        value: bytes = self.transport.value()
        self.transport.clear()
        return value

    def advance(self, seconds: float) -> bytes:
        """Move the clock, and return what the site answers in these *seconds*."""
        self.clock.advance(seconds)
        return self.take_output()

    def post_form(self, path: str, body: bytes, *headers: str) -> tuple[int, Json]:
        """Post a form below the base route, and return status and document."""
        lines = [f"Content-Length: {len(body)}", *headers]
        return parse_answer(self.send(build_post_head(f"/api/v1{path}", *lines) + body))


def build_post_head(path: str, *headers: str, host: str = "mig.example:1664") -> bytes:
    """Return the head of a POST request."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def parse_answer(answer: bytes) -> tuple[int, Json]:
    """Return status and document of one answer that has a Content-Length."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def parse_refusal(answer: bytes) -> tuple[int, str]:
    """Check the form of a refusal, and return its status and message."""
    status, document = parse_answer(answer)
    error = document["collection"]["error"]
    head = answer.partition(b"\r\n\r\n")[0].decode().lower()
    assert f"x-request-id: {error['code']}" in head
    assert "connection: close" in head
    assert "content-type: application/vnd.collection+json" in head
    return status, error["message"]
