"""The signed texts: equal to a slow reference, and never to be read in two ways."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mig.errors import InvalidInput
from mig.signing.canonical import Signable, encode, operations, signed_time, texts
from mig.values import parse_json

letters = st.characters(codec="utf-8", exclude_characters="\0")
words = st.text(letters, max_size=12) | st.text('<>&"\\/\n\r\t\b\f\x7f\u2028\u2029é🔐', max_size=8)
numbers = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**53), 2**53)
    | st.sampled_from([0.0, -0.0, 1e-6, 9.99e-7, 1e20, 1e21, 5e-324, 1.7976931348623157e308])
)
values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=20,
)


def slow(value: Any) -> str:
    """Go's encoding, letter by letter and digit by digit."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(map(slow_letter, value)) + '"'
    if isinstance(value, list):
        return "[" + ",".join(map(slow, value)) + "]"
    if isinstance(value, dict):
        pairs = sorted((name.encode(), slow(name), slow(value[name])) for name in value)
        return "{" + ",".join(f"{name}:{content}" for _, name, content in pairs) + "}"
    return slow_number(float(value))


def slow_letter(letter: str) -> str:
    short = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    if letter in short:
        return short[letter]
    if ord(letter) < 0x20 or letter in "<>&\u2028\u2029":
        return "\\u" + hex(ord(letter))[2:].rjust(4, "0")
    return letter


def slow_number(number: float) -> str:
    """The fewest digits that name the number, found by trying."""
    sign = "-" if math.copysign(1, number) < 0 else ""
    number = abs(number)
    if number == 0:
        return sign + "0"
    text = next(t for d in range(17) if float(t := f"{number:.{d}e}") == number)
    mantissa, exponent = text.split("e")
    digits, power = mantissa.replace(".", ""), int(exponent)
    if number < 1e-6 or number >= 1e21:
        rest = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{rest}e{'-' if power < 0 else '+'}{abs(power)}"
    if power < 0:
        return f"{sign}0.{'0' * (-power - 1)}{digits}"
    whole = digits[: power + 1].ljust(power + 1, "0")
    return sign + whole + (f".{digits[power + 1 :]}" if len(digits) > power + 1 else "")


@given(values)
def test_any_value_is_encoded_as_the_slow_reference_does(value: Any) -> None:
    assert encode(value, "value") == slow(value)


@given(values)
def test_what_was_encoded_reads_back_to_the_same_text(value: Any) -> None:
    text = encode(value, "value")
    assert encode(parse_json(text, "value"), "value") == text
    assert encode(parse_json(json.dumps(value), "value"), "value") == text


times = st.datetimes().map(lambda t: t.isoformat() + "Z")
modules = st.lists(st.fixed_dictionaries({"module": st.just("file"), "parameters": values}))


@st.composite
def signables(draw: st.DrawFn) -> Signable:
    parts = words | st.sampled_from([";target=", "; target=", ";validfrom=", "; validfrom=", ";"])
    text = st.lists(parts, max_size=4).map("".join)
    return Signable(
        name=draw(text),
        target=draw(text),
        validfrom=signed_time("validfrom", draw(times)),
        expireafter=signed_time("expireafter", draw(times)),
        operations=operations(draw(modules.filter(bool))),
    )


def read_unix(text: str) -> tuple[str, ...]:
    """The only reading in which no field holds the separator that ends it."""
    assert text.startswith("name=") and text.endswith(";")
    name, _, rest = text[len("name=") :].partition(";target=")
    target, _, rest = rest.partition(";validfrom=")
    begin, _, rest = rest.partition(";expireafter=%!s(int64=")
    end, _, rest = rest.partition(");operations=")
    return name, target, begin, end, rest[:-1]


def read_gotime(text: str) -> tuple[str, ...]:
    assert text.startswith("name=") and text.endswith("';")
    name, _, rest = text[len("name=") :].partition("; target=")
    target, _, rest = rest.partition("; validfrom=")
    begin, _, rest = rest.partition("; expireafter=")
    end, _, rest = rest.partition("; operations='")
    return name, target, begin, end, rest[:-2]


@given(signables())
def test_a_text_that_is_not_refused_reads_back_to_the_same_action(action: Signable) -> None:
    unix, gotime = texts(action)
    if not unix.ambiguous:
        assert read_unix(unix.text.decode()) == (
            action.name,
            action.target,
            str(action.validfrom.seconds),
            str(action.expireafter.seconds),
            action.operations,
        )
    if not gotime.ambiguous:
        assert read_gotime(gotime.text.decode()) == (
            action.name,
            action.target,
            action.validfrom.gotime,
            action.expireafter.gotime,
            action.operations,
        )


@given(signables(), signables())
def test_no_text_of_one_action_is_a_text_of_another(one: Signable, other: Signable) -> None:
    unix, gotime = texts(one)
    other_unix, other_gotime = texts(other)
    assert unix.text != other_gotime.text and gotime.text != other_unix.text
    assert unix.text.endswith(b"];") and gotime.text.endswith(b"]';")
    assume(one.identity != other.identity)
    assert unix.ambiguous or other_unix.ambiguous or unix.text != other_unix.text
    assert gotime.ambiguous or other_gotime.ambiguous or gotime.text != other_gotime.text


