"""What the tests of pages rely on: the browser reports what is wrong with a page."""

from __future__ import annotations

from urllib.parse import quote

from tests.support.browser import Browser

STRICT = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\">"
SCRIPT = "<script>document.title = 'run'</script>"


def make_page(*parts: str) -> str:
    """Return the address of a page of these elements."""
    return "data:text/html;charset=utf-8," + quote("<!doctype html>" + "".join(parts))


def test_a_page_that_violates_its_policy_is_noticed(browser: Browser) -> None:
    with browser.open_page(make_page(STRICT, SCRIPT)) as page:
        assert "Content Security Policy" in page.problems[0]
        assert page.evaluate("document.title") == ""


def test_an_error_of_a_script_is_noticed(browser: Browser) -> None:
    with browser.open_page(make_page("<script>missing()</script>")) as page:
        assert "missing is not defined" in page.problems[0]


def test_a_page_without_a_problem_has_none(browser: Browser) -> None:
    with browser.open_page(make_page("<p>a < b</p>", SCRIPT)) as page:
        page.wait_until("document.title == 'run'")
        assert (page.text, page.problems) == ("a < b", [])
