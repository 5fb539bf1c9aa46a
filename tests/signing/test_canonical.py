"""Signed texts equal those of a slow reference, and are never ambiguous."""

from __future__ import annotations

import json
import math

from hypothesis import given

from mig.signing.canonical import (
    Operation,
    Signable,
    build_signed_texts,
    encode_go_json,
    encode_operations,
)
from mig.values import parse_json
from tests.support.json_types import Json
from tests.support.signables import signables, values


def encode_slowly(value: Json) -> str:
    """Return *value* as Go encodes it, character by character and digit by digit."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(map(encode_character_slowly, value)) + '"'
    if isinstance(value, list):
        return "[" + ",".join(map(encode_slowly, value)) + "]"
    if isinstance(value, dict):
        pairs = sorted(
            (name.encode(), encode_slowly(name), encode_slowly(value[name])) for name in value
        )
        return "{" + ",".join(f"{name}:{content}" for _, name, content in pairs) + "}"
    return encode_number_slowly(float(value))


def encode_character_slowly(character: str) -> str:
    short = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    if character in short:
        return short[character]
    if ord(character) < 0x20 or character in "<>&\u2028\u2029":
        return "\\u" + hex(ord(character))[2:].rjust(4, "0")
    return character


def encode_number_slowly(number: float) -> str:
    """Return the fewest digits that identify the number, found by trying."""
    sign = "-" if math.copysign(1, number) < 0 else ""
    number = abs(number)
    if number == 0:
        return sign + "0"
    text = next(t for d in range(17) if float(t := f"{number:.{d}e}") == number)
    mantissa, exponent = text.split("e")
    digits, power = mantissa.replace(".", ""), int(exponent)
    if number < 1e-6 or number >= 1e21:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{fraction}e{'-' if power < 0 else '+'}{abs(power)}"
    if power < 0:
        return f"{sign}0.{'0' * (-power - 1)}{digits}"
    whole = digits[: power + 1].ljust(power + 1, "0")
    return sign + whole + (f".{digits[power + 1 :]}" if len(digits) > power + 1 else "")


@given(values)
def test_any_value_is_encoded_as_the_slow_reference_does(value: Json) -> None:
    assert encode_go_json(value) == encode_slowly(value)


@given(values)
def test_an_encoded_value_reads_back_to_the_same_text(value: Json) -> None:
    text = encode_go_json(value)
    assert encode_go_json(parse_json(text, "value")) == text
    assert encode_go_json(parse_json(json.dumps(value), "value")) == text


@given(signables())
def test_a_signed_action_is_never_the_text_of_a_token(action: Signable) -> None:
    assert all(text.text.startswith(b"name=") for text in build_signed_texts(action))


def test_compression_is_signed_only_when_it_is_true() -> None:
    plain = Operation(module="a", parameters=None, is_compressed=False)
    assert encode_operations([plain]) == b'[{"module":"a","parameters":null}]'
    both = Operation(module="a", parameters=None, is_compressed=True, want_compressed=True)
    assert encode_operations([both]) == (
        b'[{"module":"a","parameters":null,"is_compressed":true,"want_compressed":true}]'
    )
