"""What the daemon is to do: its options and its configuration file, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mig.errors import StartupError
from mig.limits import Limits
from mig.service import apicfg
from mig.service.apicfg import Config
from mig.service.endpoints import DEFAULT_LISTENER
from mig.service.options import Options

NO_DATABASE: Final = (
    "no database is given; use --database postgresql://USER@HOST/NAME, --database embedded:FOLDER"
    " for a demo, or [postgres] in the file of --config"
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the daemon is to do.

    ``database`` is a connection string, or ``embedded:`` and a folder. ``listeners_from`` names
    what the listeners come from, for messages. ``url`` is what clients call the server; unset, it
    depends on the listeners.
    """

    database: str = field(repr=False)
    listeners: Sequence[str]
    listeners_from: str
    url: str | None
    base_route: str
    handoff: str
    spool: Path | None
    limits: Limits


def read_settings(options: Options, configuration: Config) -> Settings:
    """Return the settings; an option wins over the file.

    :raises StartupError: for options that say nothing usable.
    """
    server = configuration.server
    database = options["database"] or configuration.postgres.dsn
    if not database:
        raise StartupError(NO_DATABASE)
    url = server.host
    if options["public-url"]:
        try:
            url = apicfg.host(options["public-url"])
        except ValueError as accepted:
            raise StartupError(f"--public-url must be {accepted}") from None
    is_from_file = server.listener is not None and not options["listen"]
    return Settings(
        database=database,
        listeners=options["listen"] or [server.listener or DEFAULT_LISTENER],
        listeners_from="[server] ip, port" if is_from_file else "--listen",
        url=url,
        base_route=server.baseroute,
        handoff=configuration.scheduler.handoff,
        spool=Path(options["spool"]) if options["spool"] else configuration.directories.spool,
        limits=Limits(action_body_bytes=server.actionsize, key_body_bytes=server.keysize),
    )
