"""Every route: path, method, the permission that it needs, its body, and its handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from http import HTTPStatus
from typing import Any, Final, TypeVar

from klein import Klein, KleinRenderable, KleinRouteHandler
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, MapAdapter, Rule

from mig.access.caller import Caller
from mig.access.permissions import Permission
from mig.api import errors
from mig.api.actions import Actions
from mig.api.agents import Agents
from mig.api.commands import Commands
from mig.api.dashboard import Dashboard
from mig.api.home import Home
from mig.api.investigators import Investigators
from mig.api.search import Searches
from mig.errors import MethodNotAllowedError, NotFoundError
from mig.hypermedia import urls
from mig.limits import Limits
from mig.web.request import Request

DEFAULT_LIMITS: Final = Limits()


class Body(Enum):
    """What a route does with a request's body, by the limit of its length."""

    DISCARDED = "discarded_body_bytes"
    ACTION = "action_body_bytes"
    KEY = "key_body_bytes"


@dataclass(frozen=True, kw_only=True)
class Route:
    """One method of one path: what the caller must be allowed to do, and what then happens.

    :param owner: whose method the handler is called as.
    """

    path: str
    method: str
    permission: Permission | None
    body: Body
    owner: type
    handler: Callable[[Any, Request, Caller], Awaitable[bytes | None]]


Owner = TypeVar("Owner")
Answer = Coroutine[Any, Any, bytes | None]


def _get(
    path: str,
    permission: Permission | None,
    owner: type[Owner],
    handler: Callable[[Owner, Request, Caller], Answer],
) -> Route:
    body = Body.DISCARDED
    return Route(
        path=path, method="GET", permission=permission, body=body, owner=owner, handler=handler
    )


def _post(
    path: str,
    permission: Permission,
    body: Body,
    owner: type[Owner],
    handler: Callable[[Owner, Request, Caller], Answer],
) -> Route:
    return Route(
        path=path, method="POST", permission=permission, body=body, owner=owner, handler=handler
    )


ROUTES: Final = (
    _get(urls.HOME, None, Home, Home.home),
    _get(urls.HEARTBEAT, None, Home, Home.heartbeat),
    _get(urls.DASHBOARD, Permission.DASHBOARD, Dashboard, Dashboard.get),
    _get(urls.ACTION, Permission.ACTION, Actions, Actions.get),
    _get(urls.AGENT, Permission.AGENT, Agents, Agents.get),
    _get(urls.COMMAND, Permission.COMMAND, Commands, Commands.get),
    _get(urls.INVESTIGATOR, Permission.INVESTIGATOR, Investigators, Investigators.get),
    _get(urls.SEARCH, Permission.SEARCH, Searches, Searches.get),
    _get(urls.CREATE_ACTION, None, Actions, Actions.template),
    _get(urls.CREATE_INVESTIGATOR, None, Investigators, Investigators.template),
    _get(urls.UPDATE_INVESTIGATOR, None, Investigators, Investigators.update_template),
    _post(urls.CREATE_ACTION, Permission.ACTION_CREATE, Body.ACTION, Actions, Actions.create),
    _post(
        urls.CREATE_INVESTIGATOR,
        Permission.INVESTIGATOR_CREATE,
        Body.KEY,
        Investigators,
        Investigators.create,
    ),
    _post(
        urls.UPDATE_INVESTIGATOR,
        Permission.INVESTIGATOR_UPDATE,
        Body.KEY,
        Investigators,
        Investigators.update,
    ),
)
_ROOT: Final = _get("/", None, Home, Home.root)


Endpoint = Callable[[Request], Awaitable[bytes | None] | bytes]


@dataclass(frozen=True, kw_only=True)
class ServedRoute:
    """A route as the gate knows it, see :class:`mig.web.interfaces.Route`."""

    path: str
    permission: Permission | None
    max_body_bytes: int
    keeps_body: bool
    resource: IResource
    endpoint: Endpoint


