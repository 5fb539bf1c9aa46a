"""``mig-api VERB``: the command line of administrators, on the functions of the daemon."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
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
from mig.access.audit import Actor
from mig.database.database import Database
from mig.database.schema.declaration import API_ROLE
from mig.database.schema.migrate import Step, ensure_schema, migrate, plan_migration
from mig.database.schema.plan import format_script
from mig.demo import run as demo
from mig.demo.check import DEFAULT_PORT
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
from mig.investigators.administrators import count_administrators
from mig.investigators.apikeys import ApiKeyRegistry
from mig.investigators.registry import DISABLED, InvestigatorRegistry
from mig.model.apikey import list_api_keys
from mig.model.audit import AuditEntry
from mig.model.investigator import ALL_INVESTIGATORS
from mig.model.permissions import (
    ALL_PERMISSIONS,
    DEFAULT_PERMISSIONS,
    PERMISSION_SETS,
    Permission,
    parse_permission_names,
)
from mig.model.record import read_record
from mig.reactor import get_reactor
from mig.retention import Pruned, RetentionPolicy, prune
from mig.search.audit import load_pages, search_since
from mig.signing.gpg.verify import Gpg
from mig.signing.keyring import ACTIVE, Keyring
from mig.values import escape_unprintable, format_time, parse_duration, parse_id

EXIT_INTERRUPTED: Final = 130
EXIT_OTHER_ROLE_NEEDED: Final = 2
MAX_KEY_BYTES: Final = 65_536
MAX_SINCE: Final = timedelta(days=365_000)
NO_ADMINISTRATOR: Final = (
    "no active investigator is an administrator (those of 2014 have the default permissions):"
    " `mig-api investigator permissions ID --set admin` makes one"
)
ROWS_PER_LINE: Final = 100_000


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


def _permissions_option(
    name: str, explanation: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        name, metavar="NAME,…", callback=_parse_permissions_option, help=explanation
    )


def _notify(notice: str) -> None:
    """Tell the administrator what the daemon would log."""
    click.echo(f"mig-api: {notice}", err=True)


@main.group()
def investigator() -> None:
    """Add, list and change investigators, directly in the database."""


@investigator.command("add")
@click.argument("name")
@click.argument("publickey", type=click.File("rb"), required=False)
@click.option("--admin", is_flag=True, help="Give all permissions.")
@_permissions_option(
    "--permissions",
    f"What the investigator may do: names, or the sets {', '.join(PERMISSION_SETS)}; by default "
    + ",".join(DEFAULT_PERMISSIONS.member_names)
    + ".",
)
@_database_option
def add_command(
    name: str,
    publickey: BinaryIO | None,
    admin: bool,
    permissions: Permission | None,
    database: str,
) -> None:
    """Add the investigator NAME with the armored public key in the file PUBLICKEY (- for stdin).

    Without a key, the account can sign nothing; it can have API keys.
    """
    if admin and permissions is not None:
        raise click.UsageError("--admin and --permissions exclude each other.")
    key = publickey.read(MAX_KEY_BYTES + 1) if publickey else None  # one more, to see it
    default = ALL_PERMISSIONS if admin else DEFAULT_PERMISSIONS

    async def add_investigator(opened: Database, gpg: Gpg) -> None:
        if key is not None and len(key) > MAX_KEY_BYTES:
            raise InvalidInputError(f"publickey must have at most {MAX_KEY_BYTES} bytes")
        registry = InvestigatorRegistry(opened, gpg, Keyring(), notify=_notify)
        actor = Actor.of_command_line("investigator add")
        given = default if permissions is None else permissions
        added = await registry.add(actor, None, name, key, given)
        click.echo(f"added investigator {added.investigator.id}")

    _run_with_gpg(database, add_investigator)


@investigator.command("list")
@_database_option
def list_command(database: str) -> None:
    """List the investigators: id, status, key fingerprint, name, permissions."""

    async def print_investigators(opened: Database) -> None:
        for row in await opened.query(ALL_INVESTIGATORS):
            fingerprint = row.pgpfingerprint or "-"
            permissions = ",".join(Permission(int(row.permissions)).member_names) or "-"
            name = escape_unprintable(row.name)
            click.echo(f"{row.id}\t{row.status}\t{fingerprint}\t{name}\t{permissions}")

    _run_on_current_database(database, print_investigators)


@investigator.command("enable")
@click.argument("investigator_id", metavar="ID")
@_database_option
def enable_command(investigator_id: str, database: str) -> None:
    """Let the investigator ID call the API and submit actions again."""
    _set_status(database, "enable", investigator_id, ACTIVE)


@investigator.command("disable")
@click.argument("investigator_id", metavar="ID")
@_database_option
def disable_command(investigator_id: str, database: str) -> None:
    """Refuse requests of the investigator ID, and new actions that nobody else has signed."""
    _set_status(database, "disable", investigator_id, DISABLED)


@investigator.command("permissions")
@click.argument("investigator_id", metavar="ID")
@_permissions_option("--set", 'Give exactly these: names, or a set; "" takes all of them away.')
@_permissions_option("--grant", "Add these.")
@_permissions_option("--revoke", "Take these away.")
@_database_option
def permissions_command(
    investigator_id: str,
    set: Permission | None,  # noqa: A002 - click names the argument after the option
    grant: Permission | None,
    revoke: Permission | None,
    database: str,
) -> None:
    """Change what the investigator ID may do; without an option, print it."""
    changes: list[Callable[[Permission], Permission]] = []
    if set is not None:
        changes.append(lambda _: set)
    if grant is not None:
        changes.append(lambda present: present | grant)
    if revoke is not None:
        changes.append(lambda present: present & ~revoke)
    if len(changes) > 1:
        raise click.UsageError("--set, --grant and --revoke exclude each other.")
    change = changes[0] if changes else lambda present: present
    may: Permission

    def change_permissions(present: Permission) -> Permission:
        nonlocal may
        may = change(present)
        return may

    def describe(number: int) -> str:
        return f"investigator {number} may: {', '.join(may.member_names) or 'nothing'}"

    _update_investigator(
        database, "permissions", investigator_id, describe, change_permissions=change_permissions
    )


def _set_status(database: str, verb: str, text: str, status: str) -> None:
    _update_investigator(
        database, verb, text, lambda number: f"investigator {number} is {status}", status=status
    )


def _update_investigator(
    database: str,
    verb: str,
    text: str,
    describe: Callable[[int], str],
    *,
    status: str | None = None,
    change_permissions: Callable[[Permission], Permission] | None = None,
) -> None:
    """Change the investigator whose id is ``text``, and print what ``describe`` returns."""

    async def update(opened: Database, gpg: Gpg) -> None:
        investigator_id = parse_id("ID", text)
        registry = InvestigatorRegistry(opened, gpg, Keyring(), notify=_notify)
        await registry.update(
            Actor.of_command_line(f"investigator {verb}"),
            None,
            investigator_id,
            status=status,
            change_permissions=change_permissions,
        )
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


@main.group()
def apikey() -> None:
    """Make, list and revoke API keys, directly in the database."""


@apikey.command("create")
@click.argument("investigator_id", metavar="INVESTIGATOR")
@click.option("--name", required=True, help="What the key is for.")
@_permissions_option(
    "--permissions",
    "What the key may do at most: names, or a set; by default all that the investigator may do"
    " now.",
)
@click.option("--expires", metavar="90d", help="A duration, or an RFC 3339 time; by default never.")
@_database_option
def create_key_command(
    investigator_id: str,
    name: str,
    permissions: Permission | None,
    expires: str | None,
    database: str,
) -> None:
    """Make an API key of the investigator with the id INVESTIGATOR; print it, this once."""

    async def create_key(opened: Database) -> None:
        made = await _make_key_registry(opened).create(
            Actor.of_command_line("apikey create"),
            None,
            parse_id("INVESTIGATOR", investigator_id),
            name,
            permissions=permissions,
            expires=expires,
        )
        click.echo(made.key)

    _run_on_current_database(database, create_key)


@apikey.command("list")
@_database_option
def list_keys_command(database: str) -> None:
    """List the API keys, the newest first.

    Each line has the id, the investigator's id, the times at which the key was made, expires, was
    revoked and was used last, its name, and its permissions.
    """

    async def print_keys(opened: Database) -> None:
        for row in await list_api_keys(opened.query):
            times = (row.createdat, row.expiresat, row.revokedat, row.lastused)
            columns = (
                row.id,
                row.investigatorid,
                *("-" if time is None else format_time(time) for time in times),
                escape_unprintable(row.name),
                ",".join(Permission(int(row.permissions)).member_names) or "-",
            )
            click.echo("\t".join(columns))

    _run_on_current_database(database, print_keys)


@apikey.command("revoke")
@click.argument("key_id", metavar="KEYID")
@_database_option
def revoke_key_command(key_id: str, database: str) -> None:
    """Revoke the API key KEYID, at once and for ever."""

    async def revoke_key(opened: Database) -> None:
        actor = Actor.of_command_line("apikey revoke")
        row = await _make_key_registry(opened).revoke(actor, None, parse_id("KEYID", key_id))
        click.echo(f"API key {row.id} is revoked")

    _run_on_current_database(database, revoke_key)


def _make_key_registry(database: Database) -> ApiKeyRegistry:
    return ApiKeyRegistry(database, time.time, notify=_notify)


def _parse_age(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> timedelta | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as accepted:
        raise click.BadParameter(f"it must be {accepted}.") from None


@main.command("prune")
@click.option(
    "--commands-older",
    metavar="AGE",
    callback=_parse_age,
    help="Delete the commands that started that long ago.",
)
@click.option(
    "--actions-older",
    metavar="AGE",
    callback=_parse_age,
    help="Delete the actions that expired that long ago and have no command.",
)
@click.option(
    "--audit-older",
    metavar="AGE",
    callback=_parse_age,
    help="Detach the months of the audit that ended that long ago.",
)
@click.option("--dry-run", is_flag=True, help="Only count, which takes minutes for many rows.")
@_database_option
def prune_command(
    commands_older: timedelta | None,
    actions_older: timedelta | None,
    audit_older: timedelta | None,
    dry_run: bool,
    database: str,
) -> None:
    """Delete old commands and actions, and detach old months of the audit.

    An AGE is 400d, or 1h30m. At least one must be given, and what has none is kept. Run it as the
    owner of the tables; schedulers and readers may go on. An interrupted run can be repeated.
    """
    policy = RetentionPolicy(commands=commands_older, actions=actions_older, audit=audit_older)
    if policy == RetentionPolicy():
        raise click.UsageError(
            "Nothing is too old: give --commands-older, --actions-older or --audit-older."
        )

    async def run_prune(opened: Database) -> None:
        await ensure_schema(opened, upgrade=False)
        pruned = await prune(
            opened,
            policy,
            Actor.of_command_line("prune"),
            dry_run=dry_run,
            on_progress=make_progress_printer(),
        )
        click.echo(f"{'would have ' if dry_run else ''}{_describe_pruned(pruned)}")

    _run_on_database(database, run_prune)


def _describe_pruned(pruned: Pruned) -> str:
    months = ", ".join(pruned.months) or "no month of the audit"
    return f"deleted {pruned.commands} commands and {pruned.actions} actions, detached {months}"


def make_progress_printer() -> Callable[[Pruned], None]:
    """Return a function that prints a line for every 100,000 rows that are deleted."""
    lines = 0

    def print_progress(pruned: Pruned) -> None:
        nonlocal lines
        reached = (pruned.commands + pruned.actions) // ROWS_PER_LINE
        if reached > lines:
            lines = reached
            click.echo(f"deleted {pruned.commands} commands and {pruned.actions} actions so far")

    return print_progress


@main.command("demo")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, resolve_path=True),
    help="The folder of the database; by default one below the home directory.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True)
def demo_command(folder: Path | None, port: int) -> None:
    """Serve a made-up fleet from an embedded PostgreSQL, to try the API.

    The fleet answers the actions that are posted. What you add stays, also when the demo is started
    again. Ctrl-C leaves nothing running.
    """
    try:
        demo.run_demo(folder or demo.default_folder(), port, time.time)
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
        _notify(f"{purposes} need the steps above, of other roles")
    with suppress(InsufficientPrivilege):  # who may migrate need not be able to read
        active, administrators = await count_administrators(database.query)
        if active and not administrators:
            _notify(NO_ADMINISTRATOR)


def _run_with_gpg(dsn: str, verb: Callable[[Database, Gpg], Awaitable[None]]) -> NoReturn:
    gpg = Gpg(get_reactor(), time.time)

    async def run_with_gpg(database: Database) -> None:
        try:
            await verb(database, gpg)
        finally:
            await gpg.stop()

    _run_on_current_database(dsn, run_with_gpg)


def _run_on_current_database(dsn: str, verb: Callable[[Database], Awaitable[None]]) -> NoReturn:
    """Run a verb as :func:`_run_on_database`, on a database with the schema of this program."""

    async def check_and_run(database: Database) -> None:
        await ensure_schema(database, upgrade=False)
        await verb(database)

    _run_on_database(dsn, check_and_run)


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
