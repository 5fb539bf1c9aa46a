"""What ``mig-api check`` finds out: whether the daemon could start here, and serve.

The parts are checked at the same time. Each has a time limit, and a fault of one hides no other.
Nothing is made or changed: no folder of the spool, no table in an empty database.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeVar

import msgspec
from psycopg2 import ProgrammingError
from psycopg2.extensions import parse_dsn
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThreadPool

from mig.account import Account
from mig.actions.handoff import NO_HANDOFF, has_database_scheduler
from mig.actions.spool import Spool
from mig.database.database import Database
from mig.database.schema.declaration import SCHEMA_VERSION
from mig.database.schema.migrate import check_schema
from mig.database.schema.privileges import ensure_privileges
from mig.errors import (
    CertificateError,
    ListenerError,
    StartupError,
    UnavailableError,
    describe_error,
)
from mig.limits import Limits
from mig.model.row import make_row_reader
from mig.model.statement import Statement
from mig.reactor import Reactor, WallClock
from mig.service.certificates import ServerCertificate, check_database_files
from mig.service.config_file import Config, inspect_config_file
from mig.service.endpoints import CertificateFiles, parse_endpoint
from mig.service.exposure import choose_authentication, parse_admin_endpoint
from mig.service.monitoring import NO_GPG
from mig.service.options import EMBEDDED_PREFIX, Options
from mig.service.settings import (
    choose_handoff,
    describe_ineffective_keys,
    list_endpoints,
    list_warnings,
    read_settings,
)
from mig.signing.gpg.process import GpgRun, GpgRunner, make_unreliable_error
from mig.values import escape_unprintable

Result = TypeVar("Result")

PART_SECONDS: Final = 15.0
"""How long the check of a part may take. A connection to the database, or gpg, has 10 s."""

CERTIFICATE_WARNING: Final = timedelta(days=14)
CLOCK_WARNING_SECONDS: Final = 2.0
CLOCK_FAILURE_SECONDS: Final = 60.0

State = Literal["ok", "warning", "failed"]
STATES: Final[tuple[State, ...]] = ("ok", "warning", "failed")
"""From the best to the worst."""


class Finding(msgspec.Struct, frozen=True):
    """The state of a part, and why."""

    state: State
    detail: str


class Report(msgspec.Struct, frozen=True):
    """What was found; ``status`` is the worst state of a part."""

    status: State
    parts: dict[str, Finding]


class _ClockRow(NamedTuple):
    seconds: float


_CLOCK = Statement(
    "select extract(epoch from clock_timestamp())::double precision", make_row_reader(_ClockRow)
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the service, and the coroutine function that checks it."""

    name: str
    check: Callable[[], Awaitable[Finding]]


