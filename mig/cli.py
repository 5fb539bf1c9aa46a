"""``mig-api VERB``: the command line of administrators, on the functions of the daemon."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

import click
from psycopg2 import ProgrammingError
from psycopg2.errors import InsufficientPrivilege
from psycopg2.extensions import parse_dsn
from twisted.internet import task
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorCore
from twisted.python.failure import Failure
from whenever import Instant

from mig import __version__
from mig.database.database import Database
from mig.database.schema.declaration import API_ROLE
from mig.database.schema.migrate import Step, ensure_schema, migrate, plan_migration
from mig.database.schema.plan import format_script
from mig.demo import run as demo
from mig.errors import (
    InvalidInputError,
    OtherRoleNeededError,
    PoolerError,
    PostgresError,
    RequestError,
    SchemaError,
    UnavailableError,
    describe_error,
)
from mig.formats.audit_lines import AuditTable, encode_ndjson_line
from mig.investigators.registry import DISABLED, InvestigatorRegistry
from mig.model.audit import AuditEntry
from mig.model.investigator import ALL_INVESTIGATORS
from mig.model.permissions import DEFAULT_PERMISSIONS, Permission, parse_permission_names
from mig.model.record import read_record
from mig.reactor import get_reactor
from mig.search.audit import load_pages, search_since
from mig.signing.gpg.verify import Gpg
from mig.signing.keyring import ACTIVE, Keyring
from mig.values import escape_unprintable, parse_duration, parse_id

EXIT_INTERRUPTED: Final = 130
EXIT_OTHER_ROLE_NEEDED: Final = 2
MAX_KEY_BYTES: Final = 65_536
MAX_SINCE: Final = timedelta(days=365_000)


def _check_dsn(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if value.startswith("embedded:"):
        raise click.BadParameter("the daemon sets up an embedded database when it starts.")
    try:
        parse_dsn(value)
    except ProgrammingError:
        raise click.BadParameter("it must be a postgresql:// URL or a connection string.") from None
    return value


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mig-api", message="%(prog)s %(version)s")
def main() -> None:
    """Administer the MIG API. The daemon itself is `twistd mig-api`."""


def _database_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--database",
        envvar="MIG_DATABASE",
        show_envvar=True,
        required=True,
        metavar="URL",
        callback=_check_dsn,
        help="postgresql://USER@HOST/NAME; keep a password in PGPASSFILE.",
    )(command)


@main.command("migrate")
@click.option("--plan", "only_plan", is_flag=True, help="Print the SQL and change nothing.")
@_database_option
def migrate_command(only_plan: bool, database: str) -> None:
    """Set up an empty database, or bring an existing one up to date.

    Only what is missing is added, and schedulers may go on writing. Run it as the owner of the
    tables. An interrupted run can be repeated.

    The exit status is 2 when some steps need another role. Then nothing is changed, and these steps
    are printed as SQL, each role's below its name. Steps that only one feature needs are printed in
    the same way, but the others are run, and the status is 0.
    """
    _run_on_database(database, _print_plan if only_plan else _run_migration)


def _parse_permissions_option(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> Permission | None:
    try:
        return None if text is None else parse_permission_names(text)
    except InvalidInputError as reason:
        raise click.BadParameter(f"{reason}.") from None


@main.group()
def investigator() -> None:
    """Add, list and change investigators, directly in the database."""


@investigator.command("add")
@click.argument("name")
@click.argument("publickey", type=click.File("rb"))
@click.option(
    "--permissions",
    metavar="NAME,…",
    callback=_parse_permissions_option,
    help="What the investigator may do; by default "
    + ",".join(DEFAULT_PERMISSIONS.member_names)
    + ".",
)
@_database_option
def add_command(
    name: str, publickey: BinaryIO, permissions: Permission | None, database: str
) -> None:
    """Add the investigator NAME with the armored public key in the file PUBLICKEY (- for stdin)."""
    key = publickey.read(MAX_KEY_BYTES + 1)  # one more, to see that there is more

    async def add_investigator(opened: Database, gpg: Gpg) -> None:
        if len(key) > MAX_KEY_BYTES:
            raise InvalidInputError(f"publickey must have at most {MAX_KEY_BYTES} bytes")
        registry = InvestigatorRegistry(opened, gpg, Keyring())
        given = DEFAULT_PERMISSIONS if permissions is None else permissions
        investigator_id = await registry.add(name, key, given)
        click.echo(f"added investigator {investigator_id}")

    _run_with_gpg(database, add_investigator)


@investigator.command("list")
@_database_option
def list_command(database: str) -> None:
    """List the investigators: id, status, key fingerprint, name, permissions."""

    async def print_investigators(opened: Database) -> None:
        await ensure_schema(opened, upgrade=False)
        for row in await opened.query(ALL_INVESTIGATORS):
            fingerprint = row.pgpfingerprint or "-"
            permissions = ",".join(Permission(int(row.permissions)).member_names) or "-"
            name = escape_unprintable(row.name)
            click.echo(f"{row.id}\t{row.status}\t{fingerprint}\t{name}\t{permissions}")

    _run_on_database(database, print_investigators)


@investigator.command("enable")
@click.argument("investigator_id", metavar="ID")
@_database_option
def enable_command(investigator_id: str, database: str) -> None:
    """Let the investigator ID submit actions again."""
    _set_status(database, investigator_id, ACTIVE)


@investigator.command("disable")
@click.argument("investigator_id", metavar="ID")
@_database_option
def disable_command(investigator_id: str, database: str) -> None:
    """Refuse new actions that only the investigator ID has signed."""
    _set_status(database, investigator_id, DISABLED)


@investigator.command("permit")
@click.argument("investigator_id", metavar="ID")
@click.argument("permissions", metavar="NAME,…", callback=_parse_permissions_option)
@_database_option
def permit_command(investigator_id: str, permissions: Permission, database: str) -> None:
    """Give the investigator ID exactly these permissions; "" takes all of them away."""

    def describe(number: int) -> str:
        return f"investigator {number} may: {', '.join(permissions.member_names) or 'nothing'}"

    _update_investigator(database, investigator_id, describe, permissions=permissions)


def _set_status(database: str, text: str, status: str) -> None:
    _update_investigator(
        database, text, lambda number: f"investigator {number} is {status}", status=status
    )


def _update_investigator(
    database: str,
    text: str,
    describe: Callable[[int], str],
    *,
    status: str | None = None,
    permissions: Permission | None = None,
) -> None:
    """Change the investigator whose id is ``text``, and print what ``describe`` returns."""

    async def update(opened: Database, gpg: Gpg) -> None:
        investigator_id = parse_id("ID", text)
        registry = InvestigatorRegistry(opened, gpg, Keyring())
        await registry.update(investigator_id, status=status, permissions=permissions)
        click.echo(describe(investigator_id))

    _run_with_gpg(database, update)


def _parse_since_option(_context: click.Context, _option: click.Parameter, text: str) -> Instant:
    try:
        duration = min(parse_duration(text), MAX_SINCE)
    except ValueError as reason:
        raise click.BadParameter(f"it must be {reason}.") from None
    return Instant.from_timestamp(time.time()).subtract(seconds=duration.total_seconds())


def _parse_id_option(
    _context: click.Context, option: click.Parameter, text: str | None
) -> int | None:
    try:
        return None if text is None else parse_id("it", text)
    except InvalidInputError as reason:
        raise click.BadParameter(f"{reason}.") from None


@main.command("audit")
@click.option(
    "--since",
    "after",
    metavar="DURATION",
    default="24h",
    show_default=True,
    callback=_parse_since_option,
    help="How far to go back: 90m, 7d, 1h30m.",
)
@click.option(
    "--investigator",
    "investigator_id",
    metavar="ID",
    callback=_parse_id_option,
    help="Only what this investigator has done, or was refused.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["table", "ndjson"]),
    default="table",
    show_default=True,
    help="A table for people, or an object of JSON on each line.",
)
@_database_option
def audit_command(
    after: Instant, investigator_id: int | None, format_name: str, database: str
) -> None:
    """Print who changed what, and what was refused to whom, the oldest first."""

    async def print_audit(opened: Database) -> None:
        await ensure_schema(opened, upgrade=False)
        table = AuditTable()
        async for rows in load_pages(opened.query, search_since(after, investigator_id)):
            entries = [read_record(AuditEntry.noun, AuditEntry.from_row, row) for row in rows]
            lines = (
                table.format_page(entries)
                if format_name == "table"
                else map(encode_ndjson_line, entries)
            )
            for line in lines:
                click.echo(line)

    _run_on_database(database, print_audit)


@main.command("demo")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, resolve_path=True),
    help="The folder of the database; by default one below the home directory.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=1664, show_default=True)
def demo_command(folder: Path | None, port: int) -> None:
    """Serve a made-up fleet from an embedded PostgreSQL, to try the API.

    A fleet older than a day is replaced. Ctrl-C leaves nothing running.
    """
    try:
        demo.run_demo(folder or demo.default_folder(), port)
    except (PostgresError, SchemaError, UnavailableError, ValueError) as reason:
        click.echo(f"mig-api: {describe_error(reason)}", err=True)
        raise SystemExit(1) from None


async def _print_plan(database: Database) -> None:
    steps = await plan_migration(database)
    click.echo(format_script(steps) or "-- nothing to do")
    if any(step.is_refused for step in steps):
        raise SystemExit(EXIT_OTHER_ROLE_NEEDED)


async def _run_migration(database: Database) -> None:
    steps = 0

    def print_step(step: Step) -> None:
        nonlocal steps
        steps += 1
        click.echo(f"done: {step.description}")

    try:
        left_out = await migrate(database, print_step)
    except OtherRoleNeededError as reason:
        click.echo(reason.sql)
        click.echo(f"mig-api: {reason}", err=True)
        raise SystemExit(EXIT_OTHER_ROLE_NEEDED) from None
    click.echo("the database is up to date" if steps else "nothing to do")
    if left_out:
        click.echo(format_script(left_out))
        purposes = " and ".join(dict.fromkeys(step.purpose for step in left_out))
        click.echo(f"mig-api: {purposes} need the steps above, of other roles", err=True)


def _run_with_gpg(dsn: str, verb: Callable[[Database, Gpg], Awaitable[None]]) -> NoReturn:
    gpg = Gpg(get_reactor(), time.time)

    async def run_with_gpg(database: Database) -> None:
        try:
            await ensure_schema(database, upgrade=False)
            await verb(database, gpg)
        finally:
            await gpg.stop()

    _run_on_database(dsn, run_with_gpg)


def _run_on_database(dsn: str, verb: Callable[[Database], Awaitable[None]]) -> NoReturn:
    """Run a verb on a database and end the process: with 0, or with one line on standard error."""

    async def run_action() -> None:
        database = Database(get_reactor(), dsn)
        try:
            await database.check_sessions()
            await verb(database)
        except (PoolerError, SchemaError, RequestError) as reason:
            click.echo(f"mig-api: {describe_error(reason)}", err=True)
            raise SystemExit(1) from None
        except InsufficientPrivilege as reason:
            # migadmin, say, may not use the sequences that MIG's scripts of 2017 made as postgres
            click.echo(
                f"mig-api: {' '.join(str(reason).split())}; connect as {API_ROLE}: `mig-api"
                " migrate` grants it what this needs",
                err=True,
            )
            raise SystemExit(1) from None
        except BrokenPipeError:
            # The interpreter flushes standard output at its end: that must not fail, too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None
        except CancelledError:
            click.echo("mig-api: interrupted; run it again to complete it", err=True)
            raise SystemExit(EXIT_INTERRUPTED) from None
        finally:
            database.stop()

    def start_action(reactor: IReactorCore) -> Deferred[None]:
        running = Deferred.fromCoroutine(run_action())
        ended: Deferred[None] = Deferred()

        def cancel_action() -> Deferred[None]:
            running.cancel()
            return ended  # the reactor runs until the action has cleaned up

        def report_end(result: Failure | None) -> Failure | None:
            if not ended.called:
                ended.callback(None)
            return result

        reactor.addSystemEventTrigger("before", "shutdown", cancel_action)
        return running.addBoth(report_end)

    task.react(start_action)


if __name__ == "__main__":
    main()
