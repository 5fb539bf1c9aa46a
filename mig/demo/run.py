"""``mig-api demo``: a database with a made-up fleet, and the daemon that serves it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final, NoReturn

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from mig.database.database import Database
from mig.database.schema.migrate import ensure_schema
from mig.demo import fleet
from mig.demo.postgres import EmbeddedPostgres
from mig.reactor import Reactor, get_reactor

INSTRUCTIONS: Final = """\
The demo's fleet is in {folder}. Try, in another terminal:

  curl {base}/
  curl {base}/dashboard
  curl '{base}/search?type=agent&agentname=web%25&limit=3'
  curl '{base}/search?investigatorname=%25bob%25&limit=10&type=command'
  curl '{base}/search?type=command&threatfamily=compliance&status=done'\\
'&report=complianceitems&limit=100000'

Ctrl-C stops everything; the next start uses the same database.
"""


def default_folder() -> Path:
    """Return the demo's folder: below the home directory, or for root below /var/lib."""
    # Root's home is closed to the account that PostgreSQL runs as.
    if os.geteuid() == 0:
        return Path("/var/lib/mig-api/demo")
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "mig-api" / "demo"


async def prepare_database(reactor: Reactor, folder: Path) -> bool:
    """Set up the database in ``folder`` with a fleet from the last day; return whether it is new.

    :raises PostgresError: when PostgreSQL cannot be used.
    :raises ValueError: when the database holds agents that are not the demo's.
    """
    postgres = EmbeddedPostgres(reactor, folder)
    postgres.lock_folder()
    try:
        await postgres.start()
        database = Database(reactor, postgres.format_dsn())
        try:
            await ensure_schema(database, upgrade=True)
        finally:
            database.stop()
        return await deferToThread(fleet.load_fleet, postgres.format_dsn())
    finally:
        await postgres.stop()


def run_demo(folder: Path, port: int) -> NoReturn:
    """Fill the database, print what to try, and become the daemon.

    :raises PostgresError: when PostgreSQL cannot be used.
    :raises ValueError: when the database holds agents that are not the demo's.
    """
    sys.stdout.write(f"preparing the demo in {folder}\n")
    sys.stdout.flush()
    reactor = get_reactor()
    failures: list[Exception] = []  # task.react would print a traceback and exit itself

    async def prepare_all() -> None:
        try:
            await prepare_database(reactor, folder)
        except Exception as reason:
            failures.append(reason)

    try:
        task.react(lambda _: Deferred.fromCoroutine(prepare_all()))
    except SystemExit as ended:
        if ended.code:
            raise
    if failures:
        raise failures[0]
    base = f"http://localhost:{port}/api/v1"
    sys.stdout.write(INSTRUCTIONS.format(folder=folder, base=base))
    sys.stdout.flush()
    twistd = str(Path(sys.executable).parent / "twistd")
    listen = f"tcp:{port}:interface=127.0.0.1"
    options = ["--listen", listen, "--database", f"embedded:{folder}"]
    options += ["--spool", str(folder / "spool"), "--authentication", "off"]
    os.execv(twistd, [twistd, "-n", "mig-api", *options])  # noqa: S606
