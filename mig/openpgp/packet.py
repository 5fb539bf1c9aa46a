"""OpenPGP packets, and the one signature packet that an action or a token carries.

All of this happens before gpg runs: gpg gets our bytes, never a client's armor. Section numbers are
those of RFC 4880.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mig.errors import InvalidInputError

MAX_SIGNATURE_LENGTH: Final = 4096
"""Characters. The column ``signatures.pgpsignature`` holds as many."""

SIGNATURE_TAG: Final = 2
ACCEPTED_HASHES: Final = {8: "SHA-256", 9: "SHA-384", 10: "SHA-512", 11: "SHA-224"}
WEAK_HASHES: Final = {1: "MD5", 2: "SHA-1", 3: "RIPEMD-160"}
NUMBERS_IN_SIGNATURE: Final = {1: 1, 3: 1, 19: 2, 22: 2}
"""The number of integers in a signature, by public key algorithm: RSA (1 and 3), ECDSA, EdDSA."""

DSA_ALGORITHM: Final = 17
NEW_ALGORITHMS: Final = {27: "Ed25519", 28: "Ed448"}
"""Signing algorithms of RFC 9580, which gpg 2.2 does not know."""

CREATED_SUBPACKET: Final = 2
ISSUER_SUBPACKET: Final = 16
ISSUER_FINGERPRINT_SUBPACKET: Final = 33

ACCEPTED_FORM: Final = (
    "a detached binary OpenPGP signature is accepted, its armor's base64 and =CRC in one line"
)

# the first character makes the first bit 1, as in every packet (4.2)
_BASE64_OF_PACKET = re.compile(r"(?=(?:.{4})+$)[g-z0-9+/][A-Za-z0-9+/]+={0,2}", re.ASCII)
_ONE_LINE = re.compile(r"([A-Za-z0-9+/]+={0,2})=([A-Za-z0-9+/]{4})", re.ASCII)
_CLASS_NAMES = {0x01: "text mode, which does not cover line ends"}


@dataclass(frozen=True, kw_only=True)
class Packet:
    """One packet: its type, its content, and the whole packet as it was encoded."""

    tag: int
    body: bytes
    raw: bytes


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A signature as its packet describes it; nothing of it is verified."""

    raw: bytes
    hash_algorithm: int
    key_algorithm: int
    created: int | None
    """Unix seconds."""
    issuers: tuple[str, ...]
    """The keys that may have made it, in upper-case hex: fingerprints (40 characters) if the
    signature names them, otherwise key ids (16). Never empty."""


def split_packets(data: bytes) -> list[Packet]:
    """Return the packets that ``data`` consists of.

    :raises InvalidInputError: when it is not a sequence of complete packets of known length.
    """
    found = []
    at = 0
    while at < len(data):
        tag, start, length = _read_header(data, at)
        end = start + length
        if end > len(data):
            raise InvalidInputError("the OpenPGP data is cut short")
        found.append(Packet(tag=tag, body=data[start:end], raw=data[at:end]))
        at = end
    return found


def _read_header(data: bytes, at: int) -> tuple[int, int, int]:
    """Return the type of the packet at ``at``, the start of its content, and its length (4.2)."""
    first = data[at]
    if not first & 0x80:
        raise InvalidInputError("the data is not OpenPGP")
    if first & 0x40:  # the new packet format
        tag, start, length = first & 0x3F, *_read_new_length(data, at + 1)
    else:
        if first & 3 == 3:  # the packet extends to the end of the data
            raise InvalidInputError("an OpenPGP packet without a length is not accepted")
        octets = 1 << (first & 3)
        tag, start = first >> 2 & 0xF, at + 1 + octets
        length = _read_number(data, at + 1, octets)
    if tag == 0:
        raise InvalidInputError("the data is not OpenPGP: no packet has the type 0")
    return tag, start, length


def _read_new_length(data: bytes, at: int, *, subpacket: bool = False) -> tuple[int, int]:
    """Return the start of the content and its length, in the new format (4.2.2).

    Subpackets use the same format without partial lengths (5.2.3.1).
    """
    first = _read_number(data, at, 1)
    if first < 192:
        return at + 1, first
    if first == 255:
        return at + 5, _read_number(data, at + 1, 4)
    if first < 224 or subpacket:
        return at + 2, (first - 192 << 8) + _read_number(data, at + 1, 1) + 192
    raise InvalidInputError("an OpenPGP packet in parts (partial lengths) is not accepted")


