"""What twistd calls: options to service, or one line and an exit status."""

from __future__ import annotations

from twisted.application.service import IService

from mig.errors import StartupError
from mig.service.application import make_service
from mig.service.options import Options

__all__ = ["Options", "makeService"]


def makeService(options: Options) -> IService:
    """The service that *options* ask for; what is wrong with them ends the process here."""
    try:
        return make_service(options)
    except StartupError as reason:
        raise SystemExit(f"mig-api: {reason}") from None
