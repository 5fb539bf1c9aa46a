"""The address of a client: who is believed, and who shares a limit."""

from __future__ import annotations

from ipaddress import IPv6Address as V6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.web.http_headers import Headers

from mig.access.clientaddress import ClientIdentifier, TrustedProxies, parse_trusted_proxies

PROXY = IPv4Address("TCP", "127.0.0.1", 40000)
STRANGER = IPv4Address("TCP", "192.0.2.9", 40000)


def find_address(identifier: ClientIdentifier, peer: IAddress, *values: bytes) -> str:
    headers = Headers({b"x-forwarded-for": list(values)} if values else {})
    return identifier.identify_client(peer, headers).address


@pytest.mark.parametrize(
    ("entry", "values", "address"),
    [
        (0, [b"192.0.2.1, 198.51.100.2"], "198.51.100.2"),
        (1, [b"192.0.2.1, 198.51.100.2"], "192.0.2.1"),
        (1, [b"192.0.2.1", b"198.51.100.2,203.0.113.3"], "198.51.100.2"),
        (7, [b"192.0.2.1, 198.51.100.2"], "192.0.2.1"),
        (0, [b"2001:DB8::0:1"], "2001:db8::1"),
        (0, [b"::ffff:192.0.2.1"], "192.0.2.1"),
        (0, [b"192.0.2.1, "], "127.0.0.1"),
        (0, [b"192.0.2.1, unknown"], "127.0.0.1"),
        (0, [b"192.0.2.1:80"], "127.0.0.1"),
        (0, [b"\xff\x00"], "127.0.0.1"),
        (0, [], "127.0.0.1"),
    ],
)
def test_the_configured_entry_names_the_client(
    entry: int, values: list[bytes], address: str
) -> None:
    """Of a shorter list it is the first; without an address there, the peer."""
    assert find_address(ClientIdentifier(None, entry), PROXY, *values) == address


def test_the_header_counts_only_when_it_is_configured() -> None:
    assert find_address(ClientIdentifier(), PROXY, b"192.0.2.1") == "127.0.0.1"


def test_only_trusted_proxies_are_believed() -> None:
    identifier = ClientIdentifier(parse_trusted_proxies("10.0.0.0/8, 2001:db8::/32"), 0)
    peers: dict[IAddress, str] = {
        IPv4Address("TCP", "10.9.8.7", 1): "192.0.2.1",
        IPv6Address("TCP", "2001:db8::7%eth0", 1): "192.0.2.1",
        IPv6Address("TCP", "::ffff:10.9.8.7", 1): "192.0.2.1",
        STRANGER: "192.0.2.9",
        PROXY: "127.0.0.1",
        UNIXAddress(None): "127.0.0.1",
    }
    assert {peer: find_address(identifier, peer, b"192.0.2.1") for peer in peers} == peers


def test_unix_sockets_and_loopback_are_trusted_by_default() -> None:
    identifier = ClientIdentifier(None, 0)
    for peer in (PROXY, IPv6Address("TCP", "::1", 1), UNIXAddress(b"/s")):
        assert find_address(identifier, peer, b"192.0.2.1") == "192.0.2.1"
    assert find_address(identifier, STRANGER, b"192.0.2.1") == "192.0.2.9"


def test_an_empty_list_trusts_nobody() -> None:
    assert parse_trusted_proxies("") == TrustedProxies(networks=(), has_unix_sockets=False)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "localhost", "10.0.0.0/33", "127.0.0.1 ::1"])
def test_a_network_that_is_not_one_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="addresses, networks such as"):
        parse_trusted_proxies(text)


@given(st.integers(2**32, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_the_addresses_of_a_64_bit_network_share_limits(network: int, one: int, two: int) -> None:
    identifier = ClientIdentifier()
    clients = [
        identifier.identify_peer(IPv6Address("TCP", str(V6Address(network << 64 | host)), 1))
        for host in (one, two)
    ]
    assert clients[0].group == clients[1].group
    assert (clients[0].address == clients[1].address) == (one == two)