def _read_number(data: bytes, at: int, octets: int) -> int:
    if at + octets > len(data):
        raise InvalidInputError("the OpenPGP data is cut short")
    return int.from_bytes(data[at : at + octets])


def compute_crc24(data: bytes) -> int:
    """Return the checksum of an armor (6.1)."""
    crc = 0xB704CE  # the initial value that RFC 4880 prescribes
    for octet in data:
        crc = (crc << 8 & 0xFFFFFF) ^ _CRC_TABLE[crc >> 16 ^ octet]
    return crc


def _compute_crc_entry(value: int) -> int:
    value <<= 16
    for _ in range(8):
        value = value << 1 ^ (0x1864CFB if value & 0x800000 else 0)  # its polynomial
    return value & 0xFFFFFF


_CRC_TABLE = [_compute_crc_entry(octet) for octet in range(256)]


def decode_base64(text: str) -> bytes:
    """Decode ``text``, which must be the only encoding of its content.

    :raises InvalidInputError: for other characters, wrong padding, or unused bits that are set.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInputError("the base64 is damaged") from None
    # b64decode ignores the unused bits of the last character, so several texts have one content
    if base64.b64encode(data).decode("ascii") != text:
        raise InvalidInputError("the base64 is damaged: unused bits of its last character are set")
    return data


def parse_signature(text: str) -> Signature:
    """Parse a signature in its one-line form: the armor's base64 and its ``=CRC``, joined.

    :raises InvalidInputError: saying what is not accepted.
    """
    if len(text) > MAX_SIGNATURE_LENGTH:
        raise InvalidInputError(
            f"a signature must have at most {MAX_SIGNATURE_LENGTH} characters, not {len(text)}"
        )
    found = split_packets(_decode_line(text))
    if len(found) != 1 or found[0].tag != SIGNATURE_TAG:
        raise InvalidInputError(
            f"{_describe_content(found)}; exactly one signature packet is accepted"
        )
    return _parse_version_4(found[0])


def _decode_line(text: str) -> bytes:
    if not text:
        raise InvalidInputError(f"the signature is empty; {ACCEPTED_FORM}")
    if "-----" in text:
        kind = "a clearsigned text" if "BEGIN PGP SIGNED MESSAGE" in text else "an armor"
        raise InvalidInputError(f"the signature is {kind} with its frame lines; {ACCEPTED_FORM}")
    match = _ONE_LINE.fullmatch(text)
    if match is None and _BASE64_OF_PACKET.fullmatch(text):
        raise InvalidInputError(
            f"the signature has no checksum, which agents need; {ACCEPTED_FORM}"
        )
    if match is None:
        raise InvalidInputError(f"this is not a signature; {ACCEPTED_FORM}")
    data = decode_base64(match[1])
    if compute_crc24(data) != int.from_bytes(decode_base64(match[2])):
        raise InvalidInputError("the signature is damaged: its checksum does not match")
    return data


_PACKET_NAMES = {
    1: "an encrypted message",
    4: "an inline-signed message",
    5: "a secret key",
    6: "a public key",
    8: "compressed data",
    11: "a message with its text",
}


def _describe_content(found: list[Packet]) -> str:
    if all(packet.tag == SIGNATURE_TAG for packet in found):
        return f"the signature contains {len(found)} signature packets"
    other = next(packet.tag for packet in found if packet.tag != SIGNATURE_TAG)
    return f"the signature contains {_PACKET_NAMES.get(other, f'a packet of type {other}')}"


def _parse_version_4(packet: Packet) -> Signature:
    """Parse a signature packet of version 4 (5.2.3)."""
    body = packet.body
    version = _read_number(body, 0, 1)
    if version != 4:
        raise InvalidInputError(
            f"OpenPGP signatures of version {version} are not accepted; version 4 is"
        )
    kind, key_algorithm, hash_algorithm = _read_number(body, 1, 3).to_bytes(3)
    _check_class(kind)
    _check_algorithms(key_algorithm, hash_algorithm)
    hashed_length = _read_number(body, 4, 2)
    unhashed_length = _read_number(body, 6 + hashed_length, 2)
    hashed = list(_parse_subpackets(_read_slice(body, 6, hashed_length)))
    unhashed = list(_parse_subpackets(_read_slice(body, 8 + hashed_length, unhashed_length)))
    _check_numbers(body, 8 + hashed_length + unhashed_length, key_algorithm)
    times = [_read_number(content, 0, 4) for kind, content in hashed if kind == CREATED_SUBPACKET]
    return Signature(
        raw=packet.raw,
        hash_algorithm=hash_algorithm,
        key_algorithm=key_algorithm,
        created=times[0] if times else None,
        issuers=_find_issuers(hashed, unhashed),
    )


def _check_class(kind: int) -> None:
    if kind != 0:
        name = _CLASS_NAMES.get(kind, "made over something other than a document")
        raise InvalidInputError(
            f"the signature's class is {kind:#04x} ({name}); only 0x00, of a binary document, is"
            " accepted"
        )


def _check_algorithms(key_algorithm: int, hash_algorithm: int) -> None:
    if key_algorithm == DSA_ALGORITHM:
        raise InvalidInputError("DSA signatures are not accepted; RSA, ECDSA and EdDSA are")
    if key_algorithm in NEW_ALGORITHMS:
        raise InvalidInputError(
            f"{NEW_ALGORITHMS[key_algorithm]} in the newer form (algorithm {key_algorithm}) is not"
            " accepted, since gpg 2.2 does not know it; RSA, ECDSA and EdDSA (algorithm 22) are"
        )
    if key_algorithm not in NUMBERS_IN_SIGNATURE:
        raise InvalidInputError(
            f"the public key algorithm {key_algorithm} is not accepted; RSA, ECDSA and EdDSA are"
        )
    if hash_algorithm not in ACCEPTED_HASHES:
        weak = WEAK_HASHES.get(hash_algorithm)
        name = f"{weak} is weak and" if weak else f"the hash algorithm {hash_algorithm}"
        accepted = ", ".join(sorted(ACCEPTED_HASHES.values()))
        raise InvalidInputError(f"{name} is not accepted in a signature; accepted are {accepted}")


def _read_slice(data: bytes, at: int, length: int) -> bytes:
    if at + length > len(data):
        raise InvalidInputError("the signature is cut short")
    return data[at : at + length]


def _parse_subpackets(area: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type, without its critical bit, and the content of each subpacket (5.2.3.1)."""
    at = 0
    while at < len(area):
        start, length = _read_new_length(area, at, subpacket=True)
        content = _read_slice(area, start, length)
        if not content:
            raise InvalidInputError("the signature is damaged: it has an empty subpacket")
        yield content[0] & 0x7F, content[1:]
        at = start + length


