"""The address of a client, which everything that is logged, limited or shared by client uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from twisted.internet import address
from twisted.internet.interfaces import IAddress
from twisted.web.http_headers import Headers

from mig.web.interfaces import Client

UNIX_PEER_ADDRESS: Final = "127.0.0.1"
"""The address that a peer on a Unix socket counts as."""

UNIX_SOCKETS: Final = "unix"
"""The word in a list of trusted proxies that means every peer on a Unix socket."""

IPV6_GROUP_PREFIX: Final = 64
"""The length, in bits, of the prefix that one client of IPv6 has for itself (RFC 6177)."""

_Network = IPv4Network | IPv6Network


@dataclass(frozen=True, kw_only=True)
class TrustedProxies:
    """The proxies that are believed when they say who their client is."""

    networks: tuple[_Network, ...] = (ip_network("127.0.0.1"), ip_network("::1"))
    has_unix_sockets: bool = True

    def trusts(self, peer: IAddress) -> bool:
        """Return whether a connection's peer is one of the proxies."""
        if isinstance(peer, address.UNIXAddress):
            return self.has_unix_sockets
        parsed = _parse_address(_get_host(peer))
        return parsed is not None and any(parsed in network for network in self.networks)


def parse_trusted_proxies(text: str) -> TrustedProxies:
    """Parse addresses, networks and the word ``unix``, separated by commas; none trusts nobody.

    :raises ValueError: with what is accepted.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    try:
        networks = tuple(ip_network(word) for word in words if word != UNIX_SOCKETS)
    except ValueError:
        raise ValueError(
            "addresses, networks such as 10.0.0.0/8 and the word unix, separated by commas"
        ) from None
    return TrustedProxies(networks=networks, has_unix_sockets=UNIX_SOCKETS in words)


_UNKNOWN: Final = Client(address="unknown", group="unknown", is_loopback=False)


class ClientIdentifier:
    """Finds the client of a connection and of a request.

    :param proxies: whose header X-Forwarded-For is believed.
    :param forwarded_entry: which entry of that header names the client, counted from its end and
        from 0; ``None`` ignores the header.
    """

    def __init__(
        self, proxies: TrustedProxies | None = None, forwarded_entry: int | None = None
    ) -> None:
        self._proxies = proxies or TrustedProxies()
        self._forwarded_entry = forwarded_entry

    def identify_client(self, peer: IAddress, headers: Headers) -> Client:
        """Return the client of a request that came from ``peer`` with ``headers``.

        When the header has fewer entries than needed, its first entry counts. Without the header,
        and when the entry is not an address, it is the peer.
        """
        if self._forwarded_entry is not None and self._proxies.trusts(peer):
            values = headers.getRawHeaders(b"x-forwarded-for", ())
            forwarded = _select_entry(values, self._forwarded_entry)
            if forwarded is not None:
                return forwarded
        return self.identify_peer(peer)

    def identify_peer(self, peer: IAddress) -> Client:
        """Return the peer of a connection as a client."""
        return _make_client(_get_host(peer)) or _UNKNOWN


def _get_host(peer: IAddress) -> str:
    return str(getattr(peer, "host", UNIX_PEER_ADDRESS))


def _select_entry(values: Sequence[bytes], position: int) -> Client | None:
    entries = b",".join(values).decode("latin-1").split(",")
    return _make_client(entries[max(0, len(entries) - 1 - position)].strip())


@lru_cache(maxsize=1024)
def _make_client(text: str) -> Client | None:
    """Return the client at an address; ``None`` for a text that is not an address."""
    parsed = _parse_address(text)
    if parsed is None:
        return None
    group = str(parsed)
    if isinstance(parsed, IPv6Address):
        group = str(ip_network((parsed, IPV6_GROUP_PREFIX), strict=False))
    return Client(address=str(parsed), group=group, is_loopback=parsed.is_loopback)


def _parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address without its zone; an IPv4 address in IPv6 form becomes IPv4."""
    try:
        parsed = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (parsed.version == 6 and parsed.ipv4_mapped) or parsed
