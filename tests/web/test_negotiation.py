"""A client gets the offered media type that it prefers."""

from __future__ import annotations

import pytest

from mig.web.negotiation import choose_encoding, choose_media_type

OFFERED = ("application/x-ndjson", "application/json", "text/csv")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "application/x-ndjson"),
        ("*/*", "application/x-ndjson"),
        ("image/png", "application/x-ndjson"),
        ("text/csv", "text/csv"),
        ("text/csv;header=present", "text/csv"),
        ("TEXT/CSV", "text/csv"),
        ("text/csv;q=0.5, application/json;q=0.4", "text/csv"),
        ("text/csv, application/json", "application/json"),
        ("text/csv;q=0", "application/x-ndjson"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
        (";;;,,q=x", "application/x-ndjson"),
    ],
)
def test_the_named_type_of_the_highest_quality_is_chosen(accept: str, chosen: str) -> None:
    assert choose_media_type(accept, OFFERED) == chosen


def test_a_browser_gets_the_first_type_where_there_is_no_json() -> None:
    assert choose_media_type("text/html", ("text/csv", "text/plain")) == "text/csv"


@pytest.mark.parametrize(
    ("accept_encoding", "chosen"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "gzip"),
        ("zstd, gzip", "gzip"),
        ("gzip;q=0.5, zstd;q=0.8", "zstd"),
        ("gzip;q=0, *;q=0.1", "zstd"),
        ("*", "gzip"),
        ("*;q=0", None),
        ("gzip;q=0", None),
        ("gzip;q=0.000, zstd;q=0", None),
        ("identity", None),
        ("identity, gzip", "gzip"),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("identity;q=0", None),
        ("br, deflate", None),
        ("x-gzip", "gzip"),
        ("GZIP", "gzip"),
        (" gzip ;q=1 ,", "gzip"),
        (";;,q=1", None),
    ],
)
def test_an_encoding_is_used_only_when_the_client_prefers_it(
    accept_encoding: str, chosen: str | None
) -> None:
    assert choose_encoding(accept_encoding, ("gzip", "zstd")) == chosen
