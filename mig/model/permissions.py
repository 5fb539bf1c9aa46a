"""The permissions of investigators, as the column ``investigators.permissions`` holds them."""

from __future__ import annotations

from enum import IntFlag
from typing import Final


class Permission(IntFlag):
    """What an investigator may do.

    The bits are those of databases of 2017. Their order is part of the stored format, so a new
    permission goes to the end.
    """

    SEARCH = 1 << 0
    ACTION = 1 << 1
    ACTION_CREATE = 1 << 2
    COMMAND = 1 << 3
    AGENT = 1 << 4
    DASHBOARD = 1 << 5
    LOADER = 1 << 6
    LOADER_STATUS = 1 << 7
    LOADER_EXPECT = 1 << 8
    LOADER_KEY = 1 << 9
    LOADER_NEW = 1 << 10
    MANIFEST = 1 << 11
    MANIFEST_SIGN = 1 << 12
    MANIFEST_NEW = 1 << 13
    MANIFEST_STATUS = 1 << 14
    MANIFEST_LOADERS = 1 << 15
    INVESTIGATOR = 1 << 16
    INVESTIGATOR_CREATE = 1 << 17
    INVESTIGATOR_UPDATE = 1 << 18

    def to_json_value(self) -> dict[str, bool]:
        """Return every name, as clients of 2017 use it, and whether its permission is here."""
        members = Permission.__members__.items()
        return {name.lower(): permission in self for name, permission in members}

    @property
    def member_names(self) -> list[str]:
        """The names of these permissions as clients use them, in the order of the bits."""
        members = Permission.__members__.items()
        return [name.lower() for name, permission in members if permission in self]


DEFAULT_PERMISSIONS: Final = (
    Permission.SEARCH
    | Permission.ACTION
    | Permission.ACTION_CREATE
    | Permission.COMMAND
    | Permission.AGENT
    | Permission.DASHBOARD
)
"""The permissions of a new investigator."""

LOADER_PERMISSIONS: Final = (
    Permission.LOADER
    | Permission.LOADER_STATUS
    | Permission.LOADER_EXPECT
    | Permission.LOADER_KEY
    | Permission.LOADER_NEW
)
"""What clients of 2017 call PermLoader."""

MANIFEST_PERMISSIONS: Final = (
    Permission.MANIFEST
    | Permission.MANIFEST_SIGN
    | Permission.MANIFEST_NEW
    | Permission.MANIFEST_STATUS
    | Permission.MANIFEST_LOADERS
)
"""What clients of 2017 call PermManifest."""

ADMIN_PERMISSIONS: Final = (
    Permission.INVESTIGATOR | Permission.INVESTIGATOR_CREATE | Permission.INVESTIGATOR_UPDATE
)
"""What clients of 2017 call PermAdmin."""

ALL_PERMISSIONS: Final = (
    DEFAULT_PERMISSIONS | LOADER_PERMISSIONS | MANIFEST_PERMISSIONS | ADMIN_PERMISSIONS
)
"""The permissions of every caller while the service does not require credentials."""
