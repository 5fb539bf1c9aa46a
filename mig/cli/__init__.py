"""``mig-api VERB``: the command line of administrators, on the functions of the daemon."""

from __future__ import annotations

import click

from mig import __version__
from mig.startup import pause_collector

with pause_collector():
    from mig.cli.apikeys import apikey
    from mig.cli.audit import audit_command
    from mig.cli.check import check_command
    from mig.cli.demo import demo_command
    from mig.cli.investigators import investigator
    from mig.cli.migration import migrate_command
    from mig.cli.retention import prune_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mig-api", message="%(prog)s %(version)s")
def main() -> None:
    """Administer the MIG API. The daemon itself is `twistd mig-api`."""


for verb in (
    migrate_command,
    investigator,
    apikey,
    audit_command,
    prune_command,
    check_command,
    demo_command,
):
    main.add_command(verb)
