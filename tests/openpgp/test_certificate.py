"""A key is one public key in one armor, has the fingerprint of gpg, and is strong enough."""

from __future__ import annotations

import base64
import time
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mig.errors import InvalidInputError
from mig.openpgp import certificate, packet
from mig.openpgp.certificate import BEGIN_LINE, END_LINE, Key, parse_binary
from tests.support.fleet import VECTORS
from tests.support.keys import Keys, decode_armor, encode_packet

ARMORED_KEYS = VECTORS / "keys"
BOB = (ARMORED_KEYS / "bob.asc").read_bytes()
SHER = (ARMORED_KEYS / "sher.asc").read_bytes()
BOB_RAW = certificate.parse_armored(BOB).packets
KEY, USER, BINDING = packet.split_packets(BOB_RAW)


def encode_armor(data: bytes) -> bytes:
    return certificate.encode_armor(data).encode()


@pytest.mark.parametrize("name", ["bob", "sher", "mallory"])
def test_the_keys_of_the_original_service_are_read_and_armored_again(name: str) -> None:
    text = (ARMORED_KEYS / f"{name}.asc").read_bytes()
    read = certificate.parse_armored(text)
    assert certificate.parse_stored(text) == read
    assert certificate.parse_armored(encode_armor(read.packets)) == read
    assert read.keys[0].bits == 2048
    assert certificate.find_fault(read.keys[0]) is None
    assert read.fingerprint == read.keys[0].fingerprint


def test_fingerprints_are_those_that_gpg_computes(keys: Keys) -> None:
    key = keys.make_key("prints")
    for algorithm, use in [("rsa2048", "sign"), ("nistp384/ecdsa", "sign"), ("cv25519", "encr")]:
        key = keys.add_subkey(key, algorithm, use)
    lines = keys.run_gpg("--with-colons", "--list-keys", key.fingerprint).split(b"\n")
    expected = [line.split(b":")[9].decode() for line in lines if line.startswith(b"fpr")]
    assert [found.fingerprint for found in key.certificate.keys] == expected
    assert [found.bits for found in key.certificate.keys] == [256, 2048, 384, 256]


def test_line_ends_headers_and_a_missing_checksum_do_not_matter() -> None:
    lines = BOB.decode().strip().split("\n")
    variant = [lines[0], "Version: x", "Comment: ü", *lines[1:-2], lines[-1]]
    text = "\r\n".join(variant).encode()
    assert certificate.parse_armored(b" \n" + text + b"\r\n\r\n") == certificate.parse_armored(BOB)


def test_a_stored_key_may_have_text_around_its_armor() -> None:
    text = (
        b"Bob's key:\n"
        + encode_armor(encode_packet(10, b"PGP") + BOB_RAW + encode_packet(12, b"\0\0"))
        + b"\nend"
    )
    assert certificate.parse_stored(text) == certificate.parse_armored(BOB)
    with pytest.raises(InvalidInputError, match="text around"):
        certificate.parse_armored(b"Bob's key:\n" + BOB)


def test_images_are_left_out_with_the_signatures_on_them() -> None:
    image = encode_packet(17, b"\2\1x") + BINDING.raw
    read = certificate.parse_armored(encode_armor(KEY.raw + USER.raw + BINDING.raw + image))
    assert read.packets == BOB_RAW


def test_a_secret_key_is_refused_in_any_armor(keys: Keys) -> None:
    whole = keys.export_secret(keys.alice)
    secret = decode_armor(whole)
    for text in (whole.encode(), encode_armor(secret), encode_armor(keys.alice.packets + secret)):
        for read in (certificate.parse_armored, certificate.parse_stored):
            with pytest.raises(InvalidInputError, match="secret key"):
                read(text)


