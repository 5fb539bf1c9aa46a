"""A search that leads back to a page of its own ends with an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mig.client.errors import InvalidResponseError
from mig.client.pages import NextPages


@given(st.integers(0, 50), st.integers(1, 50))
def test_pages_that_lead_back_end_the_search(before: int, cycle: int) -> None:
    """However many precede the cycle, and however many are in it."""
    pages = NextPages()
    with pytest.raises(InvalidResponseError, match="leads back to a page before"):
        for n in range(4 * (before + cycle)):
            pages.check(f"?cursor={n if n < before else before + (n - before) % cycle}")


def test_pages_that_are_all_different_are_followed() -> None:
    pages = NextPages()
    urls = [f"?cursor={n}" for n in range(10_000)]
    assert list(map(pages.check, urls)) == urls
    assert pages.check(None) is None
