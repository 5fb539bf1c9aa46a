"""The options of ``twistd mig-api``."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Final

from twisted.python import usage

from mig import __version__
from mig.account import Account
from mig.errors import StartupError

EMBEDDED_PREFIX: Final = "embedded:"


class Options(usage.Options):
    """The options of the command line, which take precedence over the configuration file.

    ``listen`` is a list, empty without the option; all others are ``None`` without theirs. Paths
    are absolute: twistd may change its working directory later.
    """

    synopsis = "[options]"
    longdesc = "Serves the MIG API: actions, commands, agents, investigators, compliance reports."
    optParameters = (
        ["config", None, None, "The configuration file, an api.cfg of MIG"],
        ["database", None, None, "postgresql://USER@HOST/NAME, or embedded:FOLDER for a demo"],
        ["spool", None, None, "The folder from which the scheduler takes new actions"],
        ["authentication", None, None, "on, or off while only this host can reach the listeners"],
        [
            "admin",
            None,
            None,
            "A local listener for health and metrics, such as unix:PATH:mode=660",
        ],
        ["public-url", None, None, "The URL that clients use for the server, without a path"],
    )

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []

    def opt_listen(self, endpoint: str) -> None:
        """Listen on this endpoint; may be repeated. Accepted are tcp:PORT:interface=IPV4,
        tcp6:PORT:interface=IPV6, ssl:PORT:interface=ADDRESS:certKey=FILE:privateKey=FILE,
        unix:PATH:mode=660, systemd:domain=INET:index=0 and fd:NUMBER. An address that other
        machines can reach needs authentication, and TLS or [server] cleartext = on.

        Default: tcp:1664:interface=127.0.0.1
        """
        self["listen"].append(endpoint)

    # Twisted would print the indentation of the lines above within its own lines.
    opt_listen.__doc__ = " ".join((opt_listen.__doc__ or "").split())

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"mig-api {__version__}")
        raise SystemExit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the command line; a wrong one ends the process with one line."""
        try:
            super().parseOptions(options)
        except usage.UsageError as reason:
            raise SystemExit(f"mig-api: {reason}; see mig-api --help") from None

    def postOptions(self) -> None:
        """Make paths absolute, and drop twistd's default pid file in the foreground."""
        if self["config"]:
            self["config"] = str(Path(self["config"]).absolute())
        if self["spool"]:
            self["spool"] = str(Path(self["spool"]).absolute())
        database = self["database"] or ""
        if database.startswith(EMBEDDED_PREFIX) and database != EMBEDDED_PREFIX:
            self["database"] = (
                f"{EMBEDDED_PREFIX}{Path(database.removeprefix(EMBEDDED_PREFIX)).absolute()}"
            )
        parent: MutableMapping[str, object] = self.parent or {}
        if parent.get("nodaemon") and parent.get("pidfile") == "twistd.pid":
            parent["pidfile"] = ""


def find_account(parent: Mapping[str, object]) -> Account:
    """Return the account to which twistd will switch, by its options ``uid`` and ``gid``.

    :raises StartupError: for a user who does not exist, or cannot read this program.
    """
    process = Account.of_process()
    uid, gid = parent.get("uid"), parent.get("gid")
    if process.uid != 0:
        return process  # twistd itself refuses to switch unless it is started as root
    number = process.uid if uid is None else int(str(uid))
    try:
        group = process.gid if uid is None else pwd.getpwuid(number).pw_gid
    except KeyError:
        raise StartupError(f"--uid {number} is not a user of this system") from None
    account = Account(uid=number, gid=group if gid is None else int(str(gid)))
    _check_installation(account)
    return account


def _check_installation(account: Account) -> None:
    """Refuse a user who could not import the first module that is imported late.

    :raises StartupError: naming the user and the file.
    """
    for file in (os.__file__, __file__):
        with account.act():
            is_readable = os.access(file, os.R_OK, effective_ids=True)
        if not is_readable:
            raise StartupError(
                f"the user {account.name} cannot read {file}: install Python and mig-api where"
                " every user can read them"
            )