MESSAGE = b"-----BEGIN PGP MESSAGE-----\n\nAAAA\n-----END PGP MESSAGE-----\n"
REFUSED = {
    "two keys": (
        encode_armor(BOB_RAW + certificate.parse_armored(SHER).packets),
        "several keys",
    ),
    "two armors": (BOB + SHER, "2 armors"),
    "compressed": (encode_armor(encode_packet(8, b"\0" + BOB_RAW)), "compressed"),
    "signature": (encode_armor(BINDING.raw), "a signature, not a public key"),
    "message": (MESSAGE, "a PGP MESSAGE"),
    "empty": (b"", "not armored"),
    "words": (b"hello", "not armored"),
    "binary": (BOB_RAW, "not armored"),
    "half": (BOB[:400], "cut short"),
    "cut": (encode_armor(BOB_RAW[:-1]), "cut short"),
    "damaged": (BOB.replace(b"8L1aGpL", b"8L1aGpM"), "checksum does not match"),
    "damaged base64": (BOB.replace(b"8L1aGpL", b"8L1a*pL"), "base64 is damaged"),
    "no content": (encode_armor(b""), "armor is empty"),
    "no user id": (encode_armor(KEY.raw), "no user id"),
    "version 3": (encode_armor(encode_packet(6, b"\3" + KEY.body[1:]) + USER.raw), "version 3"),
    "version 5": (encode_armor(encode_packet(6, b"\5" + KEY.body[1:]) + USER.raw), "version 5"),
    "version 6": (encode_armor(encode_packet(6, b"\6" + KEY.body[1:]) + USER.raw), "version 6"),
    "other packet": (encode_armor(BOB_RAW + encode_packet(12, b"\0\0")), "type 12"),
    "no key first": (encode_armor(USER.raw + KEY.raw), "not a public key"),
    "short key": (encode_armor(encode_packet(6, b"\4") + USER.raw), "damaged"),
    "short number": (encode_armor(encode_packet(6, KEY.body[:20]) + USER.raw), "damaged"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED)
def test_anything_but_one_public_key_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        certificate.parse_armored(text)


PRIMES = [p for p in range(2, 702) if all(p % d for d in range(2, p))]
ROCA = pow(65537, 1234567, prod(PRIMES)) + prod(PRIMES) * (1 << 1100)


def make_rsa_key(modulus: int, exponent: int = 65537) -> Key:
    return Key(
        fingerprint="A" * 40,
        is_primary=True,
        algorithm=1,
        bits=modulus.bit_length(),
        modulus=modulus,
        exponent=exponent,
    )


BOB_N = certificate.parse_armored(BOB).keys[0].modulus
WEAK = {
    "RSA 2047": (make_rsa_key(BOB_N >> 1 | 1), "2047 bits"),
    "e=3": (make_rsa_key(BOB_N, 3), "exponent is 3; an odd one from 17 on is accepted"),
    "e=15": (make_rsa_key(BOB_N, 15), "exponent is 15"),
    "even e": (make_rsa_key(BOB_N, 65538), "exponent is 65538"),
    "even n": (make_rsa_key(BOB_N - 1), "even"),
    "ROCA": (make_rsa_key(ROCA), "ROCA"),
}


@pytest.mark.parametrize(("key", "reason"), WEAK.values(), ids=WEAK)
def test_the_weakness_of_an_rsa_key_is_named(key: Key, reason: str) -> None:
    assert reason in (certificate.find_fault(key) or "")


@pytest.mark.parametrize("exponent", [17, 41, 257, 65537])
def test_odd_exponents_from_17_on_are_accepted(exponent: int) -> None:
    assert certificate.find_fault(make_rsa_key(BOB_N, exponent)) is None


@pytest.mark.parametrize(
    ("curve", "algorithm", "weak"),
    [
        *[
            (name, 22 if name == "Ed25519" else 19, False)
            for name, _ in certificate.ACCEPTED_CURVES.values()
        ],
        *[(name, 19, True) for name, _ in certificate.OTHER_CURVES.values()],
        ("", 17, True),
        ("", 27, True),
        ("", 28, True),
    ],
)
def test_only_accepted_curves_are_strong_enough(curve: str, algorithm: int, weak: bool) -> None:
    key = Key(fingerprint="A" * 40, is_primary=True, algorithm=algorithm, bits=256, curve=curve)
    assert bool(certificate.find_fault(key)) is weak


def test_a_key_of_64_kib_is_read_in_less_than_100_ms() -> None:
    many = encode_armor(KEY.raw + USER.raw + BINDING.raw * 140)
    assert len(many) > 62_000
    start = time.process_time()
    certificate.parse_armored(many)
    assert time.process_time() - start < 0.1


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_read_as_a_certificate_or_refused(data: bytes, in_armor: bool) -> None:
    text = encode_armor(encode_packet(6, b"\4" + data) + USER.raw) if in_armor else data
    for read in (certificate.parse_armored, certificate.parse_stored):
        try:
            found = read(text)
        except InvalidInputError:
            continue
        certificate.find_fault(found.keys[0])


def test_an_armor_can_be_read_by_any_base64_decoder() -> None:
    lines = certificate.encode_armor(BOB_RAW).split("\n")
    assert max(map(len, lines[1:-2])) == 64
    assert base64.b64decode("".join(lines[2:-3])) == BOB_RAW


def make_rsa_packets(bits: int, exponent: int) -> bytes:
    """Return an RSA key of that size, with a user id."""
    modulus = (1 << (bits - 1)) | 1
    numbers = b"".join(
        number.bit_length().to_bytes(2) + number.to_bytes((number.bit_length() + 7) // 8)
        for number in (modulus, exponent)
    )
    return encode_packet(6, b"\x04\x60\x00\x00\x00\x01" + numbers) + encode_packet(13, b"Eve")


@pytest.mark.parametrize(("bits", "exponent"), [(8193, 65537), (16384, 65537), (4096, 2**33 + 1)])
def test_a_key_that_gpg_needs_seconds_for_is_refused(bits: int, exponent: int) -> None:
    with pytest.raises(InvalidInputError, match="is too large"):
        parse_binary(make_rsa_packets(bits, exponent))
    assert parse_binary(make_rsa_packets(8192, 65537)).keys[0].bits == 8192


@pytest.mark.parametrize("line", ["", "A:"])
def test_an_armor_of_very_many_lines_is_refused(line: str) -> None:
    text = f"{BEGIN_LINE}\n\nAAAA" + f"\n{line}" * 60_000 + f"\n{END_LINE}\n"
    with pytest.raises(InvalidInputError, match="more than 20000 lines"):
        certificate.parse_armored(text.encode())
