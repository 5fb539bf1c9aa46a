"""The client library: searches, reports and signed actions, for scripts on Twisted or without it.

:class:`MIGClient` is for code on Twisted, also on its asyncio reactor; :mod:`mig.client.blocking`
has the same for plain scripts. :mod:`mig.client.signer` makes and signs actions.

What it offers is imported when it is used: ``migctl`` completes words without Twisted.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mig.client.client import MIGClient
    from mig.client.errors import (
        ConnectionFailedError,
        ForbiddenError,
        IncompleteResponseError,
        InsecureURLError,
        InvalidResponseError,
        MIGClientError,
        NotFoundError,
        RequestError,
        UnauthorizedError,
        UnavailableError,
        UnreadableRecordsError,
        WaitTimeoutError,
    )
    from mig.client.filters import Filters
    from mig.client.records import (
        Action,
        Agent,
        Command,
        ComplianceItem,
        ComplianceSummary,
        Dashboard,
        Investigator,
    )

__all__ = [
    "Action",
    "Agent",
    "Command",
    "ComplianceItem",
    "ComplianceSummary",
    "ConnectionFailedError",
    "Dashboard",
    "Filters",
    "ForbiddenError",
    "IncompleteResponseError",
    "InsecureURLError",
    "InvalidResponseError",
    "Investigator",
    "MIGClient",
    "MIGClientError",
    "NotFoundError",
    "RequestError",
    "UnauthorizedError",
    "UnavailableError",
    "UnreadableRecordsError",
    "WaitTimeoutError",
]

_MODULES: Final = ("errors", "filters", "records", "client")


def __getattr__(name: str) -> object:
    """Return something that the library offers, from its module."""
    if name in __all__:
        for module_name in _MODULES:
            module = import_module(f"{__name__}.{module_name}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
