"""Real keys and signatures with some bytes changed are read, or refused with a reason."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mig.errors import InvalidInputError
from mig.openpgp import certificate, packet
from tests.support.fleet import VECTORS
from tests.support.keys import encode_signature

ARMORED = (VECTORS / "keys" / "bob.asc").read_bytes()
KEY = certificate.parse_stored(ARMORED).packets
ACTION = json.loads((VECTORS / "actions" / "unix-plain.json").read_text())
SIGNATURE = base64.b64decode(ACTION["pgpsignatures"][0][:-5])

NOT_DETACHED = (
    "-----BEGIN PGP SIGNED MESSAGE-----\nNotDashEscaped: x\n\nx\n",
    "-----BEGIN PGP SIGNATURE-----\n\n\f\n-----END PGP SIGNATURE-----\n",
    "\f" + ACTION["pgpsignatures"][0],
    ACTION["pgpsignatures"][0] + "\n-----END PGP SIGNATURE-----",
)


def mutate(data: bytes) -> st.SearchStrategy[bytes]:
    """Return *data* with some bytes changed, inserted, removed or cut off."""

    def apply_changes(changes: list[tuple[int, int, int]]) -> bytes:
        found = bytearray(data)
        for at, kind, value in changes:
            place = at % (len(found) or 1)
            if kind == 0:
                found[place : place + 1] = bytes([value])
            elif kind == 1:
                found[place:place] = bytes([value]) * (1 + value % 7)
            elif kind == 2:
                del found[place : place + 1 + value % 7]
            elif value > 200:
                del found[place:]
        return bytes(found)

    head = st.integers(0, 40) | st.integers(0, len(data))
    one = st.tuples(head, st.integers(0, 3), st.integers(0, 255))
    return st.lists(one, min_size=1, max_size=4).map(apply_changes)


@given(mutate(SIGNATURE))
def test_a_mutated_signature_is_one_signature_packet_or_refused(data: bytes) -> None:
    """What gpg gets starts with the octet of a signature packet, and is one packet."""
    try:
        read = packet.parse_signature(encode_signature(data))
    except InvalidInputError:
        return
    assert read.raw == data
    assert data[0] in (0xC2, 0x88, 0x89, 0x8A)
    assert [one.tag for one in packet.split_packets(data)] == [packet.SIGNATURE_TAG]
    assert read.issuers


@given(mutate(KEY))
def test_a_mutated_certificate_is_read_or_refused(data: bytes) -> None:
    for text in (certificate.encode_armor(data).encode(), data):
        for read in (certificate.parse_armored, certificate.parse_stored):
            try:
                found = read(text)
            except InvalidInputError:
                continue
            for key in found.keys:
                certificate.find_fault(key)
            assert found.packets


@given(mutate(ARMORED))
def test_a_mutated_armor_is_read_or_refused(text: bytes) -> None:
    for read in (certificate.parse_armored, certificate.parse_stored):
        try:
            found = read(text)
        except InvalidInputError:
            continue
        assert found.keys


@given(st.binary(max_size=300) | mutate(KEY) | mutate(SIGNATURE))
def test_mutated_packets_fill_their_input_or_are_refused(data: bytes) -> None:
    try:
        found = packet.split_packets(data)
    except InvalidInputError:
        return
    assert b"".join(one.raw for one in found) == data


@pytest.mark.parametrize("text", NOT_DETACHED)
def test_an_armored_signature_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        packet.parse_signature(text)
