"""The text of a token."""

from __future__ import annotations

import json
import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mig.access.tokens import ACCEPTED_FORM, check_token_time, parse_token
from mig.errors import UnauthorizedError
from tests.support.fleet import VECTORS
from tests.support.keys import encode_signature

[RECORDED] = json.loads((VECTORS / "tokens.json").read_text())
HEADER: str = RECORDED["header"]
VERSION, TIME, NONCE, SIGNATURE = HEADER.split(";")
MADE_AT = datetime.fromisoformat(RECORDED["made_at"]).timestamp()


def test_a_token_of_a_real_client_is_parsed() -> None:
    token = parse_token(HEADER)
    assert token.time == MADE_AT
    assert token.text == f"1;{TIME};{NONCE}\n".encode()
    assert token.parse_signature().issuers == ("A4021DF0D4ED3D14",)


@pytest.mark.parametrize(
    "header",
    [
        "",
        ";;;",
        f"1;{TIME};{NONCE}",
        f"1;{TIME};{NONCE};",
        f"2;{TIME};{NONCE};{SIGNATURE}",
        f"01;{TIME};{NONCE};{SIGNATURE}",
        f"{HEADER};",
        f"{HEADER};{SIGNATURE}",
        f"{HEADER}, {HEADER}",
        f" {HEADER}",
        f"{HEADER} ",
        f"{HEADER}\n",
        *(
            f"1;{time};{NONCE};{SIGNATURE}"
            for time in (
                "2026-11-24T08:59:39z",
                "2026-11-24t08:59:39Z",
                "2026-11-24 08:59:39Z",
                "2026-11-24T08:59:39",
                "2026-11-24T08:59:39+00:00",
                "2026-11-24T10:59:39+02:00",
                "2026-11-24T08:59:39.5Z",
                "2026-11-24T08:59:60Z",
                "2026-11-24T24:00:00Z",
                "2025-02-29T08:59:39Z",
                "2026-13-24T08:59:39Z",
                "0000-11-24T08:59:39Z",
                "20261124T085939Z",
                "２026-11-24T08:59:39Z",
                "",
            )
        ),
        *(
            f"1;{TIME};{nonce};{SIGNATURE}"
            for nonce in ("0", "-5", "+5", "05", "5.0", "5e3", " 5", "0x5", "٥", "1_0", str(2**70))
        ),
        f"1;{TIME};{NONCE};{SIGNATURE}".replace("=", "-"),
        f"1;{TIME};{NONCE};{'A' * 4097}",
    ],
)
def test_a_token_has_one_accepted_form(header: str) -> None:
    with pytest.raises(UnauthorizedError) as refused:
        parse_token(header)
    assert str(refused.value) == ACCEPTED_FORM


def test_a_token_of_a_leap_day_is_parsed() -> None:
    token = parse_token(f"1;2028-02-29T23:59:59Z;1;{SIGNATURE}")
    assert token.time == datetime.fromisoformat("2028-02-29T23:59:59Z").timestamp()


@given(st.text() | st.from_regex(r"1;[0-9TZ:.+-]*;[0-9+-]*;[A-Za-z0-9+/=;]*\n?"))
def test_any_text_is_parsed_or_refused_with_the_accepted_form(header: str) -> None:
    try:
        token = parse_token(header)
    except UnauthorizedError as refused:
        assert str(refused) == ACCEPTED_FORM
    else:
        signed, _, signature = header.rpartition(";")
        assert token.text == f"{signed}\n".encode()
        assert token.signature_text == signature
        assert re.fullmatch(r"1;\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ;[1-9]\d{0,18}", signed, re.ASCII)


@given(st.data())
def test_a_signature_that_is_changed_is_refused_before_gpg(data: st.DataObject) -> None:
    """The checksum of its armor finds any single wrong character."""
    place = data.draw(st.integers(0, len(SIGNATURE) - 1))
    other = data.draw(st.sampled_from("ABCDEFghijkl0123456789+/").filter(SIGNATURE[place].__ne__))
    changed = SIGNATURE[:place] + other + SIGNATURE[place + 1 :]
    with pytest.raises(UnauthorizedError, match="bad signature"):
        parse_token(f"1;{TIME};{NONCE};{changed}").parse_signature()


@given(st.binary(max_size=300))
def test_any_bytes_as_a_signature_are_refused_with_a_reason(data: bytes) -> None:
    try:
        token = parse_token(f"1;{TIME};{NONCE};{encode_signature(data)}")
        token.parse_signature()
    except UnauthorizedError as refused:
        assert "bad signature" in str(refused) or str(refused) == ACCEPTED_FORM


@pytest.mark.parametrize("age", [-600, -599, 0, 600])
def test_a_token_is_valid_around_its_time(age: float) -> None:
    check_token_time(MADE_AT, MADE_AT + age, 600)


@pytest.mark.parametrize(
    ("age", "says"),
    [
        (601, "the token has expired: it was made 601 s ago and is valid for 600 s"),
        (660, "expired"),
        (1e9, "expired"),
        (-601, "clock differs by 601 s"),
        (-660, "clock differs by 660 s"),
        (-1e9, "clock differs by 1000000000 s"),
    ],
)
def test_a_token_is_refused_at_any_other_time(age: float, says: str) -> None:
    with pytest.raises(UnauthorizedError, match=says):
        check_token_time(MADE_AT, MADE_AT + age, 600)
