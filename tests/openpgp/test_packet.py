"""What is a signature, before gpg sees it: one packet of the right kind, whole and strong."""

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
    """A real signature with one octet of its body changed."""
    return encode_signature(encode_packet(2, BODY[:at] + bytes([value]) + BODY[at + 1 :]))


def make_signature(area: bytes, unhashed: bytes = b"") -> str:
    """A signature with these subpackets."""
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
def test_a_signed_issuer_goes_before_an_unsigned_one(
    area: bytes, unhashed: bytes, issuers: tuple[str, ...]
) -> None:
    assert packet.parse_signature(make_signature(area, unhashed)).issuers == issuers


REFUSED = {
    "empty": ("", "is empty"),
    "words": ("hello", "this is not a signature"),
    "line ends": (PLAIN[:64] + "\n" + PLAIN[64:], "in one line"),
    "no checksum": (PLAIN[:-5], "this is not a signature|checksum"),
    "checksum": (PLAIN[:-1] + ("A" if PLAIN[-1] != "A" else "B"), "checksum does not match"),
    "S13 too long": ("A" * 4097, "at most 4096 characters, not 4097"),
    "S27 armor": (f"-----BEGIN PGP SIGNATURE-----\n\n{PLAIN}", "armor with its frame lines"),
    "S10 clearsigned": (
        "-----BEGIN PGP SIGNED MESSAGE-----\nNotDashEscaped: x\n\f\n",
        "clearsigned text",
    ),
    "S10 inline": (encode_signature(encode_packet(4, b"x" * 13) + RAW), "inline-signed message"),
    "S8 two": (encode_signature(RAW * 2), "2 signature packets"),
    "S9 compressed": (encode_signature(encode_packet(8, b"\0" + RAW)), "compressed data"),
    "S9 marker": (encode_signature(encode_packet(10, b"PGP") + RAW), "a packet of type 10"),
    "S9 trust": (encode_signature(encode_packet(12, b"\0\0") + RAW), "a packet of type 12"),
    "S9 literal": (
        encode_signature(RAW + encode_packet(11, b"b\0\0\0\0\0x")),
        "message with its text",
    ),
    "S9 junk": (encode_signature(RAW + b"junk"), "not OpenPGP"),
    "S9 key": (encode_signature(encode_packet(6, b"x")), "a public key"),
    "S9 junk inside": (encode_signature(encode_packet(2, BODY + b"\0")), "does not end where"),
    "S9 short": (encode_signature(RAW[:-1]), "cut short"),
    "partial length": (encode_signature(b"\xc2\xe1" + BODY), "partial"),
    "no length": (encode_signature(b"\x8b" + BODY), "without a length"),
    "S17 version 3": (change_octet(0, 3), "version 3 are not"),
    "S17 version 5": (change_octet(0, 5), "version 5 are not"),
    "S17 version 6": (change_octet(0, 6), "version 6 are not"),
    "S5 text mode": (change_octet(1, 1), "text mode"),
    "class": (change_octet(1, 0x10), "0x10"),
    "S20 DSA": (change_octet(2, 17), "DSA signatures"),
    "algorithm": (change_octet(2, 99), "algorithm 99"),
    "S4 MD5": (change_octet(3, 1), "MD5 is weak"),
    "S4 SHA-1": (change_octet(3, 2), "SHA-1 is weak"),
    "S4 RIPEMD-160": (change_octet(3, 3), "RIPEMD-160 is weak"),
    "hash": (change_octet(3, 99), "hash algorithm 99"),
    "no issuer": (make_signature(b"", b""), "does not name the key"),
    "empty subpacket": (make_signature(b"\0"), "empty subpacket"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_before_gpg(text: str, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        packet.parse_signature(text)


@pytest.mark.parametrize("digest", ["SHA1", "MD5", "RIPEMD160"])
def test_s4_a_weak_digest_that_gpg_itself_makes_is_refused(keys: Keys, digest: str) -> None:
    signature = keys.sign(keys.rsa, b"x", "--digest-algo", digest)
    with pytest.raises(InvalidInputError, match="is weak"):
        packet.parse_signature(signature)


def test_s5_a_text_mode_signature_that_gpg_itself_makes_is_refused(keys: Keys) -> None:
    signature = keys.sign(keys.alice, b"x\r\n", "--textmode")
    with pytest.raises(InvalidInputError, match="text mode"):
        packet.parse_signature(signature)


@given(
    st.binary(max_size=200)
    | st.binary(max_size=100).map(lambda b: encode_packet(2, b"\4\0\1\x08" + b))
)
def test_any_bytes_are_a_signature_or_refused(data: bytes) -> None:
    try:
        read = packet.parse_signature(encode_signature(data))
    except InvalidInputError:
        return
    assert read.raw == data


@given(st.text(max_size=200))
def test_any_text_is_a_signature_or_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        packet.parse_signature(text)


@given(st.lists(st.tuples(st.integers(1, 63), st.binary(max_size=300)), max_size=5))
def test_packets_fill_their_input(content: list[tuple[int, bytes]]) -> None:
    data = b"".join(encode_packet(tag, body) for tag, body in content)
    found = packet.split_packets(data)
    assert [(one.tag, one.body) for one in found] == content
    assert b"".join(one.raw for one in found) == data
