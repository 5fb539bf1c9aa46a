"""The fields of a submitted action are checked, and what is signed is never ambiguous."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given

from mig.actions.submission import (
    Submission,
    check_signable_json,
    parse_operations,
    parse_signed_time,
)
from mig.errors import InvalidInputError
from mig.signing.canonical import Signable, SignedText, build_signed_texts, encode_operations
from mig.values import parse_json
from tests.support.signables import signables


def is_ambiguous(action: Signable, text: SignedText) -> bool:
    submission = Submission(
        signable=action,
        identity=action.identity,
        description="{}",
        threat="{}",
        pgpsignatures=(),
        signatures=(),
    )
    try:
        submission.check_signed_text(text, keeps_nanoseconds=True)
    except InvalidInputError as refused:
        assert refused.where in ("name", "target")
        return True
    return False


def read_unix(text: str) -> tuple[str, ...]:
    """Return the only reading in which no field holds the separator that ends it."""
    assert text.startswith("name=") and text.endswith(";")
    name, _, remainder = text[len("name=") :].partition(";target=")
    target, _, remainder = remainder.partition(";validfrom=")
    begin, _, remainder = remainder.partition(";expireafter=%!s(int64=")
    end, _, remainder = remainder.partition(");operations=")
    return name, target, begin, end, remainder[:-1]


def read_gotime(text: str) -> tuple[str, ...]:
    assert text.startswith("name=") and text.endswith("';")
    name, _, remainder = text[len("name=") :].partition("; target=")
    target, _, remainder = remainder.partition("; validfrom=")
    begin, _, remainder = remainder.partition("; expireafter=")
    end, _, remainder = remainder.partition("; operations='")
    return name, target, begin, end, remainder[:-2]


@given(signables())
def test_an_accepted_text_reads_back_to_the_signed_action(action: Signable) -> None:
    unix, gotime = build_signed_texts(action)
    if not is_ambiguous(action, unix):
        assert read_unix(unix.text.decode()) == (
            action.name,
            action.target,
            str(action.validfrom.unix_seconds),
            str(action.expireafter.unix_seconds),
            action.operations.decode(),
        )
    if not is_ambiguous(action, gotime):
        assert read_gotime(gotime.text.decode()) == (
            action.name,
            action.target,
            action.validfrom.go_string,
            action.expireafter.go_string,
            action.operations.decode(),
        )


@given(signables(), signables())
def test_two_actions_never_have_the_same_signed_text(one: Signable, other: Signable) -> None:
    unix, gotime = build_signed_texts(one)
    other_unix, other_gotime = build_signed_texts(other)
    assert unix.text != other_gotime.text and gotime.text != other_unix.text
    assert unix.text.endswith(b"];") and gotime.text.endswith(b"]';")
    assume(one.identity != other.identity)
    for text, other_text in zip(build_signed_texts(one), build_signed_texts(other), strict=True):
        ambiguous = is_ambiguous(one, text) or is_ambiguous(other, other_text)
        assert ambiguous or text.text != other_text.text


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
def test_a_time_is_converted_for_each_signed_text_and_the_database(
    text: str, gotime: str, seconds: int, microseconds: str
) -> None:
    time = parse_signed_time("validfrom", text)
    assert (time.go_string, time.unix_seconds, time.microsecond_text[-10:]) == (
        gotime,
        seconds,
        microseconds,
    )


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
def test_a_time_in_any_other_form_is_refused(text: Any) -> None:
    with pytest.raises(InvalidInputError, match="validfrom must be an RFC 3339 date"):
        parse_signed_time("validfrom", text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a":1,"\\u0061":2}', "twice"),
        ('{"a":1e400}', "too large"),
        ('{"a":NaN}', "NaN"),
        ('{"a":-Infinity}', "Infinity"),
        ("9" * 5000, "digits"),
        ("1e999999999", "too large"),
        ("9007199254740993.0", "whole number"),
        ("[" * 100_000, "deep"),
        ("\ufeff{}", "not JSON"),
        ('"\x01"', "not JSON"),
        ("{} {}", "not JSON"),
        ("", "not JSON"),
    ],
    ids=range(12),
)
def test_json_that_parsers_read_differently_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
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
    with pytest.raises(InvalidInputError, match=reason):
        check_signable_json(value, "operations[0].parameters")


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
def test_malformed_operations_are_refused_with_their_place(value: Any, where: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_operations(value)
    assert refused.value.where == where


def test_an_operation_marked_uncompressed_equals_an_unmarked_one() -> None:
    plain = {"module": "a", "parameters": None}
    assert parse_operations([{**plain, "is_compressed": False}]) == parse_operations(
        [{"module": "a"}]
    )
    both = parse_operations([{**plain, "want_compressed": True, "is_compressed": True}])
    assert encode_operations(both).endswith(b',"is_compressed":true,"want_compressed":true}]')
