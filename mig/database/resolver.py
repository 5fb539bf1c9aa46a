"""Host names of a connection string, resolved by the reactor: libpq itself would block."""

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


@implementer(IResolutionReceiver)
class _AddressReceiver:
    def __init__(self) -> None:
        self.done: Deferred[list[str]] = Deferred()
        self._found: list[str] = []

    def resolutionBegan(self, resolution: IHostResolution) -> None:
        pass

    def addressResolved(self, address: IAddress) -> None:
        if isinstance(address, IPv4Address | IPv6Address):
            self._found.append(address.host)

    def resolutionComplete(self) -> None:
        self.done.callback(self._found)


async def resolve_hosts(reactor: Reactor, parameters: dict[str, str]) -> dict[str, str]:
    """*parameters* with ``hostaddr`` for every host name in them; sockets' folders stay.

    :raises UnavailableError: for a name without an address.
    """
    hosts = parameters.get("host", "").split(",")
    if "hostaddr" in parameters or not hosts[0] or hosts[0].startswith("/"):
        return parameters
    ports = parameters.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    names, addresses, their_ports = [], [], []
    for host, port in zip(hosts, ports, strict=True):
        receiver = _AddressReceiver()
        reactor.nameResolver.resolveHostName(receiver, host)
        found = await receiver.done.addTimeout(10, reactor)
        if not found:
            raise UnavailableError(
                "the database cannot be reached", f"no address for host {host!r}"
            )
        for address in found:
            names.append(host)
            addresses.append(address)
            their_ports.append(port)
    resolved = {**parameters, "host": ",".join(names), "hostaddr": ",".join(addresses)}
    if any(their_ports):
        resolved["port"] = ",".join(their_ports)
    return resolved
