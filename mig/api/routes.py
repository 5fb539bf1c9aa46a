"""Every route: its path, method, permission, body policy and handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeVar

from mig.access.caller import Caller
from mig.api.actions import ActionResource
from mig.api.agents import AgentResource
from mig.api.apikeys import ApiKeyResource
from mig.api.audit import AuditResource
from mig.api.commands import CommandResource
from mig.api.dashboard import DashboardResource
from mig.api.health import HealthResource
from mig.api.home import HomeResource
from mig.api.investigators import InvestigatorResource
from mig.api.search import SearchResource
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
ROOT: Final = _define_get("/", None, HomeResource, HomeResource.redirect_to_home)
"""The route of the root of the server, if the API is below it."""
