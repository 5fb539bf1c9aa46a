"""Certificates (public keys): their armor, their fingerprints, and the strength of their keys.

Section numbers are those of RFC 4880.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from mig.errors import InvalidInputError
from mig.openpgp.packet import (
    DSA_ALGORITHM,
    NEW_ALGORITHMS,
    SIGNATURE_TAG,
    Packet,
    compute_crc24,
    decode_base64,
    split_packets,
)

SECRET_KEY_TAG: Final = 5
PUBLIC_KEY_TAG: Final = 6
SECRET_SUBKEY_TAG: Final = 7
COMPRESSED_TAG: Final = 8
USER_ID_TAG: Final = 13
SUBKEY_TAG: Final = 14
USER_ATTRIBUTE_TAG: Final = 17
ACCEPTED_TAGS: Final = frozenset(
    {PUBLIC_KEY_TAG, SUBKEY_TAG, USER_ID_TAG, USER_ATTRIBUTE_TAG, SIGNATURE_TAG}
)

RSA_ALGORITHMS: Final = frozenset({1, 2, 3})
ECC_ALGORITHMS: Final = frozenset({18, 19, 22})
"""ECDH, ECDSA, EdDSA. The object identifier of the curve comes first in the key material."""

MAX_USER_IDS: Final = 50
"""gpg checks the signatures of each: it needs an eighth of a second for 300 forged ones."""

MAX_ARMOR_LINES: Final = 20_000

MIN_RSA_BITS: Final = 2048
MAX_KEY_BITS: Final = 8192
"""gpg needs seconds for very large keys, and anyone can send a signature that names one."""
MAX_EXPONENT_BITS: Final = 32
MIN_RSA_EXPONENT: Final = 17
"""There are attacks on 3 and 5. Old versions of GnuPG made keys with 41 by default."""
# Curves by their DER-encoded object identifiers, in hex.
ACCEPTED_CURVES: Final = {
    "2b06010401da470f01": ("Ed25519", 256),
    "2a8648ce3d030107": ("NIST P-256", 256),
    "2b81040022": ("NIST P-384", 384),
    "2b81040023": ("NIST P-521", 521),
}
OTHER_CURVES: Final = {
    "2b060104019755010501": ("Curve25519", 256),
    "2b6571": ("Ed448", 448),
    "2b656f": ("X448", 448),
    "2b2403030208010107": ("brainpoolP256r1", 256),
    "2b240303020801010b": ("brainpoolP384r1", 384),
    "2b240303020801010d": ("brainpoolP512r1", 512),
    "2b8104000a": ("secp256k1", 256),
}

BEGIN_LINE: Final = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
END_LINE: Final = "-----END PGP PUBLIC KEY BLOCK-----"
ACCEPTED_FORM: Final = "one armored PGP PUBLIC KEY BLOCK is accepted"

_FRAME = re.compile(r"-----BEGIN PGP ([A-Z ,0-9/]+)-----")
_HEADER = re.compile(r"[A-Za-z][A-Za-z-]*: ?.*")
_CHECKSUM = re.compile(r"=[A-Za-z0-9+/]{4}", re.ASCII)
_COLUMNS = 64


@dataclass(frozen=True, kw_only=True)
class Key:
    """A primary key or a subkey."""

    fingerprint: str
    """40 upper-case hex characters."""
    is_primary: bool
    algorithm: int
    """The number of the algorithm in OpenPGP (9.1)."""
    bits: int
    """0 when the algorithm or the curve is unknown."""
    curve: str = ""
    modulus: int = 0
    exponent: int = 0
    created: int = 0
    """Unix seconds, by the owner's clock."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A public key with its user ids and subkeys, not verified."""

    fingerprint: str
    """The fingerprint of the primary key."""
    keys: tuple[Key, ...]
    """The primary key, then the subkeys."""
    packets: bytes
    """The keyring for gpg: all packets except user attributes."""

    def find_key(self, fingerprint: str) -> Key | None:
        """Return the key with this fingerprint, or ``None``."""
        return next((key for key in self.keys if key.fingerprint == fingerprint), None)


