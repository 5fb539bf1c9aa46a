"""``mig-api demo``: a fleet that answers, and the daemon that serves it."""

from __future__ import annotations

import os
import shlex
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NoReturn

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from mig.database.database import Database
from mig.database.schema.migrate import ensure_schema
from mig.demo import fleet
from mig.demo.check import ADDRESS, find_fault
from mig.demo.postgres import EmbeddedPostgres
from mig.demo.simulator import start_simulator
from mig.reactor import Reactor, WallClock, get_reactor

INSTRUCTIONS: Final = """\
The fleet is ready, and answers the actions that you post. Try, in another terminal:

{migctl}  curl -s {base}/dashboard | head -c 900
  curl -s '{base}/search?type=agent&agentname=web%25&limit=3' | cut -c -300
  curl -s '{base}/search?type=command&threatfamily=compliance&status=done\
&report=complianceitems&limit=10' | cut -c -300

docs/guide.md goes on from here, to a signed action of your own. The database:

  {psql}

Ctrl-C stops everything. The next start goes on with what is in {folder}.
"""
MIGCTL_INSTRUCTIONS: Final = """\
  export MIG_URL={base} PATH={programs}:$PATH
  migctl status | head -n 6
  migctl search agents --agentname 'web%' --limit 3
  migctl search commands --investigatorname '%bob%smith%' --limit 5
  migctl compliance --latest --threatfamily compliance --summary

docs/migctl.md has the other commands. Or without it:

"""


def find_migctl_folder() -> Path | None:
    """Return the folder of the command migctl; ``None`` when it cannot be used here."""
    folder = Path(sys.executable).parent
    has_extra = all(find_spec(name) for name in ("rich", "treq"))
    return folder if has_extra and (folder / "migctl").exists() else None


def default_folder() -> Path:
    """Return the demo's folder: below the home directory, or for root below /var/lib."""
    # Root's home is closed to the account that PostgreSQL runs as.
    if os.geteuid() == 0:
        return Path("/var/lib/mig-api/demo")
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "mig-api" / "demo"


async def prepare_database(reactor: Reactor, postgres: EmbeddedPostgres, now: datetime) -> bool:
    """Set up the database with the demo's fleet, as of ``now``; return whether it is new.

    :raises PostgresError: when PostgreSQL cannot be used.
    :raises ValueError: when the database holds agents that are not the demo's.
    """
    postgres.lock_folder()
    try:
        await postgres.start()
        database = Database(reactor, postgres.format_dsn())
        try:
            await ensure_schema(database, upgrade=True)
        finally:
            database.stop()
        return await deferToThread(fleet.load_fleet, postgres.format_dsn(), now)
    finally:
        await postgres.stop()


def run_demo(folder: Path, port: int, wall_clock: WallClock) -> NoReturn:
    """Fill the database, print what to try, start the simulator, and become the daemon.

    :raises PostgresError: when PostgreSQL or the port cannot be used.
    :raises ValueError: when the database holds agents that are not the demo's.
    """
    fault = find_fault(port)
    if fault:
        raise ValueError(f"{fault}; choose another one with --port")
    sys.stdout.write(f"preparing the demo in {folder}: some seconds, and more the first time\n")
    sys.stdout.flush()
    reactor = get_reactor()
    postgres = EmbeddedPostgres(reactor, folder)
    failures: list[Exception] = []  # task.react would print a traceback and exit itself

    async def prepare_all() -> None:
        try:
            await prepare_database(reactor, postgres, datetime.fromtimestamp(wall_clock(), UTC))
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
    psql = shlex.join([str(postgres.get_program_path("psql")), postgres.format_dsn()])
    programs = find_migctl_folder()
    first = ""
    if programs:
        first = MIGCTL_INSTRUCTIONS.format(base=base, programs=shlex.quote(str(programs)))
    sys.stdout.write(INSTRUCTIONS.format(folder=folder, base=base, psql=psql, migctl=first))
    sys.stdout.flush()
    start_simulator(folder)
    twistd = str(Path(sys.executable).parent / "twistd")
    options = ["--listen", f"tcp:{port}:interface={ADDRESS}", "--database", f"embedded:{folder}"]
    options += ["--spool", str(folder / "spool"), "--authentication", "off"]
    os.execv(twistd, [twistd, "-n", "mig-api", *options])  # noqa: S606
