"""The servers of a connection string: host names are resolved by the reactor, since libpq blocks.

libpq could try several servers itself, but a connection that does not block has no timeout: a
server that drops packets would hide the next one.
"""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import (
    IAddress,
    IHostResolution,
    IResolutionReceiver,
)
from zope.interface import implementer

from mig.errors import UnavailableError
from mig.reactor import Reactor

RESOLVE_TIMEOUT_SECONDS = 10


@implementer(IResolutionReceiver)
class _AddressReceiver:
    def __init__(self) -> None:
        self.done: Deferred[list[str]] = Deferred()
        self._addresses: list[str] = []

    def resolutionBegan(self, resolution: IHostResolution) -> None:
        """Do nothing."""

    def addressResolved(self, address: IAddress) -> None:
        """Keep an address."""
        if isinstance(address, IPv4Address | IPv6Address):
            self._addresses.append(address.host)

    def resolutionComplete(self) -> None:
        """Return the addresses by the Deferred ``done``."""
        self.done.callback(self._addresses)


async def list_servers(reactor: Reactor, parameters: dict[str, str]) -> list[dict[str, str]]:
    """Return ``parameters`` once for each server that they name, with its ``hostaddr``.

    A host name stands for as many servers as it has addresses, and one without an address is left
    out while there are others. It stays ``host``, by which libpq checks the certificate.

    :raises UnavailableError: when no host name has an address.
    """
    hosts = parameters.get("host", "").split(",")
    addresses = parameters.get("hostaddr", "").split(",")
    ports = parameters.get("port", "").split(",")
    count = max(len(hosts), len(addresses))
    columns = [column * count if column == [""] else column for column in (hosts, addresses)]
    columns.append(ports * count if len(ports) == 1 else ports)
    if any(len(column) != count for column in columns):
        return [parameters]  # libpq says which number is wrong
    named = list(zip(*columns, strict=True))
    found = await gatherResults(
        [Deferred.fromCoroutine(_find_addresses(reactor, *each[:2])) for each in named],
        consumeErrors=True,
    )
    servers = [
        _drop_empty({**parameters, "host": host, "hostaddr": address, "port": port})
        for (host, _, port), host_addresses in zip(named, found, strict=True)
        for address in host_addresses
    ]
    if not servers:
        names = " and ".join(dict.fromkeys(map(repr, hosts)))
        raise UnavailableError("the database cannot be reached", f"no address for host {names}")
    return servers


async def _find_addresses(reactor: Reactor, host: str, address: str) -> list[str]:
    """Return the addresses of a host name, ``[""]`` where libpq needs none, ``[]`` without any."""
    if address or not host or host.startswith(("/", "@")):  # the folder of a Unix socket
        return [address]
    receiver = _AddressReceiver()
    reactor.nameResolver.resolveHostName(receiver, host)
    try:
        return await receiver.done.addTimeout(RESOLVE_TIMEOUT_SECONDS, reactor)
    except DeferredTimeoutError:
        return []


def _drop_empty(parameters: dict[str, str]) -> dict[str, str]:
    """Return ``parameters`` without empty ones, for which libpq would not ask the environment."""
    return {name: value for name, value in parameters.items() if value}
