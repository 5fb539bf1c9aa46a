"""The client library: searches, reports and signed actions, for scripts on Twisted or without it.

:class:`MIGClient` is for code on Twisted, also on its asyncio reactor; :mod:`mig.client.blocking`
has the same for plain scripts. :mod:`mig.client.signer` makes and signs actions.
"""

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
from mig.client.records import Action, Agent, Command, ComplianceItem, Dashboard, Investigator

__all__ = [
    "Action",
    "Agent",
    "Command",
    "ComplianceItem",
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
