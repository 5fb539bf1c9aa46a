"""``mig-api prune``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Final

import click

from mig.access.audit import Actor
from mig.cli.common import (
    database_option,
    run_on_database,
)
from mig.database.database import Database
from mig.database.schema.migrate import ensure_schema
from mig.retention import Pruned, RetentionPolicy, prune
from mig.values import parse_duration

ROWS_PER_LINE: Final = 100_000


def _parse_age(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> timedelta | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as accepted:
        raise click.BadParameter(f"it must be {accepted}.") from None


@click.command("prune")
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
@database_option
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

    run_on_database(database, run_prune)


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
