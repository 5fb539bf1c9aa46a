"""The command line as a whole, and how it ends."""

from __future__ import annotations

import os
import signal
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Final, Literal, NoReturn, TextIO

import click

from mig import __version__
from mig.migctl.actions import action
from mig.migctl.apikeys import apikey
from mig.migctl.completion import completion_command
from mig.migctl.compliance import compliance_command
from mig.migctl.config import config
from mig.migctl.exits import ExitStatus, describe_error
from mig.migctl.investigators import investigator
from mig.migctl.run import run_command
from mig.migctl.search import search
from mig.migctl.show import agent, command
from mig.migctl.status import status_command
from mig.migctl.terminal import print_notice

NAME: Final = "migctl"


@click.group(
    NAME, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name=NAME, message="%(prog)s %(version)s")
def program() -> None:
    """Ask questions of thousands of machines, through the MIG API.

    Where the service is and who you are: options, then MIG_URL and MIG_API_KEY, then
    ~/.config/mig/config.toml (see `migctl config init`), then ~/.migrc.
    """


for each in (
    status_command,
    search,
    compliance_command,
    run_command,
    action,
    command,
    agent,
    investigator,
    apikey,
    config,
    completion_command,
):
    program.add_command(each)


def run() -> NoReturn:
    """Run the command of the process's arguments, and end the process."""
    # as Ctrl-C does: a bar is taken away, and an unfinished file deleted
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _open_streams()
    try:
        status = call(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes standard output at its end: that must not fail, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = ExitStatus.FAILED
    sys.exit(status)


def _open_streams() -> None:
    """Replace standard streams that are closed, and print what their encoding does not have."""
    # in this order, since each gets the lowest number that is free
    sys.stdin = sys.stdin or _open_nothing("r")
    sys.stdout = sys.stdout or _open_nothing("w")
    sys.stderr = sys.stderr or _open_nothing("w")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error always does


def _open_nothing(mode: Literal["r", "w"]) -> TextIO:
    return Path(os.devnull).open(mode)


def call(arguments: list[str]) -> ExitStatus:
    """Run a command, print what went wrong on standard error, and return the exit status.

    :raises BrokenPipeError: when nobody reads its output.
    """
    try:
        status = program.main(arguments, prog_name=NAME, standalone_mode=False)
    except click.ClickException as reason:
        reason.show()
        return ExitStatus.USAGE
    except (click.Abort, KeyboardInterrupt):
        print_notice("interrupted")
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as reason:
        ending = describe_error(reason)
        if ending is None:
            raise
        print_notice(ending.message, ending.hint)
        return ending.status
    return ExitStatus(status or ExitStatus.OK)
