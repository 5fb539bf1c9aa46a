"""Every route: its path, method, permission, body policy and handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import Any, Final, TypeVar

from klein import Klein, KleinRenderable, KleinRouteHandler
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, MapAdapter, Rule

from mig.access.caller import Caller
from mig.api import errors
from mig.api.actions import ActionResource
from mig.api.agents import AgentResource
from mig.api.apikeys import ApiKeyResource
from mig.api.audit import AuditResource
from mig.api.commands import CommandResource
from mig.api.dashboard import DashboardResource
from mig.api.guarded import CallerChecker, GuardedDatabase, make_guarded_endpoint
from mig.api.health import HealthResource
from mig.api.home import HomeResource
from mig.api.investigators import InvestigatorResource
from mig.api.search import SearchResource
from mig.errors import MethodNotAllowedError, NotFoundError
from mig.hypermedia import urls
from mig.limits import Limits, find_limit_key
from mig.model.permissions import ANY_CALLER, Permission
from mig.model.statement import QueryFunction
from mig.web.request import Request

DEFAULT_LIMITS: Final = Limits()


class BodyPolicy(Enum):
    """What a route does with a body; the value is the field of ``Limits`` for its length."""

    DISCARDED = "discarded_body_bytes"
    ACTION = "action_body_bytes"
    KEY = "key_body_bytes"

    @property
    def advice(self) -> str:
        """What a client whose body is too long can do; empty for nothing."""
        key = find_limit_key(self.value)
        advice = [f"{key} in the service's configuration raises this"] if key else []
        if self is BodyPolicy.KEY:
            advice.append("`gpg --export-options export-minimal` makes a key shorter")
        return ", and ".join(advice)


@dataclass(frozen=True, kw_only=True)
class Route:
    """One method of one path: the permission that the caller needs, and the handler.

    :param permission: ``None`` for an open route, which ignores credentials.
    :param resource_class: the class that the handler is a method of.
    :param handler: one that is guarded has another argument, the function by which it queries.
    :param is_guarded: whether the handler's first query checks the caller (docs/decisions/0060).
    :param is_streamed: whether a client that closes its sending side ends the request; otherwise it
        gets its answer (docs/decisions/0043).
    """

    path: str
    method: str
    permission: Permission | None
    body_policy: BodyPolicy
    resource_class: type
    handler: Callable[..., Awaitable[bytes | None]]
    is_streamed: bool = False
    is_guarded: bool = False


Resource = TypeVar("Resource")
AnswerCoroutine = Coroutine[Any, Any, bytes | None]


def _define_get(
    path: str,
    permission: Permission | None,
    resource_class: type[Resource],
    handler: Callable[[Resource, Request, Caller], AnswerCoroutine],
    *,
    is_streamed: bool = False,
) -> Route:
    body_policy = BodyPolicy.DISCARDED
    return Route(
        path=path,
        method="GET",
        permission=permission,
        body_policy=body_policy,
        resource_class=resource_class,
        handler=handler,
        is_streamed=is_streamed,
    )


def _define_guarded_get(
    path: str,
    permission: Permission,
    resource_class: type[Resource],
    handler: Callable[[Resource, Request, Caller, QueryFunction], AnswerCoroutine],
) -> Route:
    """Return a route whose handler makes its whole answer by the query function that it gets."""
    return Route(
        path=path,
        method="GET",
        permission=permission,
        body_policy=BodyPolicy.DISCARDED,
        resource_class=resource_class,
        handler=handler,
        is_guarded=True,
    )


def _define_post(
    path: str,
    permission: Permission,
    body_policy: BodyPolicy,
    resource_class: type[Resource],
    handler: Callable[[Resource, Request, Caller], AnswerCoroutine],
) -> Route:
    return Route(
        path=path,
        method="POST",
        permission=permission,
        body_policy=body_policy,
        resource_class=resource_class,
        handler=handler,
    )


ROUTES: Final = (
    _define_get(urls.HOME, None, HomeResource, HomeResource.get_home),
    _define_get(urls.HEARTBEAT, None, HomeResource, HomeResource.get_heartbeat),
    _define_get(urls.READINESS, None, HealthResource, HealthResource.get_readiness),
    _define_get(
        urls.DASHBOARD, Permission.DASHBOARD, DashboardResource, DashboardResource.get_dashboard
    ),
    _define_guarded_get(urls.ACTION, Permission.ACTION, ActionResource, ActionResource.get_action),
    _define_guarded_get(urls.AGENT, Permission.AGENT, AgentResource, AgentResource.get_agent),
    _define_guarded_get(
        urls.COMMAND, Permission.COMMAND, CommandResource, CommandResource.get_command
    ),
    _define_guarded_get(
        urls.INVESTIGATOR,
        Permission.INVESTIGATOR,
        InvestigatorResource,
        InvestigatorResource.get_investigator,
    ),
    _define_get(urls.PUBLIC_KEY, None, InvestigatorResource, InvestigatorResource.get_public_key),
    _define_get(urls.CLIENT_ADDRESS, None, HomeResource, HomeResource.get_client_address),
    _define_get(
        urls.SEARCH,
        Permission.SEARCH,
        SearchResource,
        SearchResource.run_search,
        is_streamed=True,
    ),
    _define_get(urls.AUDIT, Permission.INVESTIGATOR_UPDATE, AuditResource, AuditResource.get_audit),
    _define_get(
        urls.CREATE_ACTION, Permission.ACTION_CREATE, ActionResource, ActionResource.get_template
    ),
    _define_get(
        urls.CREATE_INVESTIGATOR,
        Permission.INVESTIGATOR_CREATE,
        InvestigatorResource,
        InvestigatorResource.get_template,
    ),
    _define_get(
        urls.UPDATE_INVESTIGATOR,
        Permission.INVESTIGATOR_UPDATE,
        InvestigatorResource,
        InvestigatorResource.get_update_template,
    ),
    _define_get(urls.API_KEY, ANY_CALLER, ApiKeyResource, ApiKeyResource.get_keys),
    _define_get(
        urls.CREATE_API_KEY, ANY_CALLER, ApiKeyResource, ApiKeyResource.get_create_template
    ),
    _define_get(
        urls.REVOKE_API_KEY, ANY_CALLER, ApiKeyResource, ApiKeyResource.get_revoke_template
    ),
    _define_post(
        urls.CREATE_ACTION,
        Permission.ACTION_CREATE,
        BodyPolicy.ACTION,
        ActionResource,
        ActionResource.create_action,
    ),
    _define_post(
        urls.CREATE_INVESTIGATOR,
        Permission.INVESTIGATOR_CREATE,
        BodyPolicy.KEY,
        InvestigatorResource,
        InvestigatorResource.create_investigator,
    ),
    _define_post(
        urls.UPDATE_INVESTIGATOR,
        Permission.INVESTIGATOR_UPDATE,
        BodyPolicy.KEY,
        InvestigatorResource,
        InvestigatorResource.update_investigator,
    ),
    _define_post(
        urls.CREATE_API_KEY,
        ANY_CALLER,
        BodyPolicy.KEY,
        ApiKeyResource,
        ApiKeyResource.create_key,
    ),
    _define_post(
        urls.REVOKE_API_KEY,
        ANY_CALLER,
        BodyPolicy.KEY,
        ApiKeyResource,
        ApiKeyResource.revoke_key,
    ),
)
ADMIN_ROUTES: Final = (
    _define_get("/healthz", None, HealthResource, HealthResource.get_liveness),
    _define_get("/readyz", None, HealthResource, HealthResource.get_detailed_readiness),
    _define_get("/version", None, HealthResource, HealthResource.get_version),
    _define_get("/metrics", None, HealthResource, HealthResource.get_metrics),
)
"""The routes of the admin listener, which only the host's operators can reach."""

_ROOT: Final = _define_get("/", None, HomeResource, HomeResource.redirect_to_home)


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
            by_path["/"] = {"GET": _ROOT}
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
