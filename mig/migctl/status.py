"""``migctl status``."""

from __future__ import annotations

import click

from mig.migctl.configuration import Configuration
from mig.migctl.options import service_options


@click.command("status")
@service_options
def status_command(configuration: Configuration) -> None:
    """Count the agents, and list the last actions."""
    from mig.migctl.columns import DASHBOARD_ACTIONS
    from mig.migctl.output import open_table
    from mig.migctl.records import print_fields
    from mig.migctl.service import open_client

    with open_client(configuration) as client:
        dashboard = client.dashboard()
    values = {name: value for name, value in dashboard.values.items() if value is not None}
    print_fields({"service": configuration.url, **values})
    click.echo()
    with open_table(DASHBOARD_ACTIONS) as writer:
        for action in dashboard.actions:
            writer.write(action)
