"""What the package needs from the layers above it."""

from __future__ import annotations

from enum import IntFlag
from typing import NamedTuple, Protocol

from twisted.internet.interfaces import IAddress
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource


class Client(NamedTuple):
    """The client of a request or of a connection.

    ``address`` is its IPv4 or IPv6 address. What is shared between clients is shared by ``group``:
    the IPv4 address, or the network of 64 bits of an IPv6 address. ``is_loopback`` tells that it is
    on this host, also by a Unix socket.
    """

    address: str
    group: str
    is_loopback: bool


class ClientIdentifier(Protocol):
    """Finds out which client sent a request: :mod:`mig.access.clientaddress`."""

    def identify_client(self, peer: IAddress, headers: Headers) -> Client:
        """Return the client of a request."""

    def identify_peer(self, peer: IAddress) -> Client:
        """Return the client of a connection, which may be a proxy."""


class Route(Protocol):
    """One method of one path."""

    @property
    def path(self) -> str:
        """The path as it is declared, below the path of the public URL."""

    @property
    def permission(self) -> IntFlag | None:
        """The permission that the caller must have; ``None`` when anyone may call."""

    @property
    def is_guarded(self) -> bool:
        """Whether the handler's statement checks that its caller is still as it was known."""

    @property
    def is_limited(self) -> bool:
        """Whether the rate of a client counts its requests for the route."""

    @property
    def max_body_bytes(self) -> int:
        """How many bytes the body of a request for the route may have."""

    @property
    def body_limit_advice(self) -> str:
        """What a client with a longer body can do, for the message; empty for nothing."""

    @property
    def keeps_body(self) -> bool:
        """Whether the handler reads the body; otherwise it is dropped as it arrives."""

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is long, so that a client that stops sending is taken to have left."""

    @property
    def resource(self) -> IResource:
        """The resource that answers a request for the route."""


class Router(Protocol):
    """The table of all routes."""

    def resolve(self, path: str, method: str) -> Route:
        """Return the route for a decoded path and a method.

        :raises NotFoundError: for a path that has no route.
        :raises MethodNotAllowedError: for a method that the path does not allow.
        """


class Caller(Protocol):
    """The sender of a request."""

    @property
    def label(self) -> str:
        """The caller in the log."""

    @property
    def identity(self) -> int | None:
        """What no other caller has, by which they are limited; ``None`` for anyone."""

    @property
    def permissions(self) -> IntFlag:
        """The permissions of the caller."""
