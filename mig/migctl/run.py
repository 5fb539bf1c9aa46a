"""``migctl run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from mig.migctl.actions import expires_option
from mig.migctl.configuration import Configuration
from mig.migctl.exits import CommandError, UsageError
from mig.migctl.options import output_options, service_options
from mig.migctl.terminal import is_interactive, print_notice

if TYPE_CHECKING:
    from mig.client.signer import Action


@click.command("run")
@click.argument("file", type=click.File(), required=False)
@click.option("--module", help="Instead of FILE: the module that answers.")
@click.option("--parameters", metavar="JSON", help="Its parameters; default {}.")
@click.option("--target", metavar="CONDITION", help="The agents, as a condition in SQL.")
@click.option("--name", help="The name of the action; default: the module's.")
@expires_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask before it is submitted, for scripts.")
@output_options
@service_options
def run_command(
    configuration: Configuration,
    file: TextIO | None,
    module: str | None,
    parameters: str | None,
    target: str | None,
    name: str | None,
    expires: str | None,
    yes: bool,
    format_name: str,
    path: Path | None,
) -> None:
    """Run an action, and print what the agents have answered.

    The action is that of FILE, signed or not, or it is made of options. It is checked; you see
    which agents match, and are asked. It is signed and submitted, and followed until it ends. The
    exit status is 1 when no agent matches, or one did not answer with success.
    """
    if not yes and not is_interactive():
        raise UsageError("nobody can be asked: there is no terminal", "submit it with --yes")
    if (file is None) == (module is None):
        raise UsageError("an action is needed", "give a FILE, or --module and --target")
    if file and (parameters or target or name):
        raise UsageError("--parameters, --target and --name are for --module, not for a FILE")
    if module and not target:
        raise UsageError("--module needs --target", "every agent: --target true")
    from mig.migctl.action_files import (
        check_expiry,
        count_agents,
        describe_action,
        read_action,
    )
    from mig.migctl.follow import follow_action
    from mig.migctl.records import print_fields
    from mig.migctl.service import open_client, open_signer

    if file:
        action = read_action(file.read(), expires)
    else:
        action = _build_action(name, str(module), parameters, str(target), expires)
    check_expiry(action)
    with open_client(configuration) as client:
        agents, text = count_agents(client, action.target)
        print_fields({**describe_action(action), "agents": text}, on_stderr=True)
        if not agents:
            raise CommandError("no agent matches the target")
        if not yes and not click.confirm("Sign and submit it?", err=True):
            raise CommandError("not submitted")
        if not action.pgpsignatures:
            action = action.sign_in_this_thread(open_signer(configuration))
        created = client.create_action(action)
        # also when the connection is lost, it can be followed again
        print_notice(f"submitted as action {created.id}")
        follow_action(client, created, format_name, path, agents)


def _build_action(
    name: str | None, module: str, parameters: str | None, target: str, expires: str | None
) -> Action:
    from mig.client.signer import Action
    from mig.errors import InvalidInputError
    from mig.migctl.action_files import DEFAULT_EXPIRY
    from mig.values import parse_json

    try:
        operation = {"module": module, "parameters": parse_json(parameters or "{}", "--parameters")}
    except InvalidInputError as reason:
        raise UsageError(str(reason)) from None
    return Action.build(name or module, target, [operation], expires or DEFAULT_EXPIRY)
