"""Every route: path, method, the right that it needs, and its handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from klein import Klein
from werkzeug.exceptions import HTTPException

from mig.api import errors
from mig.api.read import Read
from mig.api.write import Write
from mig.errors import MethodNotAllowed
from mig.hypermedia import urls
from mig.web.request import Request

Handler = Callable[[Request], Awaitable[bytes | None]]


class Body(Enum):
    """What a route does with a request's body; the site knows how long each may be."""

    DISCARDED = auto()
    ACTION = auto()
    KEY = auto()


@dataclass(frozen=True, kw_only=True)
class Route:
    """*right* is what the caller must be allowed to do; with authentication off, all is granted."""

    path: str
    method: str
    right: str
    body: Body
    owner: type
    handler: Callable[[Any, Request], Awaitable[bytes | None]]


def _get(path: str, right: str, handler: Callable[[Read, Request], Any]) -> Route:
    return Route(
        path=path, method="GET", right=right, body=Body.DISCARDED, owner=Read, handler=handler
    )


def _post(path: str, right: str, body: Body, handler: Callable[[Write, Request], Any]) -> Route:
    return Route(path=path, method="POST", right=right, body=body, owner=Write, handler=handler)


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
    _post(urls.CREATE_ACTION, "action_create", Body.ACTION, Write.create_action),
    _post(urls.CREATE_INVESTIGATOR, "investigator_create", Body.KEY, Write.create_investigator),
    _post(urls.UPDATE_INVESTIGATOR, "investigator_update", Body.KEY, Write.update_investigator),
)


class Application:
    """The Klein application that serves *routes* below *base_path*.

    :param owners: whose method each handler is called as.
    """

    def __init__(
        self, base_path: str, owners: Iterable[Any], routes: Iterable[Route] = ROUTES
    ) -> None:
        by_type = {type(owner): owner for owner in owners}
        self.klein = Klein()
        self.klein.url_map.merge_slashes = False
        self._paths: dict[str, dict[str, Route]] = {}
        self._map = self.klein.url_map.bind("localhost")
        errors.install(self.klein)
        for route in routes:
            self._paths.setdefault(route.path, {})[route.method] = route
        for path, methods in self._paths.items():
            register = self.klein.route(base_path + path, strict_slashes=False, endpoint=path)
            register(_endpoint(by_type, methods))
        if base_path:
            self._paths["root"] = {"GET": _get("/", "", Read.root)}
            self.klein.route("/", endpoint="root")(_endpoint(by_type, self._paths["root"]))

    def body(self, path: str, method: str) -> Body:
        """What is done with the body of a request for the decoded *path*.

        :raises NotFound: for a path that has no route.
        :raises MethodNotAllowed: for a method that the path does not know.
        """
        try:
            endpoint, _ = self._map.match(path)
        except HTTPException:
            raise errors.nothing_here() from None
        methods = self._paths[endpoint]
        route = _route(methods, method)
        return Body.DISCARDED if route is None else route.body


def _allowed(methods: dict[str, Route]) -> str:
    return ", ".join([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])


def _route(methods: dict[str, Route], method: str) -> Route | None:
    """The route of *method*; ``None`` stands for OPTIONS, which every path answers.

    :raises MethodNotAllowed: when there is none.
    """
    route = methods.get("GET" if method == "HEAD" else method)
    if route is None and method != "OPTIONS":
        raise MethodNotAllowed(method, _allowed(methods))
    return route


def _endpoint(owners: dict[type, Any], methods: dict[str, Route]) -> Handler:
    allowed = _allowed(methods).encode()

    async def endpoint(request: Request) -> bytes | None:
        route = _route(methods, request.method.decode())
        if route is not None:
            return await route.handler(owners[route.owner], request)
        request.setHeader(b"allow", allowed)
        request.setResponseCode(204)
        return b""

    return endpoint
