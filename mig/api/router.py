"""The application that serves a table of routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import Any

from klein import Klein, KleinRenderable, KleinRouteHandler
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, MapAdapter, Rule

from mig.access.caller import Caller
from mig.api import errors
from mig.api.guarded import CallerChecker, GuardedDatabase, make_guarded_endpoint
from mig.api.route import BodyPolicy, Route
from mig.api.routes import DEFAULT_LIMITS, ROOT, ROUTES
from mig.errors import MethodNotAllowedError, NotFoundError
from mig.limits import Limits
from mig.model.permissions import Permission
from mig.web.request import Request

Endpoint = Callable[[Request], Awaitable[bytes | None] | bytes]


@dataclass(frozen=True, kw_only=True)
class ServedRoute:
    """A route as the gate uses it: see :class:`mig.web.interfaces.Route`."""

    path: str
    permission: Permission | None
    max_body_bytes: int
    body_limit_advice: str
    keeps_body: bool
    is_streamed: bool
    is_guarded: bool
    is_limited: bool
    resource: IResource
    endpoint: Endpoint


class Router:
    """The Klein application that serves ``routes`` below ``base_path``.

    :param resources: an instance of every resource class in ``routes``.
    :param queries: runs the queries of guarded handlers.
    :param callers: checks callers again when a guard fails; ``None`` if there are no guards.
    """

    def __init__(
        self,
        base_path: str,
        resources: Iterable[object],
        queries: GuardedDatabase,
        routes: Iterable[Route] = ROUTES,
        limits: Limits = DEFAULT_LIMITS,
        callers: CallerChecker | None = None,
    ) -> None:
        self._queries = queries
        self._callers = callers
        self._resources = {type(resource): resource for resource in resources}
        self._limits = limits
        self._klein = Klein()
        self._klein.url_map.merge_slashes = False  # werkzeug would redirect paths with "//"
        self._map = self._klein.url_map.bind("localhost")
        self._served: dict[str, dict[str, ServedRoute]] = {}
        by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            by_path.setdefault(base_path + route.path, {})[route.method] = route
        if base_path:
            by_path["/"] = {"GET": ROOT}
        for path, methods in by_path.items():
            self._served[path] = self._declare_path(path, methods)

    def _declare_path(self, path: str, methods: Mapping[str, Route]) -> dict[str, ServedRoute]:
        """Declare ``path`` to Klein; return its methods with their routes."""
        self._klein.route(path, strict_slashes=False, endpoint=path)(_handle_request)
        [rule] = self._klein.url_map.iter_rules(path)
        klein_resource = _SingleRouteApplication(self._klein, rule).resource()
        served = {
            method: self._make_served_route(route, klein_resource, self._bind_endpoint(route))
            for method, route in methods.items()
        }
        if "GET" in served:
            served["HEAD"] = served["GET"]
        [any_route, *_] = methods.values()
        options = replace(
            any_route,
            method="OPTIONS",
            permission=None,
            body_policy=BodyPolicy.DISCARDED,
            is_streamed=False,
            is_guarded=False,
        )
        allowed = ", ".join([*served, "OPTIONS"])
        served["OPTIONS"] = self._make_served_route(
            options, klein_resource, _make_options_endpoint(allowed)
        )
        return served

    def _make_served_route(
        self, route: Route, klein_resource: IResource, endpoint: Endpoint
    ) -> ServedRoute:
        return ServedRoute(
            path=route.path,
            permission=route.permission,
            max_body_bytes=getattr(self._limits, route.body_policy.value),
            body_limit_advice=route.body_policy.advice,
            keeps_body=route.body_policy is not BodyPolicy.DISCARDED,
            is_streamed=route.is_streamed,
            is_guarded=route.is_guarded,
            is_limited=route.is_limited,
            resource=klein_resource,
            endpoint=endpoint,
        )

    def _bind_endpoint(self, route: Route) -> Endpoint:
        handler, resource = route.handler, self._resources[route.resource_class]
        if route.is_guarded:
            return make_guarded_endpoint(partial(handler, resource), self._queries, self._callers)

        def endpoint(request: Request) -> Awaitable[bytes | None]:
            caller = request.caller
            assert isinstance(caller, Caller)  # authentication returns no other here
            return handler(resource, request, caller)

        return endpoint

    def resolve(self, path: str, method: str) -> ServedRoute:
        """Return the route for the decoded ``path`` and ``method``.

        :raises NotFoundError: for a path that has no route.
        :raises MethodNotAllowedError: for a method that the path does not allow.
        """
        try:
            endpoint, _ = self._map.match(path)
        except HTTPException:
            raise NotFoundError("there is nothing at this path") from None
        methods = self._served[endpoint]
        if method not in methods:
            raise MethodNotAllowedError(method, ", ".join(methods))
        return methods[method]


def _handle_request(request: Request) -> Awaitable[bytes | None] | bytes:
    """Call the endpoint of the route that the gate has found."""
    route = request.route
    assert isinstance(route, ServedRoute)  # our router returns no other
    return route.endpoint(request)


def _make_options_endpoint(allowed: str) -> Endpoint:
    def endpoint(request: Request) -> bytes:
        request.setHeader(b"allow", allowed.encode())
        request.setResponseCode(HTTPStatus.NO_CONTENT)
        return b""

    return endpoint


class _SingleRouteApplication(Klein):
    """An application with one route, which Klein finds without looking the path up again.

    ``KleinResource.render`` (klein 24.8) binds the URL map to the request and asks for the rule
    that matches. The gate has done that already, so this map returns the gate's rule. Klein then
    works as usual: it calls the endpoint, answers its errors, and cancels it when the client
    leaves (docs/decisions/0021).
    """

    def __init__(self, application: Klein, rule: Rule) -> None:
        super().__init__()
        self._application = application
        self._rule_map = _SingleRuleMap(rule)
        errors.install_error_handler(self)

    @property
    def url_map(self) -> Map:
        return self._rule_map

    @property
    def endpoints(self) -> dict[str, KleinRouteHandler]:
        return self._application.endpoints

    def execute_endpoint(
        self, endpoint: str, request: IRequest, *args: Any, **kwargs: Any
    ) -> KleinRenderable:
        return self._application.execute_endpoint(endpoint, request, *args, **kwargs)


class _SingleRuleMap(Map):
    """A URL map that always finds the same rule; a handler reads its argument from the path."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self._adapter = _SingleRuleAdapter(self, rule)

    def bind(self, *_: object, **__: object) -> MapAdapter:
        return self._adapter


class _SingleRuleAdapter(MapAdapter):
    def __init__(self, url_map: Map, rule: Rule) -> None:
        super().__init__(url_map, "localhost", "/", None, "http", "/", "GET")
        self._rule = rule

    def match(self, *_: object, **__: object) -> Any:
        return self._rule, {}