def parse_armored(armored: bytes) -> Certificate:
    """Parse an uploaded certificate: one armor, with nothing but white space around it.

    :raises InvalidInputError: saying what is not accepted.
    """
    return parse_binary(_decode_armor(_decode_utf8(armored).strip()))


def parse_stored(armored: bytes) -> Certificate:
    """Parse the certificate in a stored row, which may not have come through this service.

    Text around the armor, and packets that do not belong in a public key, are ignored.

    :raises InvalidInputError: when it does not contain exactly one certificate, or contains a
        secret key.
    """
    text = _decode_utf8(armored)
    start, end = text.find(BEGIN_LINE), text.rfind(END_LINE)
    if start >= 0 and end >= 0:
        text = text[start : end + len(END_LINE)]
    found = split_packets(_decode_armor(text))
    _refuse_secret_keys(found)
    return _build_certificate([packet for packet in found if packet.tag in ACCEPTED_TAGS])


def parse_binary(data: bytes) -> Certificate:
    """Parse the certificate that consists of the packets ``data``.

    :raises InvalidInputError: when the packets are not exactly one public key.
    """
    found = split_packets(data)
    _refuse_secret_keys(found)
    if found and found[0].tag == COMPRESSED_TAG:
        raise InvalidInputError(f"the key is compressed; {ACCEPTED_FORM}")
    for packet in found:
        if packet.tag not in ACCEPTED_TAGS:
            raise InvalidInputError(
                f"the key contains a packet of type {packet.tag}, which does not belong in a"
                " public key"
            )
    return _build_certificate(found)


def encode_armor(data: bytes) -> str:
    """Return the packets of a public key in an armor (6.2)."""
    text = base64.b64encode(data).decode("ascii")
    lines = [text[at : at + _COLUMNS] for at in range(0, len(text), _COLUMNS)]
    checksum = base64.b64encode(compute_crc24(data).to_bytes(3)).decode("ascii")
    return "\n".join([BEGIN_LINE, "", *lines, f"={checksum}", END_LINE, ""])


def _decode_utf8(armored: bytes) -> str:
    try:
        return armored.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInputError(
            f"the key is not armored (it is not text); {ACCEPTED_FORM}"
        ) from None


def _decode_armor(text: str) -> bytes:
    """Return the bytes in ``text``, which must be exactly one armor."""
    frames = _FRAME.findall(text)
    if any("PRIVATE" in frame or "SECRET" in frame for frame in frames):
        raise InvalidInputError(
            "this is a secret key: never send it to anyone, and replace it; only the public key"
            " is accepted"
        )
    if not frames:
        raise InvalidInputError(f"the key is not armored; {ACCEPTED_FORM}")
    if frames[0] != "PUBLIC KEY BLOCK":
        raise InvalidInputError(f"this is a PGP {frames[0]}, not a key; {ACCEPTED_FORM}")
    if len(frames) > 1:
        raise InvalidInputError(f"there are {len(frames)} armors; {ACCEPTED_FORM}")
    if not text.startswith(BEGIN_LINE) or not text.endswith(END_LINE):
        raise InvalidInputError(f"the armor is cut short or has text around it; {ACCEPTED_FORM}")
    # without the first and the last line, which are the frame
    lines = [line.rstrip(" \t\r") for line in text.split("\n")][1:-1]
    return _decode_lines(_strip_headers(lines))


def _strip_headers(lines: list[str]) -> list[str]:
    """Return the lines of base64 and of the checksum: no headers, and no empty lines around."""
    if len(lines) > MAX_ARMOR_LINES:
        raise InvalidInputError(f"the armor has more than {MAX_ARMOR_LINES} lines")
    begin, end = 0, len(lines)
    while begin < end and _HEADER.fullmatch(lines[begin]):
        begin += 1
    begin += begin < end and not lines[begin]  # the empty line that ends the headers
    while begin < end and not lines[end - 1]:
        end -= 1
    return lines[begin:end]


