"""The web server: Klein's resource tree below our own request class."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from twisted.web.server import Site

from mig.api import errors, routes
from mig.api.read import Read
from mig.api.request import Request
from mig.database.pool import Database
from mig.records.urls import Urls

IDLE_SECONDS = 60


class ApiSite(Site):
    """Serves the API at the public URL *base*, for example ``http://localhost:1664/api/v1``."""

    def __init__(self, reactor: Any, database: Database, base: str) -> None:
        parts = urlsplit(base)
        self.urls = Urls(base)
        self.clock = reactor
        self.errors = errors
        self.public_host = parts.netloc.encode()
        name = (parts.hostname or "").lower()
        self.host_names = frozenset({f"[{name}]" if ":" in name else name})
        app = routes.application(parts.path.rstrip("/"), Read(reactor, database, self.urls))
        super().__init__(
            app.resource(),
            requestFactory=Request,
            timeout=IDLE_SECONDS,
            reactor=reactor,
            parsePOSTFormSubmission=False,
        )
        self.displayTracebacks = False

    def log(self, request: Any) -> None:
        """Requests write their own line."""
