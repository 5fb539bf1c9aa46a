"""The permissions of investigators, as the column ``investigators.permissions`` holds them."""

from __future__ import annotations

from enum import IntFlag
from typing import Final

from mig.errors import InvalidInputError
from mig.values import parse_json, suggest_name


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
    def label(self) -> str:
        """The name of a single permission as clients use it."""
        return str(self.name).lower()

    @property
    def member_names(self) -> list[str]:
        """The names of these permissions as clients use them, in the order of the bits."""
        members = Permission.__members__.items()
        return [name.lower() for name, permission in members if permission in self]


def parse_permissions(value: object, where: str = "permissions") -> Permission:
    """Parse an object of permissions to booleans, as clients of 2017 send it.

    :param value: the object, or its JSON text.
    :raises InvalidInputError: for an unknown name, and for a value other than true and false.
    """
    names = parse_json(value, where) if isinstance(value, str) else value
    if not isinstance(names, dict):
        raise InvalidInputError(f"{where} must be a JSON object of names to true or false", where)
    permissions = Permission(0)
    for name, is_set in names.items():
        permission = _find_permission(name, where)
        if not isinstance(is_set, bool):
            raise InvalidInputError(f"{where}.{permission.label} must be true or false", where)
        permissions |= permission if is_set else Permission(0)
    return permissions


def parse_permission_field(value: object, where: str = "permissions") -> Permission:
    """Parse an object as :func:`parse_permissions`, or names as :func:`parse_permission_names`.

    :raises InvalidInputError: as they do.
    """
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        return parse_permission_names(value, where)
    return parse_permissions(value, where)


def parse_permission_names(text: str, where: str = "permissions") -> Permission:
    """Parse the names of permissions, and of sets of them, separated by commas.

    :raises InvalidInputError: for an unknown name.
    """
    permissions = Permission(0)
    for name in text.split(","):
        if name.strip():
            permissions |= PERMISSION_SETS.get(name.strip()) or _find_permission(
                name.strip(), where, also=tuple(PERMISSION_SETS)
            )
    return permissions


def _find_permission(name: str, where: str, *, also: tuple[str, ...] = ()) -> Permission:
    known = Permission.__members__
    if name.upper() not in known or name != name.lower():
        names = [*also, *(other.lower() for other in known)]
        hint = suggest_name(name, names, f"the permissions are {', '.join(names)}")
        raise InvalidInputError(f"{where} has an unknown name {name[:40]!r}; {hint}", where)
    return known[name.upper()]


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

READONLY_PERMISSIONS: Final = DEFAULT_PERMISSIONS & ~Permission.ACTION_CREATE
"""What reads everything about agents and actions, and changes nothing."""

PERMISSION_SETS: Final = {
    "admin": ALL_PERMISSIONS,
    "default": DEFAULT_PERMISSIONS,
    "readonly": READONLY_PERMISSIONS,
}
"""The sets that have a name."""

ANY_CALLER: Final = Permission(0)
"""The permission of a route for every caller with valid credentials."""
