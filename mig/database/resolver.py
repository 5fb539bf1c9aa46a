"""The host names of a connection string, resolved by the reactor: libpq would block."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
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


async def resolve_hosts(reactor: Reactor, parameters: dict[str, str]) -> dict[str, str]:
    """Return ``parameters`` with ``hostaddr`` for every host name in them.

    Parameters that name no host, or the folder of a Unix socket, are returned as they are.

    :raises UnavailableError: for a name without an address.
    """
    hosts = parameters.get("host", "").split(",")
    if "hostaddr" in parameters or not hosts[0] or hosts[0].startswith("/"):
        return parameters
    ports = parameters.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    # libpq pairs hosts, addresses and ports by position: a host appears once for each address,
    # and keeps its name, by which libpq checks the certificate
    names, addresses, address_ports = [], [], []
    for host, port in zip(hosts, ports, strict=True):
        receiver = _AddressReceiver()
        reactor.nameResolver.resolveHostName(receiver, host)
        host_addresses = await receiver.done.addTimeout(RESOLVE_TIMEOUT_SECONDS, reactor)
        if not host_addresses:
            raise UnavailableError(
                "the database cannot be reached", f"no address for host {host!r}"
            )
        for address in host_addresses:
            names.append(host)
            addresses.append(address)
            address_ports.append(port)
    resolved = {**parameters, "host": ",".join(names), "hostaddr": ",".join(addresses)}
    if any(address_ports):
        resolved["port"] = ",".join(address_ports)
    return resolved
