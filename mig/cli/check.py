"""``mig-api check``."""

from __future__ import annotations

import grp
import os
import pwd
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import click
import msgspec
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore

from mig.cli.common import EXIT_INTERRUPTED
from mig.errors import StartupError
from mig.reactor import get_reactor
from mig.service.options import Options, find_account

DAEMON_USER: Final = "mig-api"
"""The user in etc/mig-api@.service."""


def _daemon_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of the daemon."""
    listen = click.option("--listen", multiple=True, help="A listener; may be repeated.")
    for name, _, _, meaning in reversed(Options.optParameters):
        command = click.option(f"--{name}", help=f"{meaning}.")(command)
    return listen(command)


@click.command("check")
@_daemon_options
@click.option(
    "--user",
    metavar="NAME",
    help=f"The user of the daemon, as which root checks; by default {DAEMON_USER}.",
)
@click.option("--group", metavar="NAME", help="The group of the daemon, if not that of its user.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="A line for each part, or an object of JSON.",
)
def check_command(
    user: str | None,
    group: str | None,
    format_name: str,
    listen: tuple[str, ...],
    **parameters: str | None,
) -> None:
    """Check whether the daemon could start here, and serve, with the same options.

    Configuration, privileges in the database, its schema and its clock, the spool, gpg and
    certificates are checked with the rights of the daemon's user. Nothing is changed.

    The exit status is 0 when all is well, 1 when a part has a warning, such as a certificate that
    ends within 14 days, and 2 when one fails.
    """
    options = Options()
    options.update({name.replace("_", "-"): value for name, value in parameters.items()})
    options["listen"] = list(listen)
    options.postOptions()
    become_daemon(user, group)
    _run_check(options, format_name)


def become_daemon(user: str | None, group: str | None) -> None:
    """Give this process the rights of the daemon's user, and its home directory.

    :raises UsageError: when there is no such user or group, or this process may not become it.
    """
    is_root = os.geteuid() == 0
    if not is_root and user is None and group is None:
        return
    try:
        entry = pwd.getpwnam(user or DAEMON_USER) if user or is_root else pwd.getpwuid(os.geteuid())
        gid = grp.getgrnam(group).gr_gid if group else entry.pw_gid
    except KeyError:
        raise click.UsageError(
            f"There is no such user or group: name those of the daemon, by default {DAEMON_USER},"
            " with --user and --group."
        ) from None
    try:
        account = find_account({"uid": entry.pw_uid, "gid": gid})
        if not is_root and (entry.pw_uid, gid) != (account.uid, account.gid):
            raise click.UsageError("Only root can check as another user or group.")
        account.become()
    except StartupError as reason:
        raise click.UsageError(f"{reason}.") from None
    os.environ.update(HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)


def _run_check(options: Options, format_name: str) -> None:
    from mig.service.check import STATES, ServiceCheck, format_lines

    async def check_and_exit() -> None:
        report = await ServiceCheck(get_reactor(), time.time, options).run()
        text = (
            msgspec.json.encode(report).decode() if format_name == "json" else format_lines(report)
        )
        status = STATES.index(report.status)
        try:
            click.echo(text)
        except BrokenPipeError:
            pass  # the reader has read enough
        except OSError as reason:
            click.echo(f"mig-api: the report cannot be written: {reason.strerror}", err=True)
            status = STATES.index("failed")
        _exit(status)

    def start(reactor: IReactorCore) -> Deferred[None]:
        reactor.addSystemEventTrigger("before", "shutdown", _exit, EXIT_INTERRUPTED)
        return Deferred.fromCoroutine(check_and_exit())

    task.react(start)


def _exit(status: int) -> None:
    """End the process at once, although a thread may still wait for a file system or a resolver."""
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(status)
