"""The text of an API key."""

from __future__ import annotations

import re
import zlib

from hypothesis import given
from hypothesis import strategies as st

from mig.access.apikeys import make_key, parse_key

KEY = "mig_12345_cUkog2157Ea26XBgY16dQhYfpfLaJriGeFWo4LvWp7a_1poxTP"
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@given(st.integers(1, 2**63 - 1))
def test_a_key_names_its_row_and_ends_with_a_checksum(key_id: int) -> None:
    key = make_key(key_id)
    assert re.fullmatch(rf"mig_{key_id}_[0-9A-Za-z]{{43}}_[0-9A-Za-z]{{6}}", key)
    assert parse_key(key) == key_id
    body, _, checksum = key.rpartition("_")
    value = 0
    for digit in checksum:
        value = value * 62 + DIGITS.index(digit)
    assert value == zlib.crc32(body.encode())


def test_no_two_keys_are_alike() -> None:
    assert len({make_key(7) for _ in range(1000)}) == 1000


@given(st.data())
def test_a_key_with_one_other_character_is_not_a_key(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(KEY) - 1))
    other = data.draw(st.characters(exclude_characters=KEY[place]))
    assert parse_key(KEY) == 12345
    assert parse_key(KEY[:place] + other + KEY[place + 1 :]) is None


@given(st.text() | st.from_regex(r"mig_[0-9]{1,30}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}\n?"))
def test_any_other_text_is_not_a_key(text: str) -> None:
    assert parse_key(text) is None
