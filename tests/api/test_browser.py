"""A real browser walks through the pages, and finds nothing that their policy forbids."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.support import fleet
from tests.support.api import Api
from tests.support.browser import Browser, Page
from tests.support.callers import add_api_key, add_investigator
from tests.support.postgres import TestDatabase

HOSTILE = "\"><script>document.title = 'RUN'</script><img src=x onerror=alert(1)>"


def load_hostile_fleet(database: TestDatabase) -> None:
    """Load a fleet whose names would run in a browser if they could."""
    policy = {"policy": {"level": HOSTILE, "name": HOSTILE, "url": "javascript:alert(1)"}}
    description = {"compliance": policy, "ref": HOSTILE}
    action = fleet.make_action(1, name=HOSTILE, description=description, threat={"family": HOSTILE})
    fleet.insert_rows(database.dsn, "actions", [action])
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1, name=HOSTILE)])
    results = fleet.make_results(
        fleet.make_hit(HOSTILE), fleet.make_hit("", content=HOSTILE), label=HOSTILE
    )
    command = fleet.make_command(1, 1, 1, results=results)
    fleet.insert_rows(database.dsn, "commands", [command])


def follow_text(page: Page, text: str) -> None:
    """Follow the first link with a text."""
    marked = page.evaluate(
        f"const found = [...document.links].find(a => a.innerText.startsWith({text!r}));"
        " found && found.setAttribute('data-chosen', ''); !!found"
    )
    assert marked, (text, page.text)
    page.follow("[data-chosen]")


@contextmanager
def check_problems(browser: Browser, url: str) -> Iterator[Page]:
    """Open a page, and check at the end that the browser has complained about nothing but a 404."""
    with browser.open_page(url) as page:
        yield page
        assert [each for each in page.problems if "status of 404" not in each] == []


@pytest_twisted.ensureDeferred
async def test_a_browser_walks_to_a_report_and_back(
    database: TestDatabase, api: Api, browser: Browser
) -> None:
    """Also by another name of the host than that of the public URL."""
    load_hostile_fleet(database)

    def walk(url: str) -> None:
        with check_problems(browser, url) as page:
            assert page.address.endswith("/api/v1/")
            assert page.evaluate("getComputedStyle(document.body).maxWidth") == "1600px"
            page.fill("#search [name=type]", "command")
            page.fill("#search [name=report]", "complianceitems")
            page.fill("#search [name=after]", "-20000d")
            page.follow("#search button")
            assert "/api/v1/search?type=command&" in page.address
            assert page.evaluate("document.querySelectorAll('tr.bad, tr.good').length") == 2
            assert page.evaluate("document.querySelectorAll('tr script, tr img').length") == 0
            assert HOSTILE in page.text and page.evaluate("document.title") != "RUN"
            follow_text(page, "2026-01-01 00:00:01 UTC")
            assert page.address.endswith("/command?commandid=1")
            follow_text(page, "action")
            assert page.address.endswith("/action?actionid=1")
            follow_text(page, "Dashboard")
            assert "endpoints" in page.text
            follow_text(page, "Home")
            page.fill("#agent [name=agentid]", "7")
            page.follow("#agent button")
            assert "there is no agent 7" in page.text
            follow_text(page, "Home")
            follow_text(page, "create-investigator")
            page.fill("[name=name]", "Eve")
            page.fill("[name=permissions]", '{"search": true}')
            page.follow("button")
            assert page.evaluate("document.querySelector('h1').innerText") == "Investigator"
            follow_text(page, "Home")

    await deferToThread(walk, f"{api.root}/")
    await deferToThread(walk, f"{api.base}/".replace("localhost", "127.0.0.1"))


@pytest_twisted.async_yield_fixture
async def closed_api(database: TestDatabase) -> AsyncIterator[Api]:
    """Return an API that requires credentials."""
    api = Api(database.dsn, authentication=True)
    yield api
    await api.stop()


@pytest_twisted.ensureDeferred
async def test_a_browser_reads_with_a_password_and_writes_nothing(
    database: TestDatabase, closed_api: Api, browser: Browser
) -> None:
    key = add_api_key(database, add_investigator(database))

    def walk() -> None:
        root = closed_api.root.replace("://", f"://me:{key}@")
        with check_problems(browser, f"{root}/api/v1/dashboard") as page:
            assert "endpoints" in page.text
            follow_text(page, "Home")
            follow_text(page, "create-action")
            assert "This form cannot be sent from this page" in page.text
            assert page.evaluate("document.querySelector('fieldset').disabled")

    await deferToThread(walk)
