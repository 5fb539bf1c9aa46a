"""``migctl compliance``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from mig.client.filters import Filters
from mig.migctl.configuration import Configuration
from mig.migctl.exits import UsageError
from mig.migctl.options import OutputFile, filter_options, output_options, service_options

if TYPE_CHECKING:
    from mig.client.blocking import MIGClient
    from mig.client.records import ComplianceItem, ComplianceSummary

Output: TypeAlias = tuple[str, Path | None]
"""The name of a format, and the file, or none for standard output."""


def _parse_percent(
    _context: click.Context, _option: click.Parameter, percent: float | None
) -> float | None:
    # no rate is below it, so each gate would open
    if percent is not None and isnan(percent):
        raise click.BadParameter("it must be a number from 0 to 100, not 'nan'.")
    return percent


@click.command("compliance")
@click.option(
    "--junit",
    type=OutputFile(),
    help="A file for CI: a suite for each policy, a case for each check.",
)
@click.option(
    "--summary", "is_summary", is_flag=True, help="Count agents by policy and check, not items."
)
@click.option(
    "--groupby",
    metavar="NAME,NAME",
    help="What a summary counts by: one or two of policy, level, check, action, os, version,"
    " tag.NAME, day.",
)
@click.option(
    "--maxage", metavar="DURATION", help="How old an answer may be for a summary, such as 30d."
)
@click.option(
    "--fail-under",
    metavar="PERCENT",
    type=click.FloatRange(0, 100),
    callback=_parse_percent,
    help="Exit with 1 when fewer of the agents in scope comply. Unknown and not asked counts as"
    " not compliant.",
)
@filter_options("command", is_report=True)
@output_options
@service_options
def compliance_command(
    configuration: Configuration,
    filters: Filters,
    junit: Path | None,
    is_summary: bool,
    groupby: str | None,
    maxage: str | None,
    fail_under: float | None,
    format_name: str,
    path: Path | None,
) -> None:
    """Report which agents comply with which checks.

    With --latest, only the newest answer of each agent counts: how are we now? A summary counts the
    agents in scope: those that match the filters and are neither destroyed nor upgraded, also when
    no command has asked them.
    """
    if (groupby or maxage) and not is_summary and fail_under is None:
        raise UsageError("--groupby and --maxage are for --summary and --fail-under")
    from mig.migctl.service import open_client

    has_items = not is_summary and (path or (junit is None and fail_under is None))
    with open_client(configuration) as client:
        if has_items or junit:
            writes = (format_name, path) if has_items else None
            _report(client, filters, writes, junit)
        if is_summary or fail_under is not None:
            names = groupby.split(",") if groupby else ()
            groups = client.compliance_summary(
                filters, groupby=names, maxage=maxage, scope="agents"
            )
            _summarize(list(groups), (format_name, path) if is_summary else None, fail_under)


def _summarize(
    groups: Sequence[ComplianceSummary], output: Output | None, fail_under: float | None
) -> None:
    """Write a summary where it is wanted, and check the rate of its totals."""
    from mig.migctl.summary import check_rate, write_summary

    if output:
        write_summary(groups, *output)
    if fail_under is not None:
        check_rate(groups[-1], fail_under)


def _report(client: MIGClient, filters: Filters, output: Output | None, junit: Path | None) -> None:
    """Write the items of a report where they are wanted."""
    from mig.migctl.junit import JUnitReport
    from mig.migctl.output import open_complete, open_writer
    from mig.migctl.progress import is_shown, show_report

    consumers: list[Callable[[ComplianceItem], None]] = []
    with ExitStack() as files:
        if output:
            writer = files.enter_context(open_writer("compliance item", *output))
            consumers.append(writer.write)
        if junit or (output and output[1]):
            # with --latest, only the service knows how many commands it will read
            is_counted = is_shown() and not filters.get("latest")
            commands = client.count("command", filters) if is_counted else None
            consumers.append(files.enter_context(show_report(commands)))
        if junit:
            xml = files.enter_context(open_complete(junit))
            cases = JUnitReport()
            consumers.append(cases.add)
        for item in client.compliance_items(filters):
            for consume in consumers:
                consume(item)
        if junit:
            xml.write(cases.to_xml())
