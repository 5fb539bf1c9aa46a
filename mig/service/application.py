"""Where the parts are put together: the only place that builds them."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from typing import Any

from psycopg2 import ProgrammingError
from psycopg2.extensions import parse_dsn
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from mig.api.site import ApiSite
from mig.database.migrate import prepare
from mig.database.pool import Database
from mig.service.listeners import BadListener, Listener, bind
from mig.service.options import Options
from mig.values import Unavailable

BASE_PATH = "/api/v1"


class StartFailed(Exception):
    """The service cannot start; the message is one line for the operator."""


def make_service(options: Options) -> IService:
    """The service that *options* describe, its sockets bound.

    :raises StartFailed: for everything that can be known to be wrong before the reactor runs.
    """
    dsn = options["database"]
    if not dsn:
        raise StartFailed("no database is given; use --database postgresql://user@host/name")
    try:
        parse_dsn(dsn)
    except ProgrammingError:
        raise StartFailed("--database is no postgresql:// URL or connection string") from None
    listeners = [_bind(text) for text in options["listen"]]
    public = options["public-url"] or f"http://localhost:{listeners[0].port}"
    return ApiService(dsn, listeners, public.rstrip("/") + BASE_PATH)


def _bind(text: str) -> Listener:
    try:
        return bind(text)
    except BadListener as reason:
        raise StartFailed(f"--listen: {reason}") from None
    except OSError as reason:
        raise StartFailed(f"cannot listen on {text}: {reason.strerror}") from None


def _exit_with_failure() -> None:
    """End with status 1: twistd ends with 0 once its reactor stopped, whatever the reason."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


class ApiService(Service):
    """The daemon: a database, a site, and the sockets that it accepts on when both are ready."""

    log = Logger()
    name = "mig-api"

    def __init__(self, dsn: str, listeners: list[Listener], base: str) -> None:
        self._dsn = dsn
        self._listeners = listeners
        self._base = base
        self._ports: list[IListeningPort] = []
        self._database: Database | None = None

    def startService(self) -> None:
        super().startService()
        from twisted.internet import reactor

        starting = Deferred.fromCoroutine(self._start(reactor))
        starting.addErrback(lambda failure: self._give_up(reactor, failure))

    async def _start(self, reactor: Any) -> None:
        self._database = Database(reactor, self._dsn)
        await prepare(self._database)
        if not self.running:
            return
        site = ApiSite(reactor, self._database, self._base)
        for listener in self._listeners:
            fd = listener.socket.fileno()
            port = reactor.adoptStreamPort(fd, listener.socket.family, site)
            listener.socket.close()
            self._ports.append(port)
        gc.collect()
        gc.freeze()
        self.log.info("ready at {base}/", base=self._base)

    def _give_up(self, reactor: Any, failure: Any) -> None:
        if failure.check(Unavailable):
            self.log.critical("mig-api: {reason}", reason=failure.getErrorMessage())
        else:
            self.log.failure("mig-api cannot start", failure)
        atexit.register(_exit_with_failure)
        reactor.stop()

    async def _stop(self) -> None:
        for port in self._ports:
            await maybeDeferred(port.stopListening)
        if self._database:
            self._database.stop()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())