class ServiceCheck:
    """A check of everything that a daemon with some options needs, with the rights of this process.

    :param wall_clock: the clock that is compared with the database's.
    """

    def __init__(self, reactor: Reactor, wall_clock: WallClock, options: Options) -> None:
        self._reactor = reactor
        self._wall_clock = wall_clock
        self._options = options
        self._configuration = Config()
        self._database: Database | None = None

    async def run(self) -> Report:
        """Check all parts."""
        first = Part(name="configuration", check=self._check_configuration)
        others = [
            Part(name="database", check=self._check_database),
            Part(name="schema", check=self._check_schema),
            Part(name="clock", check=self._check_clock),
            Part(name="spool", check=self._check_spool),
            Part(name="gpg", check=self._check_gpg),
            Part(name="certificate", check=self._check_certificates),
        ]
        try:
            found = await check_parts(self._reactor, [first])  # the others need it
            found |= await check_parts(self._reactor, others)
        finally:
            if self._database is not None:
                self._database.stop()
        return Report(status=_find_worst(found.values()), parts=found)

    def _call_in_thread(self, function: Callable[[], Result]) -> Deferred[Result]:
        """Call a function that may block, as on the file system of another host."""
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function)

    async def _check_configuration(self) -> Finding:
        faults = await self._call_in_thread(self._read_configuration)
        if faults:
            return Finding("failed", "; ".join(faults))
        file = self._options["config"] or "no file"
        warnings = list_warnings(self._options, self._configuration)
        ineffective = describe_ineffective_keys(self._configuration)
        parts = [f"{file}, read by {Account.of_process().name}", *warnings, ineffective]
        return Finding("warning" if warnings else "ok", "; ".join(filter(None, parts)))

    def _read_configuration(self) -> list[str]:
        """Read the file; return what is wrong in it, or in how it fits to the options."""
        faults = []
        if self._options["config"]:
            path = Path(self._options["config"])
            self._configuration, fault = inspect_config_file(path)
            faults += [fault] if fault else []
        try:
            settings = read_settings(self._options, self._configuration)
            endpoints = [parse_endpoint(text) for text in settings.endpoints]
            choose_authentication(settings.authentication, endpoints, cleartext=settings.cleartext)
            if settings.admin_endpoint:
                parse_admin_endpoint(settings.admin_endpoint)
        except (StartupError, ListenerError) as reason:
            faults.append(str(reason))
        return faults

    def _get_database(self) -> Database:
        """Return the database of the configuration.

        :raises StartupError: when there is none that can be checked.
        """
        dsn = self._options["database"] or self._configuration.postgres.dsn
        if not dsn:
            raise StartupError("the configuration names no database")
        if dsn.startswith(EMBEDDED_PREFIX):
            raise StartupError("an embedded database is not checked: the daemon makes it")
        try:
            parse_dsn(dsn)
        except ProgrammingError:
            raise StartupError(
                "--database must be a postgresql:// URL or a connection string"
            ) from None
        if self._database is None:
            self._database = Database(self._reactor, dsn)
        return self._database

    async def _check_database(self) -> Finding:
        database = self._get_database()
        if not self._options["database"]:
            await self._call_in_thread(
                lambda: check_database_files(self._configuration.postgres, Account.of_process())
            )
        await database.check_sessions()
        user = await ensure_privileges(database)
        return Finding("ok", f"{user} may do all that the service does")

    async def _check_schema(self) -> Finding:
        steps = await check_schema(self._get_database())
        version = f"version {SCHEMA_VERSION}"
        if not steps:
            return Finding("ok", version)
        to_do = "; ".join(
            f"{step.description} (for {step.purpose})" if step.purpose else step.description
            for step in steps
        )
        return Finding("warning", f"{version}; to do for `mig-api migrate`: {to_do}")

    async def _check_clock(self) -> Finding:
        database = self._get_database()
        await database.query(_CLOCK)  # opens the connection, which takes longer
        started, begin = self._reactor.seconds(), self._wall_clock()
        [row] = await database.query(_CLOCK)
        taken = self._reactor.seconds() - started
        ahead = begin + taken / 2 - row.seconds
        direction = "ahead of" if ahead > 0 else "behind"
        detail = f"{abs(ahead):.1f} s {direction} the database's"
        if abs(ahead) - taken / 2 < CLOCK_WARNING_SECONDS:
            return Finding("ok", detail)
        state: State = "failed" if abs(ahead) > CLOCK_FAILURE_SECONDS else "warning"
        return Finding(state, f"{detail}: is NTP running on both hosts?")

    async def _check_spool(self) -> Finding:
        handoff, folder = choose_handoff(self._options, self._configuration)
        if folder is not None:
            return await self._call_in_thread(lambda: _examine_spool(folder))
        if handoff == "none":
            return Finding("ok", "[scheduler] handoff is none: no action is accepted")
        if handoff == "database" or await has_database_scheduler(self._get_database().query):
            return Finding("ok", "none: actions are handed over through the database")
        return Finding("warning", NO_HANDOFF)

    async def _check_gpg(self) -> Finding:
        runner = GpgRunner(self._reactor, program="gpg", limits=Limits())
        if not runner.is_installed():
            raise UnavailableError(NO_GPG)
        try:
            # unlike --version, it reads all that gpg reads before it checks a signature
            keys = await runner.run(GpgRun(arguments=["--list-keys"], keyring=b"", inputs={}), ())
            version = await runner.run(GpgRun(arguments=["--version"], keyring=b"", inputs={}), ())
        finally:
            await runner.stop()
        for answer in (keys, version):
            if answer.code != 0:
                raise make_unreliable_error(answer)
        return Finding("ok", version.output.decode(errors="replace").partition("\n")[0])

    async def _check_certificates(self) -> Finding:
        return await self._call_in_thread(self._examine_certificates)

    def _examine_certificates(self) -> Finding:
        endpoints = list_endpoints(self._options, self._configuration)
        files = dict.fromkeys(parse_endpoint(text).certificate_files for text in endpoints)
        found = [self._examine_certificate(each) for each in files if each is not None]
        if not found:
            return Finding("ok", "none: no listener has TLS")
        return Finding(_find_worst(found), "; ".join(each.detail for each in found))

    def _examine_certificate(self, files: CertificateFiles) -> Finding:
        try:
            certificate = ServerCertificate(files, Account.of_process(), self._wall_clock)
        except CertificateError as reason:
            return Finding("failed", str(reason))
        if fault := certificate.find_fault():
            return Finding("failed", fault)
        remaining = certificate.end - datetime.fromtimestamp(self._wall_clock(), UTC)
        detail = f"{files.certificate} is valid until {certificate.end:%Y-%m-%dT%H:%M:%SZ}"
        if remaining < CERTIFICATE_WARNING:
            return Finding("warning", f"{detail}, {remaining.days} more days")
        return Finding("ok", detail)


def _examine_spool(folder: Path) -> Finding:
    spool = Spool(folder)
    missing = spool.find_missing_folder()
    if missing is not None:
        return Finding("warning", f"{missing} is missing; the daemon makes it when it starts")
    return Finding("ok", f"{Account.of_process().name} can hand over through {folder}")


async def check_parts(clock: IReactorTime, parts: Iterable[Part]) -> dict[str, Finding]:
    """Check parts at the same time, each for ``PART_SECONDS`` at most."""
    names = [part.name for part in parts]
    found = await gatherResults([_start_check(clock, part) for part in parts])
    return dict(zip(names, found, strict=True))


def _start_check(clock: IReactorTime, part: Part) -> Deferred[Finding]:
    """Start the check of a part; the result does not wait for a check that is given up to end."""
    result: Deferred[Finding] = Deferred()

    def end(finding: Finding) -> None:
        if not result.called:
            result.callback(finding)

    Deferred.fromCoroutine(_check_part(part)).addCallback(end)
    result.addTimeout(PART_SECONDS, clock)
    return result.addErrback(lambda _: Finding("failed", f"no answer within {PART_SECONDS:g} s"))


async def _check_part(part: Part) -> Finding:
    try:
        finding = await part.check()
    except Exception as error:
        detail = " ".join(describe_error(error).split()) or type(error).__name__
        finding = Finding("failed", detail)
    return msgspec.structs.replace(finding, detail=escape_unprintable(finding.detail))


def _find_worst(found: Iterable[Finding]) -> State:
    return max((each.state for each in found), key=STATES.index)


def format_lines(report: Report) -> str:
    """Return the report for people, a line for each part."""
    parts: Mapping[str, Finding] = report.parts
    return "\n".join(f"{each.state} {name}: {each.detail}" for name, each in parts.items())
