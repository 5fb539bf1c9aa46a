"""The site: all resources of the API in one web server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from urllib.parse import urlsplit

from twisted.internet.interfaces import IReactorTime

from mig import formats
from mig.access.authenticator import Authenticator
from mig.access.caller import ANONYMOUS, Caller
from mig.access.clientaddress import ClientIdentifier
from mig.actions.submit import Submitter
from mig.api import errors
from mig.api.actions import ActionResource
from mig.api.agents import AgentResource
from mig.api.apikeys import ApiKeyResource
from mig.api.audit import AuditResource
from mig.api.commands import CommandResource
from mig.api.dashboard import DashboardResource
from mig.api.docs import DocsResource
from mig.api.health import HealthResource
from mig.api.home import HomeResource
from mig.api.investigators import InvestigatorResource
from mig.api.responder import Responder
from mig.api.route import Route
from mig.api.router import Router
from mig.api.routes import ADMIN_ROUTES, DEFAULT_LIMITS, ROUTES
from mig.api.search import SearchResource
from mig.database.database import Database
from mig.formats.collection_json import MEDIA_TYPES
from mig.hypermedia.urls import Urls
from mig.investigators.apikeys import ApiKeyRegistry
from mig.investigators.registry import InvestigatorRegistry
from mig.limits import Limits
from mig.model.record import encode_json
from mig.reactor import Reactor, WallClock
from mig.web.gate import Authenticator as GateAuthenticator
from mig.web.pages import Pages
from mig.web.rates import RequestLimiter
from mig.web.request import Request
from mig.web.site import ApiSite, RequestObserver
from mig.web.streams import Streams


def authenticate_anonymously(request: Request) -> Caller:
    """Return the anonymous caller for every request."""
    return ANONYMOUS


def make_site(
    reactor: Reactor,
    database: Database,
    base: str,
    *,
    wall_clock: WallClock,
    actions: Submitter,
    investigators: InvestigatorRegistry,
    health: HealthResource,
    limits: Limits = DEFAULT_LIMITS,
    routes: Iterable[Route] = ROUTES,
    authenticate: GateAuthenticator = authenticate_anonymously,
    authenticator: Authenticator | None = None,
    clients: ClientIdentifier | None = None,
    streams: Streams | None = None,
    observers: Sequence[RequestObserver] = (),
) -> ApiSite:
    """Return the site that serves ``routes`` at the public URL ``base``.

    :param health: answers whether the service can.
    :param streams: all answers that are being streamed.
    :param authenticator: finds the caller of each request.
    :param authenticate: does so if there is no authenticator.
    """
    urls = Urls(base)
    responder = Responder(reactor, urls, limits, streams)
    limiter = RequestLimiter(reactor, limits)
    keys = ApiKeyRegistry(database, wall_clock, limits=limits)
    resources = (
        HomeResource(urls),
        health,
        DashboardResource(reactor, database.query, responder, limits),
        ActionResource(database, responder, actions),
        AgentResource(responder),
        CommandResource(responder, limits),
        InvestigatorResource(database, responder, investigators),
        ApiKeyResource(database, responder, keys, limits),
        SearchResource(wall_clock, database, responder, limits, limiter),
        AuditResource(reactor, wall_clock, database, responder),
        DocsResource(reactor, responder, partial(_build_openapi, routes, urls, limits)),
    )
    return ApiSite(
        reactor,
        base,
        wall_clock=wall_clock,
        router=Router(
            urlsplit(base).path.rstrip("/"), resources, database, routes, limits, authenticator
        ),
        authenticate=authenticator.authenticate if authenticator else authenticate,
        clients=clients or ClientIdentifier(),
        render_error=errors.answer_exception,
        media_types=MEDIA_TYPES,
        limits=limits,
        limiter=limiter,
        max_connections=limits.connections,
        observers=observers,
        pages=Pages(reactor, formats.MEDIA_TYPES, formats.load_html),
    )


def _build_openapi(routes: Iterable[Route], urls: Urls, limits: Limits) -> bytes:
    """Return the OpenAPI document of ``routes``."""
    from mig.api.openapi import build_openapi  # few processes need it

    return encode_json(build_openapi(routes, urls.base_path, limits))


def make_admin_site(
    reactor: IReactorTime,
    database: Database,
    *,
    wall_clock: WallClock,
    health: HealthResource,
    limits: Limits = DEFAULT_LIMITS,
) -> ApiSite:
    """Return the site of the admin listener: health, version and metrics, without credentials."""
    return ApiSite(
        reactor,
        "http://localhost",
        wall_clock=wall_clock,
        router=Router("", [health], database, ADMIN_ROUTES, limits),
        authenticate=authenticate_anonymously,
        clients=ClientIdentifier(),
        render_error=errors.answer_exception,
        media_types=MEDIA_TYPES,
        limits=limits,
        limiter=RequestLimiter(reactor, limits),
        max_connections=limits.admin_connections,
    )