class Application:
    """The Klein application that serves *routes* below *base_path*.

    :param owners: whose method each handler is called as.
    """

    def __init__(
        self,
        base_path: str,
        owners: Iterable[object],
        routes: Iterable[Route] = ROUTES,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._owners = {type(owner): owner for owner in owners}
        self._limits = limits
        self._klein = Klein()
        self._klein.url_map.merge_slashes = False
        self._map = self._klein.url_map.bind("localhost")
        self._served: dict[str, dict[str, ServedRoute]] = {}
        by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            by_path.setdefault(base_path + route.path, {})[route.method] = route
        if base_path:
            by_path["/"] = {"GET": _ROOT}
        for path, methods in by_path.items():
            self._served[path] = self._serve(path, methods)

    def _serve(self, path: str, methods: Mapping[str, Route]) -> dict[str, ServedRoute]:
        """Declare *path* to Klein; return what its methods do."""
        self._klein.route(path, strict_slashes=False, endpoint=path)(_handle)
        [rule] = self._klein.url_map.iter_rules(path)
        resource = _OneRoute(self._klein, rule).resource()
        served = {
            method: self._served_route(route, resource, self._endpoint(route))
            for method, route in methods.items()
        }
        if "GET" in served:
            served["HEAD"] = served["GET"]
        [some, *_] = methods.values()
        options = replace(some, method="OPTIONS", permission=None, body=Body.DISCARDED)
        allowed = ", ".join([*served, "OPTIONS"])
        served["OPTIONS"] = self._served_route(options, resource, _tell_methods(allowed))
        return served

    def _served_route(self, route: Route, resource: IResource, endpoint: Endpoint) -> ServedRoute:
        return ServedRoute(
            path=route.path,
            permission=route.permission,
            max_body_bytes=getattr(self._limits, route.body.value),
            keeps_body=route.body is not Body.DISCARDED,
            resource=resource,
            endpoint=endpoint,
        )

    def _endpoint(self, route: Route) -> Endpoint:
        handler, owner = route.handler, self._owners[route.owner]

        def endpoint(request: Request) -> Awaitable[bytes | None]:
            caller = request.caller
            assert isinstance(caller, Caller)  # what authentication here returns
            return handler(owner, request, caller)

        return endpoint

    def resolve(self, path: str, method: str) -> ServedRoute:
        """Return the route of the decoded *path* and *method*.

        :raises NotFoundError: for a path that has no route.
        :raises MethodNotAllowedError: for a method that the path does not know.
        """
        try:
            endpoint, _ = self._map.match(path)
        except HTTPException:
            raise NotFoundError("there is nothing at this path") from None
        methods = self._served[endpoint]
        if method not in methods:
            raise MethodNotAllowedError(method, ", ".join(methods))
        return methods[method]


def _handle(request: Request) -> Awaitable[bytes | None] | bytes:
    """Call what answers the route that the gate found."""
    route = request.route
    assert isinstance(route, ServedRoute)  # what our router returns
    return route.endpoint(request)


def _tell_methods(allowed: str) -> Endpoint:
    def endpoint(request: Request) -> bytes:
        request.setHeader(b"allow", allowed.encode())
        request.setResponseCode(HTTPStatus.NO_CONTENT)
        return b""

    return endpoint


class _OneRoute(Klein):
    """An application of one route, which Klein finds without looking the path up again.

    ``KleinResource.render`` (klein 24.8) binds the URL map to the request and asks for the rule
    that matches. The gate has done that before; here Klein is given what was found, and goes on as
    ever: it calls the endpoint, answers its errors, and cancels it when the client leaves.
    """

    def __init__(self, application: Klein, rule: Rule) -> None:
        super().__init__()
        self._application = application
        self._found = _Found(rule)
        errors.install(self)

    @property
    def url_map(self) -> Map:
        return self._found

    @property
    def endpoints(self) -> dict[str, KleinRouteHandler]:
        return self._application.endpoints

    def execute_endpoint(
        self, endpoint: str, request: IRequest, *args: Any, **kwargs: Any
    ) -> KleinRenderable:
        return self._application.execute_endpoint(endpoint, request, *args, **kwargs)


class _Found(Map):
    """A URL map in which only one rule is ever looked for; no path of ours has arguments."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self._match = _Match(self, rule)

    def bind(self, *_: object, **__: object) -> MapAdapter:
        return self._match


class _Match(MapAdapter):
    def __init__(self, map: Map, rule: Rule) -> None:
        super().__init__(map, "localhost", "/", None, "http", "/", "GET")
        self._rule = rule

    def match(self, *_: object, **__: object) -> Any:
        return self._rule, {}