@given(signables())
def test_no_text_is_what_a_token_signs(action: Signable) -> None:
    assert all(text.text.startswith(b"name=") for text in texts(action))


@pytest.mark.parametrize(
    ("text", "gotime", "seconds", "microseconds"),
    [
        ("2026-01-02T03:04:05Z", "2026-01-02 03:04:05 +0000 UTC", 1767323045, "05.000000Z"),
        ("2026-01-02T03:04:05.100Z", "2026-01-02 03:04:05.1 +0000 UTC", 1767323045, "05.100000Z"),
        (
            "2026-01-02T03:04:05.678901999Z",
            "2026-01-02 03:04:05.678901999 +0000 UTC",
            1767323045,
            "05.678901Z",
        ),
        ("2026-01-02T03:04:05+02:00", "2026-01-02 03:04:05 +0200 +0200", 1767315845, "05.000000Z"),
        ("2026-01-02T03:04:05+00:00", "2026-01-02 03:04:05 +0000 UTC", 1767323045, "05.000000Z"),
        ("2026-01-02T03:04:05-05:30", "2026-01-02 03:04:05 -0530 -0530", 1767342845, "05.000000Z"),
        (
            "1969-12-31T23:59:59.9999999Z",
            "1969-12-31 23:59:59.9999999 +0000 UTC",
            -1,
            "59.999999Z",
        ),
    ],
)
def test_times(text: str, gotime: str, seconds: int, microseconds: str) -> None:
    time = signed_time("validfrom", text)
    assert (time.gotime, time.seconds, time.microseconds[-10:]) == (gotime, seconds, microseconds)


@pytest.mark.parametrize(
    "text",
    [
        *("2026-01-02t03:04:05Z", "2026-01-02T03:04:05z", "2026-01-02T03:04:05,5Z"),
        *("2026-01-02T3:04:05Z", "2026-01-02T03:04:05.1234567890Z", "2026-01-02T03:04:05+24:00"),
        *("2026-01-02T03:04:60Z", "0000-01-02T03:04:05Z", "10000-01-02T03:04:05Z"),
        *("2026-01-02T03:04:05-00:00", "20260102T030405Z", "٢٠٢٦-01-02T03:04:05Z"),
        *("2026-02-30T03:04:05Z", "2026-01-02 03:04:05Z", "2026-01-02T03:04:05", "now", "", 5),
        *(None, "2026-01-02T03:04:05Z\n", "0001-01-01T00:00:00+14:00"),
    ],
)
def test_no_other_form_of_a_time_is_taken(text: Any) -> None:
    with pytest.raises(InvalidInput, match="validfrom must be an RFC 3339 date"):
        signed_time("validfrom", text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a":1,"\\u0061":2}', "twice"),
        ('{"a":1e400}', "beyond"),
        ('{"a":NaN}', "NaN"),
        ('{"a":-Infinity}', "Infinity"),
        ("9" * 5000, "digits"),
        ("1e999999999", "beyond"),
        ("9007199254740993.0", "whole number"),
        ("[" * 100_000, "deep"),
        ("\ufeff{}", "not JSON"),
        ('"\x01"', "not JSON"),
        ("{} {}", "not JSON"),
        ("", "not JSON"),
    ],
    ids=range(12),
)
def test_json_that_readers_take_differently_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        parse_json(text, "action")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (2**53 + 1, "float64"),
        (10**400, "float64"),
        ("\0", "NUL"),
        ("\ud800", "surrogate"),
        ({"\udc00": 1}, "surrogate"),
        (json.loads("[" * 65 + "]" * 65), "deeper"),
    ],
    ids=range(6),
)
def test_values_that_cannot_be_signed_are_refused(value: Any, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        encode(value, "operations[0].parameters")


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (None, "operations"),
        ([], "operations"),
        ({}, "operations"),
        ([1], "operations[0]"),
        ([{}], "operations[0].module"),
        ([{"module": " "}], "operations[0].module"),
        ([{"module": 1}], "operations[0].module"),
        ([{"module": "a", "Module": "b"}], "operations[0].Module"),
        ([{"module": "a", "PARAMETERS": 1}], "operations[0].PARAMETERS"),
        ([{"module": "a", "parameter\u017f": 1}], "operations[0].parameter\u017f"),
        ([{"module": "a", "extra": 1}], "operations[0].extra"),
        ([{"module": "a", "is_compressed": 1}], "operations[0].is_compressed"),
    ],
)
def test_operations_that_are_no_operations(value: Any, where: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        operations(value)
    assert refused.value.where == where


def test_compression_is_signed_when_it_is_true() -> None:
    plain = {"module": "a", "parameters": None}
    assert operations([{**plain, "is_compressed": False}]) == operations([{"module": "a"}])
    assert operations([{**plain, "want_compressed": True, "is_compressed": True}]) == (
        '[{"module":"a","parameters":null,"is_compressed":true,"want_compressed":true}]'
    )
