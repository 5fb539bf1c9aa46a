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


def _get(path: str, right: str, handler: Callable[[Read, Request], Any]) -> Route:
    return Route(path=path, method="GET", right=right, handler=handler)


ROUTES: Final = (
    _get(urls.HOME, "", Read.home),
    _get(urls.HEARTBEAT, "", Read.heartbeat),
    _get(urls.DASHBOARD, "dashboard", Read.dashboard),
    _get(urls.ACTION, "action", Read.action),
    _get(urls.AGENT, "agent", Read.agent),
    _get(urls.COMMAND, "command", Read.command),
    _get(urls.INVESTIGATOR, "investigator", Read.investigator),
    _get(urls.SEARCH, "search", Read.search),
    _get(urls.CREATE_ACTION, "", Read.action_template),
    _get(urls.CREATE_INVESTIGATOR, "", Read.investigator_template),
    _get(urls.UPDATE_INVESTIGATOR, "", Read.update_template),
)


def application(base_path: str, read: Read) -> Klein:
    """The Klein application that serves :data:`ROUTES` below *base_path*."""
    app = Klein()
    app.url_map.merge_slashes = False
    errors.install(app)
    for path in dict.fromkeys(route.path for route in ROUTES):
        methods = {route.method: route.handler for route in ROUTES if route.path == path}
        app.route(base_path + path, strict_slashes=False, endpoint=path)(_endpoint(read, methods))
    if base_path:
        app.route("/", endpoint="root")(_endpoint(read, {"GET": Read.root}))
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
