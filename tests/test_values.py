from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mig.errors import InvalidInputError, UnreadableError
from mig.values import (
    MAX_ID,
    count_values,
    escape_unprintable,
    format_duration,
    format_time,
    generate_id,
    parse_duration,
    parse_id,
    parse_json,
    parse_time,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("24h", 86_400),
        ("90m", 5_400),
        ("1h30m", 5_400),
        ("400d", 34_560_000),
        ("1d2h3m4s", 93_784),
        ("90s", 90),
        ("50ms", 0.05),
        ("2w1s5ms", 1_209_601.005),
    ],
)
def test_a_duration_is_a_number_of_each_unit(text: str, seconds: float) -> None:
    assert parse_duration(text).total_seconds() == seconds


@given(st.integers(1, 10**13))
def test_a_duration_is_written_as_it_is_parsed(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == timedelta(
        milliseconds=milliseconds
    )


@pytest.mark.parametrize(
    "text", ["", "0s", "h", "5", "-5m", "1.5h", "1h 30m", "30m1h", "5M", "٣h", "9999999999w"]
)
def test_another_duration_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(ValueError, match="a duration such as 10m, 90d or 1h30m"):
        parse_duration(text)


@given(st.integers(1, MAX_ID))
def test_every_id_is_parsed_exactly(number: int) -> None:
    assert parse_id("actionid", str(number)) == number


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "+1", " 1", "1_0", "٣", "²", "1.0", "1e3", str(MAX_ID + 1), "9" * 21]
)
def test_a_malformed_id_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInputError, match="actionid must be a whole number from 1 to 1844"):
        parse_id("actionid", text)


def test_generated_ids_are_exact_in_every_json_client() -> None:
    assert all(0 < generate_id() < 2**53 for _ in range(1000))


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2014-05-30T00:00:00-04:00", "2014-05-30T04:00:00Z"),
        ("2014-05-01T00:00:00-00:00", "2014-05-01T00:00:00Z"),
        ("2014-05-30T00:00:00 02:00", "2014-05-29T22:00:00Z"),
        ("2014-05-30T00:00:00.123456789Z", "2014-05-30T00:00:00.123456789Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
    ],
)
def test_rfc3339_times_are_read_to_the_nanosecond(text: str, utc: str) -> None:
    assert parse_time("after", text).format_iso() == utc


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "now",
        "infinity",
        "2014-05-30",
        "2014-05-30T00:00Z",
        "2014-05-30t00:00:00Z",
        "20140530T000000Z",
        "2014-05-30T00:00:00z",
        "2014-05-30T00:00:00",
        "2014-05-30T00:00:60Z",
        "2014-02-30T00:00:00Z",
        "2014-05-30T24:00:00Z",
        "2014-05-30T00:00:00,5Z",
        "2014-05-30T00:00:00.1234567890Z",
        "2014-05-30T00:00:00+24:00",
        "2014-W22-5T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+05:00",
        "٢٠١٤-05-30T00:00:00Z",
    ],
)
def test_other_times_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInputError, match="after must be an RFC 3339 date, for example"):
        parse_time("after", text)


def test_stored_times_are_served_as_rfc3339() -> None:
    assert format_time("2014-05-30 14:55:41.907745+00") == "2014-05-30T14:55:41.907745Z"
    assert format_time("0001-01-01 00:00:00+00") == format_time(None) == "0001-01-01T00:00:00Z"
    for odd in ("infinity", "-infinity", "10000-01-01 00:00:00+00", "0044-03-15 00:00:00+00 BC"):
        with pytest.raises(UnreadableError):
            format_time(odd)


@pytest.mark.parametrize("text", ["1e-9999999999999999999", "0e99999999999999999999", "1e-400"])
def test_numbers_too_small_for_float64_are_zero(text: str) -> None:
    assert parse_json(text, "action") == 0.0


def test_a_duplicate_name_is_found_among_many() -> None:
    """To compare every pair would take minutes."""
    members = ",".join(f'"{n:x}":0' for n in range(100_000))
    with pytest.raises(InvalidInputError, match="'abc' twice"):
        parse_json(f'{{{members},"abc":1}}', "action")


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(',"\\[]{} 0', max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner),
)


@given(NESTED, st.sampled_from([None, 1]), st.sampled_from([",:", ", : "]))
def test_values_are_counted_exactly(value: object, indent: int | None, separators: str) -> None:
    """Strings full of brackets and commas count once, and empty arrays count, too."""
    signs = (separators[: len(separators) // 2], separators[len(separators) // 2 :])
    text = json.dumps(value, indent=indent, separators=signs)
    count = count_values(value)
    assert parse_json(text, "action", max_values=count) == value
    if count > 1:
        with pytest.raises(InvalidInputError, match=f"action holds more than {count - 1} values"):
            parse_json(text, "action", max_values=count - 1)


@pytest.mark.parametrize("text", ["[" * 1_000_000, '{"a":"', '"' + "\\" * 99, ",[{" * 9, '"\\'])
def test_counting_values_survives_text_that_is_not_json(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_json(text, "action", max_values=3)


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["", ".17e", ".0f"]))
def test_a_number_is_read_exactly_as_an_encoder_wrote_it(number: float, form: str) -> None:
    text = format(number, form) if form else repr(number)
    if text == repr(number) or Decimal(text) == Decimal(number):
        assert parse_json(f"[{text}]", "action") == [number]


def test_text_is_escaped_to_one_line() -> None:
    assert escape_unprintable("a\nb\x1b\u202eé") == "a\\nb\\x1b\\u202eé"
