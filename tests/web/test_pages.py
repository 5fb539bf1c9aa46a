"""What pages are made of is loaded once, in a thread, before the first one."""

from __future__ import annotations

import threading
from unittest.mock import Mock

import pytest
import pytest_twisted

from mig.web.pages import Pages
from mig.web.request import Request
from tests.support.html import BROWSER
from tests.support.reactor import reactor


def make_request(accept: str) -> Request:
    return Mock(spec=Request, accept=accept, is_page_wanted=False)


@pytest_twisted.ensureDeferred
async def test_only_the_first_pages_wait_for_what_they_are_made_of() -> None:
    threads: list[int] = []
    pages = Pages(reactor, ("application/json",), lambda: threads.append(threading.get_ident()))
    program = make_request("application/json, text/html;q=0.9")
    assert pages.prepare(program) is None
    assert not program.is_page_wanted and not threads
    first, second = make_request(BROWSER), make_request("text/html")
    waiting = [pages.prepare(first), pages.prepare(second)]
    for each in waiting:
        assert each is not None
        await each
    assert first.is_page_wanted and second.is_page_wanted
    assert threads and threading.get_ident() not in threads
    third = make_request(BROWSER)
    assert pages.prepare(third) is None
    assert third.is_page_wanted


@pytest_twisted.ensureDeferred
async def test_a_page_that_cannot_be_made_is_an_error_that_can() -> None:
    """It is answered in JSON, and the next request tries again."""
    attempts = iter([ImportError("no module"), None])

    def load() -> None:
        if (error := next(attempts)) is not None:
            raise error

    pages = Pages(reactor, (), load)
    request = make_request(BROWSER)
    waiting = pages.prepare(request)
    assert waiting is not None
    with pytest.raises(ImportError):
        await waiting
    assert not request.is_page_wanted
    again = pages.prepare(request)
    assert again is not None
    await again
    assert request.is_page_wanted
