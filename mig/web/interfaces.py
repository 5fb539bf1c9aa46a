"""What the transport asks of the layers above it."""

from __future__ import annotations

from enum import IntFlag
from typing import Protocol

from twisted.web.resource import IResource


class Route(Protocol):
    """One method of one path."""

    @property
    def path(self) -> str:
        """The path as it was declared, below the base route."""

    @property
    def permission(self) -> IntFlag | None:
        """What the caller must be allowed to do."""

    @property
    def max_body_bytes(self) -> int:
        """The length of the longest body that a request for the route may have."""

    @property
    def keeps_body(self) -> bool:
        """Whether the handler reads the body; otherwise it is dropped as it comes."""

    @property
    def resource(self) -> IResource:
        """What answers a request for the route."""


class Router(Protocol):
    """Knows every route."""

    def resolve(self, path: str, method: str) -> Route:
        """Return the route of a decoded path and a method.

        :raises NotFoundError: for a path that has no route.
        :raises MethodNotAllowedError: for a method that the path does not know.
        """


class Caller(Protocol):
    """Who sent a request."""

    @property
    def name(self) -> str:
        """What the caller is called in the log."""

    @property
    def permissions(self) -> IntFlag:
        """What the caller is allowed to do."""
