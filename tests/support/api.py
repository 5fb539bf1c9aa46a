"""The API of a database, on a real socket, and a client for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import treq
from twisted.internet import reactor
from twisted.internet.interfaces import IListeningPort
from twisted.web.client import HTTPConnectionPool

from mig.actions.handoff import DatabaseHandoff, Handoff, NoHandoff
from mig.actions.outbox import Outbox
from mig.actions.spool import Spool
from mig.actions.store import ActionStore
from mig.actions.submit import Actions
from mig.api.routes import make_site
from mig.database.pool import Database
from mig.investigators.registry import Investigators
from mig.limits import Limits
from mig.service.listeners import bind
from mig.signing.gpg.verify import Gpg
from mig.signing.keyring import Keyring


class Api:
    """The API of a database, on a real socket, and a client for it."""

    def __init__(
        self,
        dsn: str,
        spool: Path | None = None,
        handoff: str = "spool",
        limits: Limits = Limits(),  # noqa: B008 - it is frozen
    ) -> None:
        self.database = Database(reactor, dsn)
        self.gpg = Gpg(reactor)
        self.spool = spool
        if spool:
            Spool(spool).prepare()
            self.handoff: Handoff = Outbox(reactor, self.database, Spool(spool))
        else:
            self.handoff = DatabaseHandoff() if handoff == "database" else NoHandoff()
        self.pool = HTTPConnectionPool(reactor, persistent=False)
        listener = bind("tcp:0")
        self.root = f"http://localhost:{listener.port}"
        self.base = f"{self.root}/api/v1"
        query, keyring = self.database.query, Keyring()
        store = ActionStore(self.database, self.handoff)
        site = make_site(
            reactor,
            self.database,
            self.base,
            actions=Actions(reactor, query, self.gpg, keyring, store, self.handoff),
            investigators=Investigators(self.database, self.gpg, keyring),
            limits=limits,
        )
        fd, family = listener.socket.fileno(), listener.socket.family
        self.port: IListeningPort = reactor.adoptStreamPort(fd, family, site)
        listener.socket.close()

    async def request(self, method: str, path: str, **kw: Any) -> Any:
        """The response to a request below the base route, and its body."""
        url = path if path.startswith("http") else self.base + path
        response = await treq.request(method, url, pool=self.pool, allow_redirects=False, **kw)
        response.body = await response.content()
        return response

    async def get(self, path: str, **kw: Any) -> Any:
        return await self.request("GET", path, **kw)

    async def collection(self, path: str, status: int = 200) -> Any:
        """The collection that a path answers with."""
        response = await self.get(path)
        document = await response.json()
        assert response.code == status, document
        return document["collection"]

    async def stop(self) -> None:
        await self.port.stopListening()
        await self.gpg.stop()
        await self.handoff.stop()
        self.database.stop()
        await self.pool.closeCachedConnections()
