"""``migctl action``."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any, TextIO

import click

from mig.migctl.configuration import Configuration
from mig.migctl.options import (
    Command,
    OutputFile,
    gpg_options,
    id_argument,
    output_options,
    service_options,
)
from mig.migctl.show import add_show_command
from mig.migctl.terminal import print_notice

expires_option = click.option(
    "--expires",
    metavar="DURATION",
    help="How long an unsigned action is valid, such as 90m or 2d; default: as its file says, else"
    " 1h.",
)


@click.group()
def action() -> None:
    """Check, sign and submit actions, and follow them.

    A FILE has the JSON of an action, signed or not; - is standard input.
    """


def _file_options(command: Command) -> Command:
    """Give a command the file of an action, as an argument or an option; it gets ``text``."""

    @wraps(command)
    def read(
        *arguments: Any, file: TextIO | None, input_file: TextIO | None, **values: Any
    ) -> None:
        if (file is None) == (input_file is None):
            raise click.UsageError("Give one FILE.")
        chosen = file or input_file
        assert chosen is not None  # one of both
        command(*arguments, text=chosen.read(), **values)

    argument = click.argument("file", type=click.File(), required=False)
    option = click.option(
        "-i", "--input", "input_file", type=click.File(), help="The same as the argument FILE."
    )
    decorated: Command = argument(option(read))
    return decorated


@action.command("check")
@service_options
@_file_options
@expires_option
@click.option("--offline", is_flag=True, help="Do not ask the service which agents match.")
def check_command(
    configuration: Configuration, text: str, expires: str | None, offline: bool
) -> None:
    """Check an action and its signatures, and count the agents on which it would run."""
    from mig.migctl.action_files import check_expiry, count_agents, describe_action, read_action
    from mig.migctl.records import print_fields
    from mig.migctl.service import open_client, open_verifier

    found = read_action(text, expires)
    check_expiry(found)
    fields = describe_action(found)
    if found.pgpsignatures:
        signatures = found.verify_in_this_thread(open_verifier(configuration))
        fields["signed by"] = ", ".join(f"{each.user} {each.fingerprint}" for each in signatures)
    else:
        fields["signed by"] = "nobody yet"
    if not offline:
        with open_client(configuration) as client:
            fields["agents"] = count_agents(client, found.target)[1]
    print_fields(fields)


@action.command("sign")
@gpg_options
@_file_options
@expires_option
@click.option(
    "-o",
    "--output",
    "path",
    type=OutputFile(allow_dash=True),
    help="The file to write, which may be FILE; default: standard output.",
)
def sign_command(
    configuration: Configuration, text: str, expires: str | None, path: Path | None
) -> None:
    """Add a signature to an action, after those that it has."""
    from mig.migctl.action_files import check_expiry, read_action
    from mig.migctl.output import open_complete
    from mig.migctl.service import open_signer

    found = read_action(text, expires)
    check_expiry(found)
    signed = found.sign_in_this_thread(open_signer(configuration)).to_json()
    if path is None:
        click.echo(signed)
        return
    with open_complete(path) as file:
        file.write(f"{signed}\n".encode())


@action.command("create")
@service_options
@_file_options
@expires_option
def create_command(configuration: Configuration, text: str, expires: str | None) -> None:
    """Sign an action that has no signature, submit it, and print its id."""
    from mig.migctl.action_files import check_expiry, read_action
    from mig.migctl.service import open_client, open_signer

    found = read_action(text, expires)
    check_expiry(found)
    with open_client(configuration) as client:
        if not found.pgpsignatures:
            found = found.sign_in_this_thread(open_signer(configuration))
        created = client.create_action(found)
    click.echo(created.id)
    print_notice("submitted", f"follow it: migctl action follow {created.id}")


add_show_command(action, lambda client, action_id: client.action(action_id))


@action.command("follow")
@id_argument
@output_options
@service_options
def follow_command(
    configuration: Configuration, record_id: int, format_name: str, path: Path | None
) -> None:
    """Wait until an action has ended, and print what the agents have answered.

    The exit status is 1 when the action is invalid, or an agent did not answer with success.
    """
    from mig.migctl.follow import follow_action
    from mig.migctl.service import open_client

    with open_client(configuration) as client:
        follow_action(client, client.action(record_id), format_name, path)
