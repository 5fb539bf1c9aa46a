"""``migctl investigator``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TextIO

import click

from mig.migctl.configuration import Configuration
from mig.migctl.options import id_argument, service_options
from mig.migctl.show import add_show_command


def _parse_permissions(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> Mapping[str, bool] | None:
    from mig.errors import InvalidInputError
    from mig.model.permissions import parse_permission_names

    try:
        return None if text is None else parse_permission_names(text, "it").to_json_value()
    except InvalidInputError as reason:
        raise click.BadParameter(f"{reason}.") from None


@click.group()
def investigator() -> None:
    """Add, show, enable and disable investigators."""


@investigator.command("add")
@click.argument("name")
@click.argument("publickey", type=click.File(), required=False)
@click.option(
    "--permissions",
    metavar="NAME,…",
    callback=_parse_permissions,
    help="What the investigator may do: names, or a set: admin, default, readonly.",
)
@service_options
def add_command(
    configuration: Configuration,
    name: str,
    publickey: TextIO | None,
    permissions: Mapping[str, bool] | None,
) -> None:
    """Add the investigator NAME, with the armored public key in a file; print the id.

    Without a key, the account can sign nothing: it calls the API with API keys, and needs
    --permissions.
    """
    from mig.migctl.service import open_client

    with open_client(configuration) as client:
        added = client.create_investigator(name, publickey.read() if publickey else "", permissions)
    click.echo(added.id)


add_show_command(investigator, lambda client, investigator_id: client.investigator(investigator_id))


@investigator.command("enable")
@id_argument
@service_options
def enable_command(configuration: Configuration, record_id: int) -> None:
    """Let the investigator ID call the API and submit actions again."""
    _set_status(configuration, record_id, "active")


@investigator.command("disable")
@id_argument
@service_options
def disable_command(configuration: Configuration, record_id: int) -> None:
    """Refuse requests of the investigator ID, and new actions that nobody else has signed."""
    _set_status(configuration, record_id, "disabled")


def _set_status(
    configuration: Configuration, investigator_id: int, status: Literal["active", "disabled"]
) -> None:
    from mig.migctl.service import open_client

    with open_client(configuration) as client:
        changed = client.update_investigator(investigator_id, status=status)
    click.echo(f"investigator {changed.id} is {changed.status}")
