"""The caller of the API: who sent a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mig.model.permissions import ALL_PERMISSIONS, Permission


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who sent a request: their name in the log, and their permissions."""

    name: str
    permissions: Permission


ANONYMOUS: Final = Caller(name="anonymous", permissions=ALL_PERMISSIONS)
"""Anyone who can reach a service that does not require credentials."""
