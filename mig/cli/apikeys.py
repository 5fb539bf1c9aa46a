"""``mig-api apikey``."""

from __future__ import annotations

import time

import click

from mig.access.audit import Actor
from mig.cli.common import (
    database_option,
    get_limits,
    permissions_option,
    print_notice,
    run_on_current_database,
)
from mig.database.database import Database
from mig.investigators.apikeys import ApiKeyRegistry
from mig.model.apikey import list_api_keys
from mig.model.permissions import (
    Permission,
)
from mig.values import escape_unprintable, format_time, parse_id


@click.group()
def apikey() -> None:
    """Make, list and revoke API keys, directly in the database."""


@apikey.command("create")
@click.argument("investigator_id", metavar="INVESTIGATOR")
@click.option("--name", required=True, help="What the key is for.")
@permissions_option(
    "--permissions",
    "What the key may do at most: names, or a set; by default all that the investigator may do"
    " now.",
)
@click.option("--expires", metavar="90d", help="A duration, or an RFC 3339 time; by default never.")
@database_option
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

    run_on_current_database(database, create_key)


@apikey.command("list")
@database_option
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

    run_on_current_database(database, print_keys)


@apikey.command("revoke")
@click.argument("key_id", metavar="KEYID")
@database_option
def revoke_key_command(key_id: str, database: str) -> None:
    """Revoke the API key KEYID, at once and for ever."""

    async def revoke_key(opened: Database) -> None:
        actor = Actor.of_command_line("apikey revoke")
        row = await _make_key_registry(opened).revoke(actor, None, parse_id("KEYID", key_id))
        click.echo(f"API key {row.id} is revoked")

    run_on_current_database(database, revoke_key)


def _make_key_registry(database: Database) -> ApiKeyRegistry:
    return ApiKeyRegistry(database, time.time, limits=get_limits(), notify=print_notice)
