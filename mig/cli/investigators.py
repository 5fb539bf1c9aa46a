"""``mig-api investigator``."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Final

import click

from mig.access.audit import Actor
from mig.cli.common import (
    database_option,
    permissions_option,
    print_notice,
    run_on_current_database,
    run_with_gpg,
)
from mig.database.database import Database
from mig.errors import (
    InvalidInputError,
)
from mig.investigators.registry import DISABLED, InvestigatorRegistry
from mig.model.investigator import ALL_INVESTIGATORS
from mig.model.permissions import (
    ALL_PERMISSIONS,
    DEFAULT_PERMISSIONS,
    PERMISSION_SETS,
    Permission,
)
from mig.signing.gpg.verify import Gpg
from mig.signing.keyring import ACTIVE, Keyring
from mig.values import escape_unprintable, parse_id

MAX_KEY_BYTES: Final = 65_536


@click.group()
def investigator() -> None:
    """Add, list and change investigators, directly in the database."""


@investigator.command("add")
@click.argument("name")
@click.argument("publickey", type=click.File("rb"), required=False)
@click.option("--admin", is_flag=True, help="Give all permissions.")
@permissions_option(
    "--permissions",
    f"What the investigator may do: names, or the sets {', '.join(PERMISSION_SETS)}; by default "
    + ",".join(DEFAULT_PERMISSIONS.member_names)
    + ".",
)
@database_option
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
        registry = InvestigatorRegistry(opened, gpg, Keyring(), notify=print_notice)
        actor = Actor.of_command_line("investigator add")
        given = default if permissions is None else permissions
        added = await registry.add(actor, None, name, key, given)
        click.echo(f"added investigator {added.investigator.id}")

    run_with_gpg(database, add_investigator)


@investigator.command("list")
@database_option
def list_command(database: str) -> None:
    """List the investigators: id, status, key fingerprint, name, permissions."""

    async def print_investigators(opened: Database) -> None:
        for row in await opened.query(ALL_INVESTIGATORS):
            fingerprint = row.pgpfingerprint or "-"
            permissions = ",".join(Permission(int(row.permissions)).member_names) or "-"
            name = escape_unprintable(row.name)
            click.echo(f"{row.id}\t{row.status}\t{fingerprint}\t{name}\t{permissions}")

    run_on_current_database(database, print_investigators)


@investigator.command("enable")
@click.argument("investigator_id", metavar="ID")
@database_option
def enable_command(investigator_id: str, database: str) -> None:
    """Let the investigator ID call the API and submit actions again."""
    _set_status(database, "enable", investigator_id, ACTIVE)


@investigator.command("disable")
@click.argument("investigator_id", metavar="ID")
@database_option
def disable_command(investigator_id: str, database: str) -> None:
    """Refuse requests of the investigator ID, and new actions that nobody else has signed."""
    _set_status(database, "disable", investigator_id, DISABLED)


@investigator.command("permissions")
@click.argument("investigator_id", metavar="ID")
@permissions_option("--set", 'Give exactly these: names, or a set; "" takes all of them away.')
@permissions_option("--grant", "Add these.")
@permissions_option("--revoke", "Take these away.")
@database_option
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
        registry = InvestigatorRegistry(opened, gpg, Keyring(), notify=print_notice)
        await registry.update(
            Actor.of_command_line(f"investigator {verb}"),
            None,
            investigator_id,
            status=status,
            change_permissions=change_permissions,
        )
        click.echo(describe(investigator_id))

    run_with_gpg(database, update)
