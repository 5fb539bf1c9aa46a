"""``mig-api demo``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from mig.demo import run as demo
from mig.demo.check import DEFAULT_PORT
from mig.errors import (
    PostgresError,
    SchemaError,
    UnavailableError,
    describe_error,
)


@click.command("demo")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, resolve_path=True),
    help="The folder of the database; by default one below the home directory.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True)
def demo_command(folder: Path | None, port: int) -> None:
    """Serve a made-up fleet from an embedded PostgreSQL, to try the API.

    The fleet answers the actions that are posted. What you add stays, also when the demo is started
    again. Ctrl-C leaves nothing running.
    """
    try:
        demo.run_demo(folder or demo.default_folder(), port, time.time)
    except (PostgresError, SchemaError, UnavailableError, ValueError) as reason:
        click.echo(f"mig-api: {describe_error(reason)}", err=True)
        raise SystemExit(1) from None
