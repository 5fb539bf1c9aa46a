"""Every route: path, method, the right that it needs, and its handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from klein import Klein

from mig.api import errors
from mig.api.read import Read
from mig.api.request import Request
from mig.records import urls

Handler = Callable[[Request], Awaitable[bytes | None]]


@dataclass(frozen=True, kw_only=True)
class Route:
    """*right* is what the caller must be allowed to do; with authentication off, all is granted."""

    path: str
    method: str
    right: str
    handler: Callable[[Read, Request], Awaitable[bytes | None]]


ROUTES: Final = (
    Route(path=urls.HOME, method="GET", right="", handler=Read.home),
    Route(path=urls.ACTION, method="GET", right="action", handler=Read.action),
    Route(path=urls.AGENT, method="GET", right="agent", handler=Read.agent),
    Route(path=urls.COMMAND, method="GET", right="command", handler=Read.command),
    Route(path=urls.INVESTIGATOR, method="GET", right="investigator", handler=Read.investigator),
    Route(path=urls.SEARCH, method="GET", right="search", handler=Read.search),
)


def application(base_path: str, read: Read) -> Klein:
    """The Klein application that serves :data:`ROUTES` below *base_path*."""
    app = Klein()
    app.url_map.merge_slashes = False
    errors.install(app)
    for path in dict.fromkeys(route.path for route in ROUTES):
        methods = {route.method: route.handler for route in ROUTES if route.path == path}
        app.route(base_path + path, strict_slashes=False, endpoint=path)(_endpoint(read, methods))
    return app


def _endpoint(read: Read, methods: dict[str, Any]) -> Handler:
    allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])

    async def endpoint(request: Request) -> bytes | None:
        method = request.method.decode()
        handler = methods.get("GET" if method == "HEAD" else method)
        if handler is not None:
            answer: bytes | None = await handler(read, request)
            return answer
        if method == "OPTIONS":
            request.setHeader(b"allow", allowed.encode())
            request.setResponseCode(204)
            return b""
        raise errors.MethodNotAllowed(method, allowed)

    return endpoint
