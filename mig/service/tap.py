"""The plugin's entry point for twistd: options in, a service out."""

from __future__ import annotations

from twisted.application.service import IService

from mig.errors import StartupError
from mig.startup import pause_collector

with pause_collector():
    from mig.service.application import make_service
    from mig.service.options import Options

__all__ = ["Options", "makeService"]


def makeService(options: Options) -> IService:
    """Return the service for ``options``; a fault in them ends the process with one line."""
    try:
        return make_service(options)
    except StartupError as reason:
        raise SystemExit(f"mig-api: {reason}") from None
