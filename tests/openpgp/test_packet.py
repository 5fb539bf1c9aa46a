"""A signature is one packet of the right kind, complete and strong, before gpg sees it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mig.errors import InvalidInputError
from mig.openpgp import packet
from tests.support.fleet import VECTORS
from tests.support.keys import Keys, encode_packet, encode_signature

PLAIN = json.loads((VECTORS / "actions" / "unix-plain.json").read_text())["pgpsignatures"][0]
RAW = packet.parse_signature(PLAIN).raw
BODY = packet.split_packets(RAW)[0].body


def change_octet(at: int, value: int) -> str:
    """Return a real signature with one octet of its body changed."""
    return encode_signature(encode_packet(2, BODY[:at] + bytes([value]) + BODY[at + 1 :]))


def make_signature(area: bytes, unhashed: bytes = b"") -> str:
    """Return a signature with these subpackets."""
    areas = len(area).to_bytes(2) + area + len(unhashed).to_bytes(2) + unhashed
    return encode_signature(encode_packet(2, bytes([4, 0, 1, 8]) + areas + b"ab" + b"\0\x08\xff"))


def test_a_signature_of_the_original_client_is_read() -> None:
    read = packet.parse_signature(PLAIN)
    assert (read.hash_algorithm, read.key_algorithm, read.created) == (8, 1, 1795510717)
    assert read.issuers == ("A4021DF0D4ED3D14",)
    assert read.raw[0] & 0x3F == 2


ISSUER_ID = bytes([9, 16]) + b"\xaa" * 8
ISSUER_PRINT = bytes([22, 33, 4]) + b"\xbb" * 20


@pytest.mark.parametrize(
    ("area", "unhashed", "issuers"),
    [
        (ISSUER_ID + ISSUER_PRINT, b"", ("BB" * 20,)),
        (ISSUER_ID, ISSUER_PRINT, ("AA" * 8,)),
        (b"", ISSUER_ID + ISSUER_PRINT, ("BB" * 20,)),
        (b"", ISSUER_ID * 2, ("AA" * 8,)),
    ],
)
def test_a_signed_issuer_takes_precedence_over_an_unsigned_one(
    area: bytes, unhashed: bytes, issuers: tuple[str, ...]
) -> None:
    assert packet.parse_signature(make_signature(area, unhashed)).issuers == issuers


REFUSED = {
    "empty": ("", "is empty"),
    "words": ("hello", "this is not a signature"),
    "line ends": (PLAIN[:64] + "\n" + PLAIN[64:], "in one line"),
    "no checksum": (PLAIN[:-5], "has no checksum, which agents need"),
    "checksum": (PLAIN[:-1] + ("A" if PLAIN[-1] != "A" else "B"), "checksum does not match"),
    "too long": ("A" * 4097, "at most 4096 characters, not 4097"),
    "armor": (f"-----BEGIN PGP SIGNATURE-----\n\n{PLAIN}", "armor with its frame lines"),
    "clearsigned text": (
        "-----BEGIN PGP SIGNED MESSAGE-----\nNotDashEscaped: x\n\f\n",
        "clearsigned text",
    ),
    "inline-signed message": (
        encode_signature(encode_packet(4, b"x" * 13) + RAW),
        "inline-signed message",
    ),
    "two signatures": (encode_signature(RAW * 2), "2 signature packets"),
    "compressed": (encode_signature(encode_packet(8, b"\0" + RAW)), "compressed data"),
    "marker packet": (encode_signature(encode_packet(10, b"PGP") + RAW), "a packet of type 10"),
    "trust packet": (encode_signature(encode_packet(12, b"\0\0") + RAW), "a packet of type 12"),
    "literal data": (
        encode_signature(RAW + encode_packet(11, b"b\0\0\0\0\0x")),
        "message with its text",
    ),
    "junk after it": (encode_signature(RAW + b"junk"), "not OpenPGP"),
    "public key": (encode_signature(encode_packet(6, b"x")), "a public key"),
    "junk inside": (encode_signature(encode_packet(2, BODY + b"\0")), "does not end where"),
    "cut short": (encode_signature(RAW[:-1]), "cut short"),
    "partial length": (encode_signature(b"\xc2\xe1" + BODY), "partial"),
    "no length": (encode_signature(b"\x8b" + BODY), "without a length"),
    "version 3": (change_octet(0, 3), "version 3 are not"),
    "version 5": (change_octet(0, 5), "version 5 are not"),
    "version 6": (change_octet(0, 6), "version 6 are not"),
    "text mode": (change_octet(1, 1), "text mode"),
    "another class": (change_octet(1, 0x10), "0x10"),
    "DSA": (change_octet(2, 17), "DSA signatures"),
    "new algorithm": (change_octet(2, 27), "Ed25519 in the newer form .algorithm 27. is not"),
    "unknown algorithm": (change_octet(2, 99), "algorithm 99"),
    "MD5": (change_octet(3, 1), "MD5 is weak"),
    "SHA-1": (change_octet(3, 2), "SHA-1 is weak"),
    "RIPEMD-160": (change_octet(3, 3), "RIPEMD-160 is weak"),
    "unknown hash algorithm": (change_octet(3, 99), "hash algorithm 99"),
    "no issuer": (make_signature(b"", b""), "does not name the key"),
    "empty subpacket": (make_signature(b"\0"), "empty subpacket"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED)
def test_an_unacceptable_signature_is_refused_before_gpg_runs(text: str, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        packet.parse_signature(text)


@pytest.mark.parametrize("digest", ["SHA1", "MD5", "RIPEMD160"])
def test_a_weak_digest_made_by_gpg_is_refused(keys: Keys, digest: str) -> None:
    signature = keys.sign(keys.rsa, b"x", "--digest-algo", digest)
    with pytest.raises(InvalidInputError, match="is weak"):
        packet.parse_signature(signature)


def test_a_text_mode_signature_made_by_gpg_is_refused(keys: Keys) -> None:
    signature = keys.sign(keys.alice, b"x\r\n", "--textmode")
    with pytest.raises(InvalidInputError, match="text mode"):
        packet.parse_signature(signature)


@given(
    st.binary(max_size=200)
    | st.binary(max_size=100).map(lambda b: encode_packet(2, b"\4\0\1\x08" + b))
)
def test_any_bytes_are_read_as_a_signature_or_refused(data: bytes) -> None:
    try:
        read = packet.parse_signature(encode_signature(data))
    except InvalidInputError:
        return
    assert read.raw == data


@given(st.text(max_size=200))
def test_random_text_is_refused_as_a_signature(text: str) -> None:
    with pytest.raises(InvalidInputError):
        packet.parse_signature(text)


@given(st.lists(st.tuples(st.integers(1, 63), st.binary(max_size=300)), max_size=5))
def test_packets_are_read_without_a_gap(content: list[tuple[int, bytes]]) -> None:
    data = b"".join(encode_packet(tag, body) for tag, body in content)
    found = packet.split_packets(data)
    assert [(one.tag, one.body) for one in found] == content
    assert b"".join(one.raw for one in found) == data
