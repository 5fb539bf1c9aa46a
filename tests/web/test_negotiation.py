"""A client gets the offered media type that it prefers."""

from __future__ import annotations

import pytest

from mig.web.negotiation import choose_media_type

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
