"""The daemon's service: the only place that builds its parts and connects them."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from psycopg2 import ProgrammingError
from psycopg2.extensions import parse_dsn
from twisted.application.service import IService, IServiceCollection, Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from mig.access.authenticator import Authenticator
from mig.access.refusals import RefusalRecorder
from mig.access.tokenverifier import limit_token_processes
from mig.account import Account
from mig.actions.handoff import (
    NO_HANDOFF,
    DatabaseHandoff,
    Handoff,
    NoHandoff,
    has_database_scheduler,
)
from mig.actions.outbox import Outbox
from mig.actions.parser import ActionParser
from mig.actions.spool import Spool, SystemCalls
from mig.actions.store import ActionStore
from mig.actions.submit import Submitter
from mig.database.database import Database
from mig.database.schema.declaration import API_ROLE
from mig.database.schema.migrate import ensure_schema
from mig.database.schema.privileges import ensure_privileges
from mig.demo.postgres import EmbeddedPostgres
from mig.errors import (
    CertificateError,
    ConfigError,
    ListenerError,
    LogError,
    PoolerError,
    PostgresError,
    SchemaError,
    SpoolError,
    StartupError,
    UnavailableError,
    describe_error,
)
from mig.investigators.administrators import ADMINISTRATORS, describe_administrators
from mig.investigators.registry import InvestigatorRegistry
from mig.reactor import Reactor, get_reactor
from mig.service import config_file, logs
from mig.service.authentication import OFF_WARNING
from mig.service.certificates import ServerCertificate, check_database_files, load_certificates
from mig.service.config_file import Config
from mig.service.descriptors import fit_limits
from mig.service.endpoints import CertificateFiles
from mig.service.exposure import open_admin_listener, open_listeners
from mig.service.listeners import Listener
from mig.service.log_lines import TEXT
from mig.service.logs import FIXED_FORMAT, Log
from mig.service.memory import MemoryTrimmer, keep_free_memory
from mig.service.monitoring import NO_GPG, Monitoring
from mig.service.notify import SystemdNotifier
from mig.service.options import EMBEDDED_PREFIX, Options, find_account
from mig.service.reload import Reloader
from mig.service.settings import Settings, describe_ineffective_keys, list_warnings, read_settings
from mig.service.site import make_admin_site, make_site
from mig.service.stop import count_stop_seconds, end_requests
from mig.signing.gpg.verify import Gpg
from mig.signing.keyring import Keyring
from mig.web.site import ApiSite, RequestObserver
from mig.web.streams import Streams
from mig.web.tls import TlsFactory

START_ERRORS: Final = (CertificateError, ConfigError, LogError, PostgresError, SpoolError)
"""What the parts of a start raise; the message is one line."""


def make_service(
    options: Options,
    *,
    system_calls: SystemCalls | None = None,
    database_class: type[Database] = Database,
) -> IService:
    """Build the service that ``options`` describe, bind its sockets and lock its folder.

    Nothing here may start a thread or open a connection: twistd forks afterwards.

    :param system_calls: the operating system as the spool sees it.
    :param database_class: the class of the service's connection to PostgreSQL.
    :raises StartupError: for every fault that shows before the reactor runs.
    """
    reactor = get_reactor()  # before any other service schedules something by another clock
    parent: MutableMapping[str, object] = options.parent or {}
    configuration = Config()
    listeners: list[Listener] = []
    admin_listener: Listener | None = None
    try:
        if options["config"]:
            configuration = config_file.read_config_file(Path(options["config"]))
        settings = read_settings(options, configuration)
        account = find_account(parent)
        if not options["database"]:
            check_database_files(configuration.postgres, account)
        database = _resolve_database(reactor, settings.database, account)
        spool = _prepare_spool(settings, system_calls, account)
        limits = fit_limits(settings.limits, len(settings.endpoints) + 1)
        settings = replace(settings, limits=limits)
        listeners, authentication = _open_listeners(settings)
        if settings.admin_endpoint:
            admin_listener = _open_admin_listener(settings.admin_endpoint)
        settings = replace(settings, authentication=authentication)
        certificates = load_certificates(
            [each.certificate_files for each in listeners], account, time.time
        )
        # last, because twistd.log must not appear when the start is refused
        log = logs.configure_log(configuration.logging, parent, account)
    except (*START_ERRORS, StartupError) as reason:
        for listener in (*listeners, *filter(None, [admin_listener])):
            listener.close()
        raise StartupError(str(reason)) from None
    reloader = Reloader(
        Path(options["config"]) if options["config"] else None,
        configuration,
        [each.reload for each in certificates.values()],
    )
    reloader.add_receiver(lambda config: log.change_format(config.logging))
    reloader.add_receiver(lambda config: limits.change(config.limits))
    logs.handle_signals(reactor, log, reloader.reload)
    base = (settings.public_url or _make_local_url(listeners)) + settings.base_route
    return ApiService(
        database,
        listeners,
        base,
        settings,
        spool,
        admin_listener=admin_listener,
        certificates=certificates,
        warnings=[
            *_list_warnings(options, configuration, log),
            *filter(None, (each.find_fault() for each in certificates.values())),
        ],
        log_observer=log.observer,
        observers=[log.make_access_logger(configuration.logging)],
        database_class=database_class,
    )


def _list_warnings(options: Options, configuration: Config, log: Log) -> list[str]:
    """Return what the log says about the configuration at the start."""
    warnings = [describe_ineffective_keys(configuration), *list_warnings(options, configuration)]
    if log.lines is None and configuration.logging.format != TEXT:
        warnings.append(FIXED_FORMAT)
    return list(filter(None, warnings))


def _resolve_database(reactor: Reactor, text: str, account: Account) -> str | EmbeddedPostgres:
    """Return a connection string unchanged, or an embedded PostgreSQL with its folder locked.

    :raises StartupError: for a text that is neither.
    :raises PostgresError: when the folder cannot be used.
    """
    if text.startswith(EMBEDDED_PREFIX):
        if text == EMBEDDED_PREFIX:
            raise StartupError(
                "--database embedded: needs a folder, as in embedded:/var/lib/mig-api"
            )
        postgres = EmbeddedPostgres(
            reactor, Path(text.removeprefix(EMBEDDED_PREFIX)), account=account
        )
        postgres.lock_folder()
        return postgres
    try:
        parse_dsn(text)
    except ProgrammingError:
        raise StartupError(
            "--database must be a postgresql:// URL, a connection string or embedded:FOLDER"
        ) from None
    return text


def _prepare_spool(
    settings: Settings, system_calls: SystemCalls | None, account: Account
) -> Spool | None:
    """Return the scheduler's spool with its folders made and checked, if actions go through one.

    :param account: the account of the running daemon.
    :raises SpoolError: when a folder cannot be made or trusted.
    """
    if settings.spool is None:
        return None
    spool = Spool(settings.spool, system_calls, limits=settings.limits)
    spool.prepare_folders(account)
    return spool


def _open_listeners(settings: Settings) -> tuple[list[Listener], bool]:
    """Return the listeners, and whether callers need credentials."""
    try:
        return open_listeners(
            settings.endpoints, settings.authentication, cleartext=settings.cleartext
        )
    except ListenerError as reason:
        raise StartupError(f"{settings.endpoints_source}: {reason}") from None


def _open_admin_listener(text: str) -> Listener:
    try:
        return open_admin_listener(text)
    except ListenerError as reason:
        raise StartupError(f"--admin: {reason}") from None


def _make_local_url(listeners: Sequence[Listener]) -> str:
    scheme = "https" if listeners[0].certificate_files else "http"
    ports = [listener.port for listener in listeners if listener.port is not None]
    return f"{scheme}://localhost:{ports[0] if ports else config_file.DEFAULT_PORT}"


def _exit_with_failure() -> None:
    """End with status 1: twistd ends with 0 once its reactor has stopped, for any reason."""
    sys.stdout.flush()  # _exit skips the interpreter's own flush
    sys.stderr.flush()
    os._exit(1)


class ApiService(Service):
    """The daemon: a database, a site, and the sockets that accept once both are ready.

    :param database: a connection string, or a locked embedded PostgreSQL that is still to start.
    :param base: the public URL of the API.
    :param settings: the other settings of the daemon.
    :param spool: the scheduler's spool, if actions go through one.
    :param admin_listener: the listener for operators, if there is one.
    :param certificates: those of the listeners that have TLS.
    :param warnings: what the log says about the configuration at the start.
    :param log_observer: the observer that writes the log; ``None`` leaves the choice to twistd.
    :param observers: what is called when a request has ended.
    :param database_class: the class of the connection to PostgreSQL.
    """

    log = Logger()
    name = "mig-api"

    def __init__(
        self,
        database: str | EmbeddedPostgres,
        listeners: Sequence[Listener],
        base: str,
        settings: Settings,
        spool: Spool | None,
        *,
        admin_listener: Listener | None = None,
        certificates: Mapping[CertificateFiles, ServerCertificate],
        warnings: Sequence[str] = (),
        log_observer: ILogObserver | None = None,
        observers: Sequence[RequestObserver] = (),
        database_class: type[Database] = Database,
    ) -> None:
        self._database_source = database
        self._settings = settings
        self._spool = spool
        self._gpg: Gpg | None = None
        self._token_gpg: Gpg | None = None
        self._authenticator: Authenticator | None = None
        self._parser: ActionParser | None = None
        self._trimmer: MemoryTrimmer | None = None
        self._refusals: RefusalRecorder | None = None
        self._monitoring: Monitoring | None = None
        self._notifier: SystemdNotifier | None = None
        self._handoff: Handoff | None = None
        self._listeners = listeners
        self._admin_listener = admin_listener
        self._certificates = certificates
        self._base = base
        self._warnings = warnings
        self._log_observer = log_observer
        self._observers = observers
        self._database_class = database_class
        self._ports: list[IListeningPort] = []
        self._admin_port: IListeningPort | None = None
        self._site: ApiSite | None = None
        self._database: Database | None = None
        self._starting: Deferred[None] | None = None
        self._watching: Deferred[None] | None = None

    def setServiceParent(self, parent: IServiceCollection) -> None:
        """Join twistd's application, and register the log observer as its component."""
        if self._log_observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._log_observer)
        super().setServiceParent(parent)

    def startService(self) -> None:
        """Start as soon as the reactor runs."""
        super().startService()
        reactor = get_reactor()
        reactor.callWhenRunning(self._start_if_running, reactor)

    def stopService(self) -> Deferred[None]:
        """Cancel a start, or close everything in the order that loses nothing."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop_serving())

    def _start_if_running(self, reactor: Reactor) -> None:
        if self.running:
            self._starting = Deferred.fromCoroutine(self._start_serving(reactor))
            self._starting.addErrback(lambda failure: self._abort_start(reactor, failure))

    async def _start_serving(self, reactor: Reactor) -> None:
        for warning in self._warnings:
            self.log.warn("{warning}", warning=warning)
        self._database = self._database_class(
            reactor, await self._prepare_database(reactor), limits=self._settings.limits
        )
        await ensure_privileges(self._database)
        self._handoff = await self._choose_handoff(reactor, self._database)
        site = self._site = self._build_site(reactor, self._database, self._handoff)
        if self._authenticator is None:
            self.log.warn("{warning}", warning=OFF_WARNING)
        else:
            administrators = await self._database.query(ADMINISTRATORS)
            who = describe_administrators(administrators)
            self.log.info("authentication is on; {who}", who=who)
            self._authenticator.start()
        self._ports.extend(
            listener.start_accepting(
                reactor,
                self._add_tls(reactor, listener, site),
                on_exhaustion=site.connections.handle_exhaustion,
            )
            for listener in self._listeners
        )
        if self._admin_listener is not None:
            self._start_admin_site(reactor, self._admin_listener, self._database)
        # What the start has made lives as long as the process: no later collection visits it.
        gc.collect()
        gc.freeze()
        self.log.info("ready at {base}/", base=self._base)
        self._notifier = SystemdNotifier(reactor)
        self._notifier.start()
        if isinstance(self._database_source, EmbeddedPostgres):
            self._watching = Deferred.fromCoroutine(
                self._watch_postgres(reactor, self._database_source)
            )
            self._watching.addErrback(self._log_end_of_watch)

    def _start_admin_site(self, reactor: Reactor, listener: Listener, database: Database) -> None:
        assert self._monitoring is not None  # the site has been built
        site = make_admin_site(
            reactor,
            database,
            wall_clock=time.time,
            health=self._monitoring.health,
            limits=self._settings.limits,
        )
        self._admin_port = listener.start_accepting(reactor, site)

    def _add_tls(self, reactor: Reactor, listener: Listener, site: ApiSite) -> IProtocolFactory:
        """Return the site, with TLS around it if the listener has a certificate."""
        if listener.certificate_files is None:
            return site
        return TlsFactory(reactor, self._certificates[listener.certificate_files], site)

    async def _watch_postgres(self, reactor: Reactor, postgres: EmbeddedPostgres) -> None:
        """End the daemon when its PostgreSQL has ended: it could only answer 503."""
        await postgres.wait_until_ended()
        self.log.critical("mig-api: {reason}", reason=postgres.describe_end())
        self._end_with_failure(reactor)

    def _log_end_of_watch(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self.log.failure("PostgreSQL cannot be watched", failure)

    async def _choose_handoff(self, reactor: Reactor, database: Database) -> Handoff:
        """Return the hand-off of the settings, or the one of the database's generation."""
        if self._spool is not None:
            self.log.info("actions are handed over through the spool {spool}", spool=self._spool)
            return Outbox(reactor, database, self._spool, limits=self._settings.limits)
        if self._settings.handoff == "database":
            self.log.info("actions are handed over through the database")
            return DatabaseHandoff()
        if self._settings.handoff is None and await has_database_scheduler(database.query):
            self.log.info(
                "actions are handed over through the database, whose tables are of 2017 (set"
                " [scheduler] handoff to choose)"
            )
            return DatabaseHandoff()
        self.log.warn("{reason}", reason=NO_HANDOFF)
        return NoHandoff()

    def _build_site(self, reactor: Reactor, database: Database, handoff: Handoff) -> ApiSite:
        limits = self._settings.limits
        self._gpg = Gpg(reactor, time.time, limits=limits)
        self._parser = ActionParser(reactor, limits=limits)
        keep_free_memory()
        self._trimmer = MemoryTrimmer(reactor)
        self._refusals = RefusalRecorder(reactor, database, limits)
        if not self._gpg.is_installed():
            self.log.warn("{reason}", reason=NO_GPG)
        handoff.start()
        keyring = Keyring()
        if self._settings.authentication:
            self._authenticator = self._build_authenticator(reactor, database, keyring)
        store = ActionStore(database, handoff)
        streams = Streams(limits)
        gpgs = {"actions": self._gpg, "tokens": self._token_gpg}
        self._monitoring = Monitoring(
            reactor,
            database,
            handoff,
            self._spool,
            {purpose: gpg for purpose, gpg in gpgs.items() if gpg is not None},
            streams,
        )
        self._monitoring.start()
        return make_site(
            reactor,
            database,
            self._base,
            wall_clock=time.time,
            actions=Submitter(
                time.time, self._parser, database.query, self._gpg, keyring, store, handoff
            ),
            investigators=InvestigatorRegistry(database, self._gpg, keyring, limits=limits),
            health=self._monitoring.health,
            limits=limits,
            authenticator=self._authenticator,
            clients=self._settings.clients,
            streams=streams,
            observers=[
                *self._observers,
                self._trimmer,
                self._refusals,
                self._monitoring.metrics.observe_request,
            ],
        )

    def _build_authenticator(
        self, reactor: Reactor, database: Database, keyring: Keyring
    ) -> Authenticator:
        limits = self._settings.limits
        self._token_gpg = Gpg(reactor, time.time, limits=limit_token_processes(limits))
        return Authenticator(
            reactor,
            time.time,
            database,
            keyring,
            self._token_gpg,
            token_seconds=self._settings.token_seconds,
            limits=limits,
        )

    async def _prepare_database(self, reactor: Reactor) -> str:
        """Return the connection string of a running database that has the schema.

        The embedded database is also upgraded, as its owner; the daemon then serves as a role
        with fewer privileges.
        """
        embedded = isinstance(self._database_source, EmbeddedPostgres)
        if isinstance(self._database_source, EmbeddedPostgres):
            await self._database_source.start()
            owner, server = (
                self._database_source.format_dsn(),
                self._database_source.format_dsn(API_ROLE),
            )
        else:
            owner = server = self._database_source
        database = Database(reactor, owner, limits=self._settings.limits)
        try:
            await database.check_sessions()
            await ensure_schema(database, upgrade=embedded)
        finally:
            database.stop()
        return server

    def _abort_start(self, reactor: Reactor, failure: Failure) -> None:
        expected = failure.check(UnavailableError, PoolerError, SchemaError, PostgresError)
        if not self.running and (expected or failure.check(CancelledError)):
            return  # the service was stopped before it was ready: that is not a failure
        if expected and failure.value is not None:
            self.log.critical("mig-api: {reason}", reason=describe_error(failure.value))
        else:
            self.log.failure("mig-api cannot start", failure)
        self._end_with_failure(reactor)

    def _end_with_failure(self, reactor: Reactor) -> None:
        """End the process with status 1, after everything is closed."""
        atexit.register(_exit_with_failure)  # docs/decisions/0037
        if self.running:
            reactor.stop()

    async def _stop_serving(self) -> None:
        limits = self._settings.limits
        if self._notifier is not None:
            self._notifier.stop(count_stop_seconds(limits))
        if self._starting is not None:
            self._starting.cancel()
            await self._starting
        if self._watching is not None:
            self._watching.cancel()
        if self._monitoring:
            self._monitoring.begin_stop()
        for listener in self._listeners:
            listener.close()  # before its port: see Listener.close
        for port in self._ports:
            await maybeDeferred(port.stopListening)
        if self._site is not None and self._database is not None:
            await end_requests(get_reactor(), self._site, self._database, limits)
        if self._admin_listener is not None:  # until here, operators see what goes on
            self._admin_listener.close()
        if self._admin_port is not None:
            await maybeDeferred(self._admin_port.stopListening)
        if self._parser:
            await self._parser.stop()
        if self._trimmer:
            self._trimmer.stop()
        if self._monitoring:
            self._monitoring.stop()
        for gpg in (self._gpg, self._token_gpg):
            if gpg:
                await gpg.stop()
        if self._handoff:
            await self._handoff.stop()
        if self._authenticator:
            await self._authenticator.stop()
        if self._refusals:
            await self._refusals.stop()
        if self._database:
            self._database.stop()
        if isinstance(self._database_source, EmbeddedPostgres):
            await self._database_source.stop()
