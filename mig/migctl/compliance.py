"""``migctl compliance``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mig.client.filters import Filters
from mig.migctl.configuration import Configuration
from mig.migctl.options import filter_options, output_options, service_options

if TYPE_CHECKING:
    from mig.client.blocking import MIGClient
    from mig.client.records import ComplianceItem


@click.command("compliance")
@click.option(
    "--junit",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file for CI: a suite for each policy, a case for each check.",
)
@service_options
@filter_options("command", is_report=True)
@output_options
def compliance_command(
    configuration: Configuration,
    filters: Filters,
    junit: Path | None,
    format_name: str,
    path: Path | None,
) -> None:
    """Report which agents comply with which checks.

    With --latest, only the newest answer of each agent counts: how are we now?
    """
    from mig.migctl.service import open_client

    with open_client(configuration) as client:
        _report(client, filters, format_name, path, junit)


def _report(
    client: MIGClient, filters: Filters, format_name: str, path: Path | None, junit: Path | None
) -> None:
    """Write the items of a report where they are wanted."""
    from mig.migctl.junit import JUnitReport
    from mig.migctl.output import open_complete, open_writer
    from mig.migctl.progress import is_shown, show_report

    takers: list[Callable[[ComplianceItem], None]] = []
    with ExitStack() as files:
        if path or not junit:
            writer = files.enter_context(open_writer("compliance item", format_name, path))
            takers.append(writer.write)
        if path or junit:
            commands = client.count("command", filters) if is_shown() else None
            takers.append(files.enter_context(show_report(commands)))
        if junit:
            xml = files.enter_context(open_complete(junit))
            cases = JUnitReport()
            takers.append(cases.add)
        for item in client.compliance_items(filters):
            for take in takers:
                take(item)
        if junit:
            xml.write(cases.to_xml())
