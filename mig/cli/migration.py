"""``mig-api migrate``."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import click
from psycopg2.errors import InsufficientPrivilege

from mig.cli.common import (
    database_option,
    print_notice,
    run_on_database,
)
from mig.database.database import Database
from mig.database.schema.migrate import Step, migrate, plan_migration
from mig.database.schema.plan import format_script
from mig.errors import (
    OtherRoleNeededError,
)
from mig.investigators.administrators import count_administrators

EXIT_OTHER_ROLE_NEEDED: Final = 2
NO_ADMINISTRATOR: Final = (
    "no active investigator is an administrator (those of 2014 have the default permissions):"
    " `mig-api investigator permissions ID --set admin` makes one"
)


@click.command("migrate")
@click.option("--plan", "only_plan", is_flag=True, help="Print the SQL and change nothing.")
@database_option
def migrate_command(only_plan: bool, database: str) -> None:
    """Set up an empty database, or bring an existing one up to date.

    Only what is missing is added, and schedulers may go on writing. Run it as the owner of the
    tables. An interrupted run can be repeated.

    The exit status is 2 when some steps need another role. Then nothing is changed, and these steps
    are printed as SQL, each role's below its name. Steps that only one feature needs are printed in
    the same way, but the others are run, and the status is 0.
    """
    run_on_database(database, _print_plan if only_plan else _run_migration)


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
        print_notice(f"{purposes} need the steps above, of other roles")
    with suppress(InsufficientPrivilege):  # who may migrate need not be able to read
        active, administrators = await count_administrators(database.query)
        if active and not administrators:
            print_notice(NO_ADMINISTRATOR)
