"""The header traceparent is read as W3C Trace Context says."""

from __future__ import annotations

import pytest

from mig.tracing import (
    build_application_name,
    get_application_name,
    name_no_statements,
    name_statements,
    parse_traceparent,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "header",
    [
        f"00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-00",
        f"00-{TRACE}-{PARENT}-ff",
        f"cc-{TRACE}-{PARENT}-01",  # a later version may have more parts
        f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like",
        f"cc-{TRACE}-{PARENT}-01-",
    ],
)
def test_the_trace_id_of_a_valid_header_is_read(header: str) -> None:
    assert parse_traceparent([header.encode()]) == TRACE


@pytest.mark.parametrize(
    "header",
    [
        "",
        TRACE,
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01-",  # version 00 has no more parts
        f"00-{TRACE}-{PARENT}-01-x",
        f"00-{TRACE}-{PARENT}-010",
        f"cc-{TRACE}-{PARENT}-01.x",
        f"ff-{TRACE}-{PARENT}-01",  # an invalid version
        f"0-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT.upper()}-01",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}g-01",
        f"00-{TRACE[:-1]}\n-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01\n",
        f"00-{TRACE}-{PARENT}-01, 00-{TRACE}-{PARENT}-01",
        f"00_{TRACE}_{PARENT}_01",
        f"00-{TRACE}-{PARENT}-\xb2\xb2",
    ],
)
def test_a_header_that_is_not_valid_is_ignored(header: str) -> None:
    assert parse_traceparent([header.encode("latin-1")]) is None


def test_two_headers_are_ignored() -> None:
    header = f"00-{TRACE}-{PARENT}-01".encode()
    assert parse_traceparent([header, header]) is None
    assert parse_traceparent([]) is None


def test_a_request_without_a_trace_has_not_the_name_of_another_one() -> None:
    """One may be started by what another one does, such as the end of its answer."""
    with name_statements("17", TRACE):
        assert get_application_name() == f"mig-api 17 {TRACE}"
        with name_statements("18", None):
            assert get_application_name() is None
        with name_no_statements():
            assert get_application_name() is None
        assert get_application_name() == f"mig-api 17 {TRACE}"
    assert get_application_name() is None


def test_a_name_is_not_longer_than_postgresql_keeps() -> None:
    assert len(build_application_name(str(2**53 - 1), TRACE)) < 63