def _decode_lines(lines: list[str]) -> bytes:
    checksum = lines.pop() if lines and _CHECKSUM.fullmatch(lines[-1]) else None
    data = decode_base64("".join(lines))
    if not data:
        raise InvalidInputError(f"the armor is empty; {ACCEPTED_FORM}")
    if checksum is not None and int.from_bytes(decode_base64(checksum[1:])) != compute_crc24(data):
        raise InvalidInputError("the key is damaged: its checksum does not match")
    return data


def _refuse_secret_keys(found: list[Packet]) -> None:
    if any(packet.tag in (SECRET_KEY_TAG, SECRET_SUBKEY_TAG) for packet in found):
        raise InvalidInputError(
            "the armor contains a secret key: never send it to anyone, and replace it; only the"
            " public key is accepted"
        )


def _build_certificate(found: list[Packet]) -> Certificate:
    if not found or found[0].tag != PUBLIC_KEY_TAG:
        kind = "a signature" if found and found[0].tag == SIGNATURE_TAG else "something else"
        raise InvalidInputError(f"the armor contains {kind}, not a public key; {ACCEPTED_FORM}")
    if sum(packet.tag == PUBLIC_KEY_TAG for packet in found) > 1:
        raise InvalidInputError("there are several keys in one armor; send them one by one")
    user_ids = sum(packet.tag == USER_ID_TAG for packet in found)
    if not user_ids:
        raise InvalidInputError("the key has no user id; a name and its self-signature are needed")
    if user_ids > MAX_USER_IDS:
        raise InvalidInputError(f"the key has more than {MAX_USER_IDS} user ids")
    keys = tuple(
        _parse_key(packet) for packet in found if packet.tag in (PUBLIC_KEY_TAG, SUBKEY_TAG)
    )
    for key in keys:
        if key.bits > MAX_KEY_BITS or key.exponent.bit_length() > MAX_EXPONENT_BITS:
            raise InvalidInputError(
                f"the key {key.fingerprint} is too large: at most {MAX_KEY_BITS} bits, and an"
                f" exponent of at most {MAX_EXPONENT_BITS} bits, are accepted"
            )
    return Certificate(
        fingerprint=keys[0].fingerprint, keys=keys, packets=_strip_user_attributes(found)
    )


def _strip_user_attributes(found: list[Packet]) -> bytes:
    """Return the packets without user attributes (images) and the signatures on them."""
    kept = []
    skipping = False
    for packet in found:
        if packet.tag != SIGNATURE_TAG:
            skipping = packet.tag == USER_ATTRIBUTE_TAG
        if not skipping:
            kept.append(packet.raw)
    return b"".join(kept)


def _parse_key(packet: Packet) -> Key:
    """Parse the packet of a key or subkey of version 4 (5.5.2)."""
    body = packet.body
    if len(body) < 6:
        raise InvalidInputError("the key is damaged: a key packet is cut short")
    if body[0] != 4:
        raise InvalidInputError(f"OpenPGP keys of version {body[0]} are not accepted; version 4 is")
    if len(body) > 0xFFFF:
        raise InvalidInputError("the key is damaged: a key packet is too long")
    # the fingerprint of version 4 is defined as this SHA-1 digest (12.2)
    digest = hashlib.sha1(b"\x99" + len(body).to_bytes(2) + body, usedforsecurity=False)
    fingerprint = digest.hexdigest().upper()
    is_primary, algorithm, material = packet.tag == PUBLIC_KEY_TAG, body[5], body[6:]
    created = int.from_bytes(body[1:5])
    if algorithm in RSA_ALGORITHMS:
        modulus, after_modulus = _read_mpi(material)
        exponent, _ = _read_mpi(after_modulus)
        return Key(
            fingerprint=fingerprint,
            is_primary=is_primary,
            algorithm=algorithm,
            bits=modulus.bit_length(),
            modulus=modulus,
            exponent=exponent,
            created=created,
        )
    curve, bits = (
        _read_curve(material)
        if algorithm in ECC_ALGORITHMS
        else ("", _measure_first_mpi(algorithm, material))
    )
    return Key(
        fingerprint=fingerprint,
        is_primary=is_primary,
        algorithm=algorithm,
        bits=bits,
        curve=curve,
        created=created,
    )


