"""The web server: Klein's resource tree below our own connection and request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from twisted.web.server import Site

from mig.actions.submit import Actions
from mig.api.read import Read
from mig.api.routes import ROUTES, Application, Body, Route
from mig.api.write import Write
from mig.database.pool import Database
from mig.errors import Unavailable
from mig.hypermedia.urls import Urls
from mig.investigators.registry import Investigators
from mig.web.channel import Channel
from mig.web.request import Request

IDLE_SECONDS: Final = 60

DISCARDED_BYTES: Final = 8_192
"""The longest body of a request whose route has no use for one."""

MOST_HELD_BYTES: Final = 67_108_864
"""How much of all bodies together is held at once."""


class ApiSite(Site):
    """Serves the API at the public URL *base*, for example ``http://localhost:1664/api/v1``.

    :param reactor: the clock of all deadlines.
    :param action_bytes: the longest body that submits an action.
    :param key_bytes: the longest body that submits or changes an investigator.
    """

    protocol: Any = Channel

    def __init__(
        self,
        reactor: Any,
        database: Database,
        base: str,
        *,
        actions: Actions,
        investigators: Investigators,
        action_bytes: int = 1_048_576,
        key_bytes: int = 65_536,
        routes: Iterable[Route] = ROUTES,
    ) -> None:
        parts = urlsplit(base)
        self.urls = Urls(base)
        self.clock = reactor
        self.public_host = parts.netloc.encode()
        self.public_origin = f"{parts.scheme}://{parts.netloc}"
        name = (parts.hostname or "").lower()
        self.host_names = frozenset({f"[{name}]" if ":" in name else name})
        self.held_bytes = 0
        self._longest = {
            Body.DISCARDED: DISCARDED_BYTES,
            Body.ACTION: action_bytes,
            Body.KEY: key_bytes,
        }
        owners = (
            Read(reactor, database, self.urls),
            Write(database, self.urls, actions, investigators),
        )
        self._application = Application(parts.path.rstrip("/"), owners, routes)
        super().__init__(
            self._application.klein.resource(),
            requestFactory=Request,
            timeout=IDLE_SECONDS,
            reactor=reactor,
            parsePOSTFormSubmission=False,
        )
        self.displayTracebacks = False

    def longest_body(self, path: str, method: str) -> int:
        """How many bytes the body of a request for the decoded *path* may have.

        :raises NotFound: for a path that has no route.
        :raises MethodNotAllowed: for a method that the path does not know.
        """
        return self._longest[self._application.body(path, method)]

    def hold(self, bytes: int) -> None:
        """Count *bytes* of a body that are kept, or with a minus are kept no longer.

        :raises Unavailable: when too much is held already.
        """
        if self.held_bytes + bytes > MOST_HELD_BYTES:
            raise Unavailable("too many requests are being sent at once")
        self.held_bytes += bytes

    def acceptableProtocols(self) -> list[bytes]:
        """HTTP/1.1 alone: what is checked here is the text of HTTP/1."""
        return [b"http/1.1"]

    def log(self, request: Any) -> None:
        """Requests write their own line."""
