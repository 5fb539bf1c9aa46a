"""``mig-api audit``."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Final

import click
from whenever import Instant

from mig.cli.common import (
    database_option,
    run_on_database,
)
from mig.database.database import Database
from mig.database.schema.migrate import ensure_schema
from mig.errors import (
    InvalidInputError,
)
from mig.formats.audit_lines import AuditTable, encode_ndjson_line
from mig.model.audit import AuditEntry
from mig.model.record import read_record
from mig.search.audit import load_pages, search_since
from mig.values import parse_duration, parse_id

MAX_SINCE: Final = timedelta(days=365_000)


def _parse_since_option(_context: click.Context, _option: click.Parameter, text: str) -> Instant:
    try:
        duration = min(parse_duration(text), MAX_SINCE)
    except ValueError as reason:
        raise click.BadParameter(f"it must be {reason}.") from None
    return Instant.from_timestamp(time.time()).subtract(seconds=duration.total_seconds())


def _parse_id_option(
    _context: click.Context, option: click.Parameter, text: str | None
) -> int | None:
    try:
        return None if text is None else parse_id("it", text)
    except InvalidInputError as reason:
        raise click.BadParameter(f"{reason}.") from None


@click.command("audit")
@click.option(
    "--since",
    "after",
    metavar="DURATION",
    default="24h",
    show_default=True,
    callback=_parse_since_option,
    help="How far to go back: 90m, 7d, 1h30m.",
)
@click.option(
    "--investigator",
    "investigator_id",
    metavar="ID",
    callback=_parse_id_option,
    help="Only what this investigator has done, or was refused.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["table", "ndjson"]),
    default="table",
    show_default=True,
    help="A table for people, or an object of JSON on each line.",
)
@database_option
def audit_command(
    after: Instant, investigator_id: int | None, format_name: str, database: str
) -> None:
    """Print who changed what, and which requests were refused, the oldest first."""

    async def print_audit(opened: Database) -> None:
        await ensure_schema(opened, upgrade=False)
        table = AuditTable()
        async for rows in load_pages(opened.query, search_since(after, investigator_id)):
            entries = [read_record(AuditEntry.noun, AuditEntry.from_row, row) for row in rows]
            lines = (
                table.format_page(entries)
                if format_name == "table"
                else map(encode_ndjson_line, entries)
            )
            for line in lines:
                click.echo(line)

    run_on_database(database, print_audit)
