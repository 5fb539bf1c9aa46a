"""``migctl apikey``."""

from __future__ import annotations

import click

from mig.migctl.configuration import Configuration
from mig.migctl.options import parse_id_option, service_options


@click.group()
def apikey() -> None:
    """Make, list and revoke API keys.

    Everybody has their own; those of others need a permission.
    """


@apikey.command("create")
@click.argument("name")
@click.option(
    "--investigator",
    "owner",
    metavar="ID",
    callback=parse_id_option,
    help="The owner; default: you.",
)
@click.option(
    "--permissions",
    metavar="NAME,…",
    help="What the key may do at most: names, or a set; default: all that its owner may do now.",
)
@click.option("--expires", metavar="90d", help="A duration, or an RFC 3339 date; default: never.")
@service_options
def create_command(
    configuration: Configuration,
    name: str,
    owner: int | None,
    permissions: str | None,
    expires: str | None,
) -> None:
    """Make an API key, whose NAME says what it is for; print it, this once."""
    from mig.migctl.service import open_client

    with open_client(configuration) as client:
        made = client.create_api_key(
            name, investigator_id=owner, permissions=permissions, expires=expires
        )
    click.echo(made.key)


@apikey.command("list")
@click.option(
    "--investigator",
    "owner",
    metavar="ID",
    callback=parse_id_option,
    help="Only those of this one.",
)
@service_options
def list_command(configuration: Configuration, owner: int | None) -> None:
    """List the API keys, newest first: yours, or everybody's if you may see them."""
    from mig.migctl.columns import COLUMNS
    from mig.migctl.output import open_table
    from mig.migctl.service import open_client

    with open_client(configuration) as client:
        keys = client.api_keys(owner)
    with open_table(COLUMNS["apikey"]) as writer:
        for key in keys:
            writer.write(key)


@apikey.command("revoke")
@click.argument("key_id", metavar="KEYID", callback=parse_id_option)
@service_options
def revoke_command(configuration: Configuration, key_id: int) -> None:
    """Revoke the API key KEYID, at once and for ever."""
    from mig.migctl.service import open_client

    with open_client(configuration) as client:
        revoked = client.revoke_api_key(key_id)
    click.echo(f"API key {revoked.id} is revoked")
