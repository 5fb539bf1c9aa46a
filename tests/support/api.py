"""The API of a database, on a real socket, and a client for it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import treq
from psycopg2.extensions import make_dsn
from twisted.web.client import HTTPConnectionPool
from twisted.web.http_headers import Headers

from mig.access.authenticator import Authenticator
from mig.access.clientaddress import ClientIdentifier
from mig.access.refusals import RefusalRecorder
from mig.access.tokenverifier import limit_token_processes
from mig.actions.handoff import DatabaseHandoff, Handoff, NoHandoff
from mig.actions.outbox import Outbox
from mig.actions.parser import ActionParser
from mig.actions.spool import Spool
from mig.actions.store import ActionStore
from mig.actions.submit import Submitter
from mig.api.routes import ROUTES
from mig.database.database import Database
from mig.database.schema.declaration import API_ROLE
from mig.investigators.registry import InvestigatorRegistry
from mig.limits import Limits
from mig.reactor import WallClock
from mig.service.monitoring import Monitoring
from mig.service.site import authenticate_anonymously, make_site
from mig.signing.gpg.verify import Gpg
from mig.signing.keyring import Keyring
from mig.web.gate import Authenticator as GateAuthenticator
from mig.web.request import RequestEnded
from mig.web.streams import Streams
from tests.support.json_types import Json
from tests.support.reactor import listen_on, reactor, stop_listening

_STATUSES: Final = {
    (route.path, route.method): {
        route.description.answer.status,
        *route.list_error_statuses(),
    }
    for route in ROUTES
}


def is_documented(event: RequestEnded) -> bool:
    """Return whether the OpenAPI document has the status of the answer to a request."""
    key = (event.route or "", event.method.decode())
    was_answered = event.outcome in ("complete", "failed") or event.outcome.startswith("refused")
    if not was_answered or key not in _STATUSES or event.uri == b"/":
        return True
    return event.status in _STATUSES[key]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response with its whole body."""

    code: int
    headers: Headers
    body: bytes

    def get_header(self, name: str) -> str:
        """Return the value of a header that is there once."""
        values = self.headers.getRawHeaders(name, [])
        assert len(values) == 1, (name, values)
        return values[0]

    @property
    def document(self) -> Json:
        """The collection in the body."""
        return json.loads(self.body)["collection"]


class Api:
    """The API of a database, on a real socket, and a client for it.

    The header X-Forwarded-For names the client. ``ended`` lists the requests that have ended.
    """

    def __init__(
        self,
        dsn: str,
        spool: Path | None = None,
        handoff: str = "spool",
        limits: Limits = Limits(),  # noqa: B008 - nothing changes it
        *,
        authentication: bool = False,
        wall_clock: WallClock = time.time,
        authenticate: GateAuthenticator = authenticate_anonymously,
    ) -> None:
        # as in production, so that every test shows what this role needs
        self.database = Database(reactor, make_dsn(dsn, user=API_ROLE), limits=limits)
        self.gpg = Gpg(reactor, wall_clock)
        self.token_gpg = Gpg(reactor, wall_clock, limits=limit_token_processes(limits))
        self.parser = ActionParser(reactor, limits=limits)
        self.ended: list[RequestEnded] = []
        self.spool = spool
        if spool:
            Spool(spool).prepare_folders()
            self.handoff: Handoff = Outbox(reactor, self.database, Spool(spool))
        else:
            self.handoff = DatabaseHandoff() if handoff == "database" else NoHandoff()
        self.refusals = RefusalRecorder(reactor, self.database, limits)
        self.pool = HTTPConnectionPool(reactor, persistent=False)
        listener = listen_on("tcp:0")
        self.root = f"http://localhost:{listener.port}"
        self.base = f"{self.root}/api/v1"
        query, keyring = self.database.query, Keyring()
        store = ActionStore(self.database, self.handoff)
        self.authenticator = None
        if authentication:
            self.authenticator = Authenticator(
                reactor,
                wall_clock,
                self.database,
                keyring,
                self.token_gpg,
                token_seconds=600.0,
                limits=limits,
            )
            self.authenticator.start()
        streams = Streams(limits)
        self.monitoring = Monitoring(
            reactor,
            self.database,
            self.handoff,
            Spool(spool) if spool else None,
            {"actions": self.gpg, "tokens": self.token_gpg},
            streams,
        )
        site = make_site(
            reactor,
            self.database,
            self.base,
            wall_clock=wall_clock,
            actions=Submitter(
                wall_clock, self.parser, query, self.gpg, keyring, store, self.handoff
            ),
            investigators=InvestigatorRegistry(self.database, self.gpg, keyring, limits=limits),
            health=self.monitoring.health,
            limits=limits,
            streams=streams,
            authenticate=authenticate,
            authenticator=self.authenticator,
            clients=ClientIdentifier(forwarded_entry=0),
            observers=[
                self.ended.append,
                self.refusals,
                self.monitoring.metrics.observe_request,
            ],
        )
        self.site = site
        self.port = listener.start_accepting(reactor, site)

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        """Return the answer to a request below the base route; *options* are those of treq."""
        url = path if path.startswith("http") else self.base + path
        response = await treq.request(method, url, pool=self.pool, allow_redirects=False, **options)
        body = await response.content()
        return Answer(code=response.code, headers=response.headers, body=body)

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.request("GET", path, **options)

    async def get_collection(self, path: str, status: int = 200) -> Json:
        """Return the collection that a path answers with."""
        answer = await self.get(path)
        assert answer.code == status, answer.body
        return answer.document

    async def stop(self) -> None:
        await stop_listening(self.port)
        await self.parser.stop()
        await self.gpg.stop()
        await self.token_gpg.stop()
        if self.authenticator:
            await self.authenticator.stop()
        await self.handoff.stop()
        await self.refusals.stop()
        self.database.stop()
        await self.pool.closeCachedConnections()
        assert not [event for event in self.ended if not is_documented(event)]
