"""The settings of the daemon: its options and its configuration file combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from mig.access.clientaddress import ClientIdentifier
from mig.errors import StartupError
from mig.limits import Limits
from mig.service import config_values
from mig.service.config_file import Config
from mig.service.endpoints import DEFAULT_ENDPOINT
from mig.service.options import Options

NO_DATABASE: Final = (
    "there is no database; use --database postgresql://USER@HOST/NAME, --database embedded:FOLDER"
    " for a demo, or [postgres] in the file of --config"
)

FILE_SOURCE: Final = "[server] ip, port"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the daemon.

    ``database`` is a connection string, or ``embedded:`` and a folder. ``endpoints_source`` names
    the option or the keys that set the endpoints, for messages. ``cleartext`` is whether listeners
    that other machines can reach may be without TLS. ``public_url`` is the server's URL for
    clients; when it is ``None``, the listeners determine it. ``handoff`` is ``spool``,
    ``database`` or ``none``; when it is ``None``, the generation of the database decides.
    ``authentication`` is whether callers need credentials; when it is ``None``, the listeners
    decide. A token is valid for ``token_seconds``. ``admin_endpoint`` is the listener for
    operators, if there is one.
    """

    database: str = field(repr=False)
    endpoints: Sequence[str]
    endpoints_source: str
    cleartext: bool
    public_url: str | None
    base_route: str
    handoff: str | None
    spool: Path | None
    limits: Limits
    clients: ClientIdentifier
    authentication: bool | None
    token_seconds: float
    admin_endpoint: str | None


def read_settings(options: Options, configuration: Config) -> Settings:
    """Return the settings; an option takes precedence over the file.

    :raises StartupError: when no database is set, an option has a wrong value, or the folder of
        the spool is missing.
    """
    server = configuration.server
    database = options["database"] or configuration.postgres.dsn
    if not database:
        raise StartupError(NO_DATABASE)
    public_url = server.host
    if options["public-url"]:
        try:
            public_url = config_values.parse_public_url(options["public-url"])
        except ValueError as accepted:
            raise StartupError(f"--public-url must be {accepted}") from None
    authentication = configuration.authentication.enabled
    if options["authentication"]:
        try:
            authentication = config_values.parse_boolean(options["authentication"])
        except ValueError as accepted:
            raise StartupError(f"--authentication must be {accepted}") from None
    handoff, spool = choose_handoff(options, configuration)
    is_from_file = server.endpoint is not None and not options["listen"]
    return Settings(
        database=database,
        endpoints=list_endpoints(options, configuration),
        endpoints_source=FILE_SOURCE if is_from_file else "--listen",
        cleartext=server.cleartext,
        public_url=public_url,
        base_route=server.baseroute,
        handoff=handoff,
        spool=spool,
        clients=ClientIdentifier(server.trustedproxies, server.clientpublicip),
        authentication=authentication,
        token_seconds=configuration.authentication.tokenduration.total_seconds(),
        admin_endpoint=options["admin"] or configuration.admin.listen,
        limits=replace(configuration.limits),  # a copy: these change while the daemon runs
    )


def list_endpoints(options: Options, configuration: Config) -> Sequence[str]:
    """Return the texts of the listeners."""
    return options["listen"] or [configuration.server.endpoint or DEFAULT_ENDPOINT]


def choose_handoff(options: Options, configuration: Config) -> tuple[str | None, Path | None]:
    """Return the hand-off, ``None`` if the database decides, and the folder of a spool.

    :raises StartupError: when that folder is missing.
    """
    spool = Path(options["spool"]) if options["spool"] else configuration.directories.spool
    handoff = configuration.scheduler.handoff or ("spool" if spool else None)
    if handoff == "spool" and spool is None:
        raise StartupError(
            "[scheduler] handoff is spool, but the spool has no folder: set [directories] spool or"
            " --spool"
        )
    return handoff, spool if handoff == "spool" else None


def describe_ineffective_keys(configuration: Config) -> str:
    """Return a line that names the keys without effect; empty if there are none."""
    keys = ", ".join(configuration.ineffective_keys)
    return f"keys in the configuration file that have no effect: {keys}" if keys else ""


def list_warnings(options: Options, configuration: Config) -> list[str]:
    """Return what is likely to be a mistake in the configuration, a line for each."""
    warnings = []
    if configuration.exposes_password:
        warnings.append(f"everyone can read the password in {options['config']}: chmod o-r")
    if configuration.server.tlscert is not None and options["listen"]:
        warnings.append(
            "[server] tlscert has no effect: --listen sets the listeners (certKey=FILE)"
        )
    return warnings
