"""``migctl command show`` and ``migctl agent show``, and what shows all single records."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from mig.migctl.configuration import Configuration
from mig.migctl.options import id_argument, service_options

if TYPE_CHECKING:
    from mig.client.blocking import MIGClient
    from mig.client.records import Record


def add_show_command(group: click.Group, load: Callable[[MIGClient, int], Record]) -> None:
    """Add the verb ``show`` to a group, whose name is that of the record.

    :param load: returns the record with an id.
    """

    @group.command("show", help=f"Show the {group.name} with an ID.")
    @id_argument
    @click.option("--format", "format_name", type=click.Choice(("text", "json")), default="text")
    @service_options
    def show_command(configuration: Configuration, record_id: int, format_name: str) -> None:
        from mig.migctl.records import print_record
        from mig.migctl.service import open_client

        with open_client(configuration) as client:
            record = load(client, record_id)
        print_record(record, format_name)


@click.group()
def command() -> None:
    """Show what an agent has answered to an action."""


@click.group()
def agent() -> None:
    """Show an agent."""


add_show_command(command, lambda client, command_id: client.command(command_id))
add_show_command(agent, lambda client, agent_id: client.agent(agent_id))