def _read_mpi(data: bytes) -> tuple[int, bytes]:
    """Return the multiprecision integer at the start of ``data``, and what follows it (3.2)."""
    end = 2 + (int.from_bytes(data[:2]) + 7) // 8
    if len(data) < 2 or len(data) < end:
        raise InvalidInputError("the key is damaged: a number in it is cut short")
    return int.from_bytes(data[2:end]), data[end:]


def _measure_first_mpi(algorithm: int, material: bytes) -> int:
    # 16 is Elgamal; its first integer is the prime, as with DSA
    return _read_mpi(material)[0].bit_length() if algorithm in (16, DSA_ALGORITHM) else 0


def _read_curve(material: bytes) -> tuple[str, int]:
    length = material[0] if material else 0
    identifier = material[1 : 1 + length].hex()
    known = ACCEPTED_CURVES.get(identifier) or OTHER_CURVES.get(identifier)
    return known or (f"the curve {identifier}", 0)


def find_fault(key: Key) -> str | None:
    """Return why this key is not accepted for signing, to follow "the key", or ``None``."""
    if key.algorithm in RSA_ALGORITHMS:
        return _find_rsa_fault(key)
    if key.algorithm == DSA_ALGORITHM:
        return "is too weak: it is a DSA key; RSA, Ed25519 and NIST curves are accepted"
    if key.algorithm in NEW_ALGORITHMS:
        name = NEW_ALGORITHMS[key.algorithm]
        return (
            f"is {name} in the newer form (algorithm {key.algorithm}), which gpg 2.2 does not know;"
            " RSA, ECDSA and EdDSA (algorithm 22) are accepted"
        )
    if key.algorithm not in (19, 22):  # ECDSA, EdDSA
        return f"has the algorithm {key.algorithm}; RSA, ECDSA and EdDSA are accepted"
    if key.curve not in {name for name, _ in ACCEPTED_CURVES.values()}:
        return f"is on {key.curve}; Ed25519, NIST P-256, P-384 and P-521 are accepted"
    return None


def _find_rsa_fault(key: Key) -> str | None:
    if key.bits < MIN_RSA_BITS:
        return (
            f"is too weak: it has {key.bits} bits; RSA keys of at least {MIN_RSA_BITS} are accepted"
        )
    if key.exponent < MIN_RSA_EXPONENT or not key.exponent & 1:
        return (
            f"is too weak: its exponent is {key.exponent}; an odd one from {MIN_RSA_EXPONENT} on is"
            " accepted"
        )
    if not key.modulus & 1:
        return "is damaged: its modulus is even"
    if is_roca(key.modulus):
        return "is too weak: a chip made it whose keys can be factored (ROCA, CVE-2017-15361)"
    return None


ROCA_GENERATOR: Final = 65537


def _compute_residues(prime: int) -> frozenset[int]:
    """Return the powers of 65537 modulo ``prime``."""
    found: set[int] = set()
    power = 1
    while power not in found:
        found.add(power)
        power = power * ROCA_GENERATOR % prime
    return frozenset(found)


def _is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, number))


# The smallest keys that the generator made (512 bits) use the primorial of the primes up to 167.
_ROCA: Final = [(prime, _compute_residues(prime)) for prime in filter(_is_prime, range(3, 168))]


def is_roca(modulus: int) -> bool:
    """Whether the faulty generator of ROCA (CVE-2017-15361) made ``modulus``.

    Its primes are a multiple of a primorial plus a power of 65537. So ``modulus`` is, modulo every
    small prime, a power of 65537.
    """
    return all(modulus % prime in powers for prime, powers in _ROCA)
