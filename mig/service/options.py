"""The options of ``twistd mig-api``."""

from __future__ import annotations

from typing import Any

from twisted.python import usage

from mig import __version__

DEFAULT_LISTENER = "tcp:1664:interface=127.0.0.1"


class Options(usage.Options):
    """What an operator gives on the command line."""

    synopsis = "[options]"
    longdesc = "Serves the MIG API: actions, commands, agents, investigators, compliance reports."
    optParameters = (
        ["database", None, None, "The database, postgresql://user@host/name"],
        ["public-url", None, None, "The URL of clients for the server, without path"],
    )

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []

    def opt_listen(self, endpoint: str) -> None:
        """Where to accept connections: tcp:PORT:interface=ADDRESS. May be repeated.

        Default: tcp:1664:interface=127.0.0.1
        """
        self["listen"].append(endpoint)

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"mig-api {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Fill in defaults; a foreground ``twistd -n`` gets no twistd.pid that nobody asked for."""
        self["listen"] = self["listen"] or [DEFAULT_LISTENER]
        parent: Any = self.parent or {}
        if parent.get("nodaemon") and parent.get("pidfile") == "twistd.pid":
            parent["pidfile"] = ""
