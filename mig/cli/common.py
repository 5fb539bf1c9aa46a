"""What all verbs share: the database of an option, and a run that ends the process."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Final, NoReturn

import click
from click.core import ParameterSource
from psycopg2 import ProgrammingError
from psycopg2.errors import InsufficientPrivilege
from psycopg2.extensions import parse_dsn
from twisted.internet import task
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorCore
from twisted.python.failure import Failure

from mig.account import Account
from mig.database.database import Database
from mig.database.schema.declaration import API_ROLE
from mig.database.schema.migrate import ensure_schema
from mig.errors import (
    CertificateError,
    ConfigError,
    InvalidInputError,
    PoolerError,
    RequestError,
    SchemaError,
    describe_error,
)
from mig.limits import Limits
from mig.model.permissions import (
    Permission,
    parse_permission_names,
)
from mig.reactor import get_reactor
from mig.signing.gpg.verify import Gpg

EXIT_INTERRUPTED: Final = 130
_LIMITS: Final = "mig.limits"
"""Under which the context of a verb has the limits of its configuration file."""


def _check_dsn(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    if value.startswith("embedded:"):
        raise click.BadParameter("the daemon sets up an embedded database when it starts.")
    try:
        parse_dsn(value)
    except ProgrammingError:
        raise click.BadParameter("it must be a postgresql:// URL or a connection string.") from None
    return value


def database_option(command: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options that name the database, ``--database`` and ``--config``."""
    by_file = click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The daemon's configuration file: [postgres] names the database, and [limits] apply.",
    )
    by_url = click.option(
        "--database",
        envvar="MIG_DATABASE",
        show_envvar=True,
        metavar="URL",
        callback=_check_dsn,
        help="postgresql://USER@HOST/NAME, rather than that of --config; keep a password in"
        " PGPASSFILE.",
    )

    @wraps(command)
    def run_command(
        *arguments: object, config: Path | None, database: str | None, **options: object
    ) -> None:
        command(*arguments, database=_choose_database(config, database), **options)

    return by_file(by_url(run_command))


def _choose_database(config: Path | None, database: str | None) -> str:
    """Return the database that a verb uses: of ``--database``, ``--config`` or MIG_DATABASE."""
    context = click.get_current_context()
    is_named = context.get_parameter_source("database") is ParameterSource.COMMANDLINE
    if config is None:
        if database is None:
            raise click.UsageError("Name the database with --database or --config.")
        return database
    # late, because most verbs are given a URL
    from mig.service.certificates import check_database_files
    from mig.service.config_file import read_config_file

    try:
        file = read_config_file(config)
        context.meta[_LIMITS] = file.limits
        if is_named and database is not None:
            return database
        postgres = file.postgres
        check_database_files(postgres, Account.of_process())
    except (ConfigError, CertificateError) as reason:
        click.echo(f"mig-api: {reason}", err=True)
        raise SystemExit(1) from None
    if postgres.dsn is None:
        raise click.UsageError(
            f"{config} has no section [postgres]: name the database with --database."
        )
    return postgres.dsn


def get_limits() -> Limits:
    """Return the limits of ``--config``, or their defaults."""
    limits = click.get_current_context().meta.get(_LIMITS)
    return limits if isinstance(limits, Limits) else Limits()


def _parse_permissions_option(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> Permission | None:
    try:
        return None if text is None else parse_permission_names(text)
    except InvalidInputError as reason:
        raise click.BadParameter(f"{reason}.") from None


def permissions_option(
    name: str, explanation: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the decorator that gives a verb an option for permissions."""
    return click.option(
        name, metavar="NAME,…", callback=_parse_permissions_option, help=explanation
    )


def print_notice(notice: str) -> None:
    """Tell the administrator what the daemon would log."""
    click.echo(f"mig-api: {notice}", err=True)


def run_with_gpg(dsn: str, verb: Callable[[Database, Gpg], Awaitable[None]]) -> NoReturn:
    """Run a verb that needs gpg, as :func:`run_on_current_database` does."""
    gpg = Gpg(get_reactor(), time.time)

    async def run_verb(database: Database) -> None:
        try:
            await verb(database, gpg)
        finally:
            await gpg.stop()

    run_on_current_database(dsn, run_verb)


def run_on_current_database(dsn: str, verb: Callable[[Database], Awaitable[None]]) -> NoReturn:
    """Run a verb as :func:`run_on_database`, on a database with the schema of this program."""

    async def check_and_run(database: Database) -> None:
        await ensure_schema(database, upgrade=False)
        await verb(database)

    run_on_database(dsn, check_and_run)


def run_on_database(dsn: str, verb: Callable[[Database], Awaitable[None]]) -> NoReturn:
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
