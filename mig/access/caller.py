"""Who sent a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mig.access.permissions import ALL_PERMISSIONS, Permission


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who sent a request: what they are called in the log, and what they are allowed to do."""

    name: str
    permissions: Permission


ANONYMOUS: Final = Caller(name="anonymous", permissions=ALL_PERMISSIONS)
"""Anyone who reaches a service that does not ask for credentials."""
