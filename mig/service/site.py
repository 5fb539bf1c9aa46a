"""The site: every resource of the API, put together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from twisted.internet.interfaces import IReactorTime

from mig.access.caller import ANONYMOUS, Caller
from mig.actions.submit import Submitter
from mig.api import errors
from mig.api.actions import Actions
from mig.api.agents import Agents
from mig.api.commands import Commands
from mig.api.dashboard import Dashboard
from mig.api.documents import Documents
from mig.api.home import Home
from mig.api.investigators import Investigators
from mig.api.routes import DEFAULT_LIMITS, ROUTES, Application, Route
from mig.api.search import Searches
from mig.database.database import Database
from mig.formats.collection_json import MEDIA_TYPES
from mig.hypermedia.urls import Urls
from mig.investigators.registry import InvestigatorRegistry
from mig.limits import Limits
from mig.web.gate import Authenticator
from mig.web.request import Request
from mig.web.site import ApiSite, RequestObserver


def authenticate_anonymously(request: Request) -> Caller:
    """Authenticate nobody: everyone is the anonymous caller."""
    return ANONYMOUS


def make_site(
    reactor: IReactorTime,
    database: Database,
    base: str,
    *,
    actions: Submitter,
    investigators: InvestigatorRegistry,
    limits: Limits = DEFAULT_LIMITS,
    routes: Iterable[Route] = ROUTES,
    authenticate: Authenticator = authenticate_anonymously,
    observers: Sequence[RequestObserver] = (),
) -> ApiSite:
    """Return the site that serves *routes* at the public URL *base*."""
    urls = Urls(base)
    documents = Documents(reactor, urls, limits)
    resources = (
        Home(urls),
        Dashboard(reactor, database.query, urls, limits),
        Actions(database, documents, actions),
        Agents(database, documents),
        Commands(database, documents, limits),
        Investigators(database, documents, investigators),
        Searches(reactor, database, documents, limits),
    )
    return ApiSite(
        reactor,
        base,
        router=Application(urlsplit(base).path.rstrip("/"), resources, routes, limits),
        authenticate=authenticate,
        render_error=errors.render_error,
        media_types=MEDIA_TYPES,
        limits=limits,
        observers=observers,
    )