def _check_numbers(body: bytes, at: int, key_algorithm: int) -> None:
    """Refuse a signature that has anything after its integers.

    Otherwise one signature could be written in many ways.
    """
    at += 2  # the first two octets of the digest
    for _ in range(NUMBERS_IN_SIGNATURE[key_algorithm]):
        bits = _read_number(body, at, 2)
        _read_slice(body, at + 2, (bits + 7) // 8)
        at += 2 + (bits + 7) // 8
    if at != len(body):
        raise InvalidInputError("the signature is damaged: it does not end where its numbers end")


def _find_issuers(
    hashed: list[tuple[int, bytes]], unhashed: list[tuple[int, bytes]]
) -> tuple[str, ...]:
    """Return the issuers that the most reliable subpackets name.

    Anyone can change the unhashed subpackets, so the hashed ones come first; fingerprints come
    before key ids.
    """
    for area in (hashed, unhashed):
        for issuer_type in (ISSUER_FINGERPRINT_SUBPACKET, ISSUER_SUBPACKET):
            names = [_decode_issuer(kind, content) for kind, content in area if kind == issuer_type]
            found = tuple(dict.fromkeys(name for name in names if name))
            if found:
                return found
    raise InvalidInputError("the signature does not name the key that made it")


def _decode_issuer(kind: int, content: bytes) -> str | None:
    if kind == ISSUER_SUBPACKET:
        return content.hex().upper() if len(content) == 8 else None
    if len(content) == 21 and content[0] == 4:  # the version of the key, before its fingerprint
        return content[1:].hex().upper()
    return None
