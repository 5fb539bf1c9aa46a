"""Browsers get pages: of every document, also of errors, and never more than 500 rows at once."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import pytest_twisted

from mig.api.routes import ROUTES
from mig.formats.collection_json import MEDIA_TYPE
from mig.hypermedia import urls
from mig.search.parameters import PARAMETERS
from tests.support import fleet
from tests.support.api import Answer, Api
from tests.support.callers import add_api_key, add_investigator, with_key
from tests.support.formats import read_lines
from tests.support.html import BROWSER, POLICY, Page
from tests.support.postgres import TestDatabase

OTHER_PATHS = {
    *(urls.STYLE, urls.READINESS, urls.CLIENT_ADDRESS, urls.PUBLIC_KEY),
    *(urls.OPENAPI, urls.DOCS, urls.DOCS_FILE),
}
REPORT = f"type=command&report=complianceitems&{fleet.ANY_TIME}"


async def open_page(api: Api, path: str, status: int = 200) -> Page:
    """Return the page at a path, or at the address of a link."""
    url = api.root + path if path.startswith("/api/") else path
    return read_page(await api.get(url, headers={"Accept": BROWSER}), status)


def read_page(answer: Answer, status: int = 200) -> Page:
    assert answer.code == status, answer.body
    assert answer.get_header("content-type") == "text/html; charset=utf-8"
    assert answer.get_header("content-security-policy") == POLICY
    assert answer.get_header("x-content-type-options") == "nosniff"
    return Page(answer.body)


def make_basic(key: str, user: str = "me") -> dict[str, str]:
    """Return the headers of a browser whose user has typed a key as the password."""
    credential = base64.b64encode(f"{user}:{key}".encode()).decode()
    return {"Accept": BROWSER, "Authorization": f"Basic {credential}"}


@pytest_twisted.ensureDeferred
async def test_every_document_is_a_page_for_a_browser_alone(
    database: TestDatabase, api: Api
) -> None:
    fleet.load_fleet(database.dsn)
    queries = {
        f"/{noun}": f"?{noun}id={fleet.FLEET[noun + 's'][0]['id']}"
        for noun in ("action", "agent", "command", "investigator")
    }
    for route in ROUTES:
        if route.method != "GET" or route.path in OTHER_PATHS:
            continue
        path = route.path + queries.get(route.path, "")
        page = await open_page(api, path)
        assert page.links["Home"] == "/api/v1/"
        for accept, media_type in (
            ("*/*", MEDIA_TYPE),
            ("application/json, text/html;q=0.9", "application/json"),
            ("application/json, text/html", "application/json"),
        ):
            answer = await api.get(path, headers={"Accept": accept})
            assert answer.get_header("content-type") == media_type, path
    style = await api.get("/style.css", headers={"Accept": "text/css,*/*;q=0.1"})
    assert style.get_header("content-type") == "text/css; charset=utf-8"
    assert style.get_header("cache-control") == "public, max-age=3600"
    root = await api.get(api.root + "/", headers={"Accept": BROWSER})
    assert (root.code, root.get_header("location")) == (302, api.base + "/")


@pytest_twisted.ensureDeferred
async def test_a_page_links_to_the_same_in_every_format(database: TestDatabase, api: Api) -> None:
    fleet.load_fleet(database.dsn)
    page = await open_page(api, f"/search?{REPORT}&limit=3")
    types = {"JSON": "application/json", "NDJSON": "application/x-ndjson", "CSV": "text/csv"}
    for name, media_type in types.items():
        answer = await api.get(api.root + page.links[name], headers={"Accept": BROWSER})
        assert answer.get_header("content-type").partition(";")[0] == media_type
    dashboard = await open_page(api, "/dashboard")
    assert "JSON" in dashboard.links and "CSV" not in dashboard.links
    assert len(dashboard.items) == 1 + len(fleet.FLEET["actions"])


@pytest_twisted.ensureDeferred
async def test_a_summary_is_a_table_of_groups_with_links_to_their_items(
    database: TestDatabase, api: Api
) -> None:
    fleet.load_fleet(database.dsn)
    path = f"/search?type=command&report=compliancesummary&groupby=level&{fleet.ANY_TIME}"
    page = await open_page(api, path)
    summaries = read_lines((await api.get(f"{path}&format=ndjson")).body)
    assert [row["group.level"] for row in page.items] == [
        summary["group"].get("level") or "" for summary in summaries
    ]
    assert [row["rate"] for row in page.items] == [
        f"{summary['rate']:.1%}" for summary in summaries
    ]
    assert page.items[0]["related"].strip() == "items"
    items = await open_page(api, page.links["items"])
    assert len(items.items) == sum(summaries[-1]["items"].values())


@pytest_twisted.ensureDeferred
async def test_errors_are_pages_too(api: Api) -> None:
    for path, status, message in (
        ("/nothing", 404, "there is nothing at this path"),
        ("/search?limit=0", 400, "limit must be a whole number"),
        ("/search?ids=text", 400, "ids does not fit a page for browsers"),
        ("/search?format=csv&limit=0", 400, "limit must be a whole number"),
        ("/agent?agentid=7", 404, "there is no agent 7"),
    ):
        page = await open_page(api, path, status)
        assert message in page.text
    refused = await api.request("DELETE", "/", headers={"Accept": BROWSER})
    assert "DELETE" in read_page(refused, 405).text


@pytest.fixture
def many_items(database: TestDatabase) -> TestDatabase:
    """Return a database with commands of 0 to 1,234 items, and one that cannot be read."""
    fleet.insert_rows(database.dsn, "actions", [fleet.make_action(1)])
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1)])
    counts = (3, 0, 499, 1, 1234, 400, 100, 1, 500, 0, 501, 0)
    commands = [
        fleet.make_command(
            n,
            1,
            1,
            results=fleet.make_results(*(fleet.make_hit(f"/{n}/{each}") for each in range(count))),
            starttime=f"2026-01-01T00:{59 - n:02}:00Z",
        )
        for n, count in enumerate(counts, 1)
    ]
    commands.append(
        fleet.make_command(99, 1, 1, results='"none"', starttime="2026-01-01T00:00:00Z")
    )
    fleet.insert_rows(database.dsn, "commands", commands)
    return database


async def read_all_rows(api: Api, path: str) -> AsyncIterator[list[dict[str, str]]]:
    """Yield the rows of each page from *path* on."""
    while path:
        page = await open_page(api, path)
        yield page.items
        path = page.links.get("next", "")


@pytest.mark.usefixtures("many_items")
@pytest_twisted.ensureDeferred
async def test_pages_of_500_rows_have_every_item_of_a_report(api: Api) -> None:
    """A command with more items is on several pages, in every order, with every filter."""
    for other in ("&compliance=true&sort=id", "&latest=true", "&limit=2"):
        path = f"/search?{REPORT}{other}"
        pages = [rows async for rows in read_all_rows(api, path)]
        assert all(len(rows) <= 500 for rows in pages)
        found = [row.get("location", row.get("", "")) for rows in pages for row in rows]
        lines = read_lines((await api.get(f"{path.replace('&limit=2', '')}&format=ndjson")).body)
        expected = [
            item["check"]["location"]
            if "check" in item
            else f"command 99 cannot be read: {item['unreadable']['reason']}"
            f" ({item['unreadable']['target']})"
            for item in lines
        ]
        assert found == expected
        assert len(pages) >= 10 or other == "&latest=true"  # which has the items of one command


@pytest.mark.usefixtures("many_items")
@pytest_twisted.ensureDeferred
async def test_a_page_that_ends_within_a_command_has_a_link_for_browsers_alone(api: Api) -> None:
    page = await open_page(api, f"/search?{REPORT}&commandid=5")
    assert len(page.items) == 500 and "5:500" in page.links["next"]
    assert "limit" not in page.links["next"]
    answer = await api.get(api.root + page.links["next"])
    assert answer.code == 400
    assert "cursor must be taken" in answer.document["error"]["message"]
    for path in ("/search?cursor=2026-01-01 00:00:00%2B00,5:500", "/audit?cursor=x,5:500"):
        await open_page(api, path, 400)


@pytest_twisted.ensureDeferred
async def test_a_search_has_500_rows_a_page_or_fewer(database: TestDatabase, api: Api) -> None:
    database.execute(
        "insert into agents (id, name, queueloc, version, pid, starttime, heartbeattime, status)"
        " select n, 'agent ' || n, 'q', '1', 1, now(), now(), 'online'"
        " from generate_series(1, 1003) n"
    )
    for path, sizes in (
        ("/search?type=agent", [500, 500, 3]),
        ("/search?type=agent&limit=700", [500, 500, 3]),
        ("/search?type=agent&limit=400", [400, 400, 203]),
    ):
        pages = [rows async for rows in read_all_rows(api, path)]
        assert list(map(len, pages)) == sizes
        assert len({row["name"] for rows in pages for row in rows}) == 1003


@pytest_twisted.ensureDeferred
async def test_the_form_of_searches_has_every_parameter(database: TestDatabase, api: Api) -> None:
    fleet.load_fleet(database.dsn)
    page = await open_page(api, "/")
    names = [parameter.name for parameter in PARAMETERS]
    assert all(name in page.fields or name.endswith(".NAME") for name in names)
    assert page.options["type"] == ["action", "command", "agent", "investigator"]
    assert page.options["compliance"] == ["true", "false"]
    # a browser sends all fields
    empty = {name: "" for name in page.fields if name in names}
    filled = {**empty, "type": "command", "report": "complianceitems", "after": "-20000d"}
    found = await open_page(api, f"/search?{urlencode({**filled, 'compliance': 'false'})}")
    assert {row["result"] for row in found.items} == {"✗ fails"}
    assert "compliance=false" in found.text and "agentname=" not in found.text


@pytest_twisted.ensureDeferred
async def test_a_browser_sends_forms_without_authentication(
    database: TestDatabase, api: Api
) -> None:
    fields = {"name": "<b>Eve</b>", "publickey": "", "permissions": '{"search": true}'}
    form = {"Accept": BROWSER, "Content-Type": "application/x-www-form-urlencoded"}
    body = urlencode(fields).encode()
    path = "/investigator/create/"
    sent = await api.request("POST", path, headers={**form, "Origin": api.root}, data=body)
    made = read_page(sent, 201)
    assert "<b>Eve</b>" in made.text and "JSON" not in made.links
    page = await open_page(api, path)
    assert page.fields.keys() == fields.keys()
    other = {**form, "Origin": "https://evil.example"}
    refused = await api.request("POST", path, headers=other, data=body)
    assert "a page of another site" in read_page(refused, 403).text
    keys = await open_page(api, "/apikey/create/")
    assert "no API keys are made here while there is no authentication" in keys.text


@pytest_twisted.async_yield_fixture
async def closed_api(database: TestDatabase) -> AsyncIterator[Api]:
    """Return an API that requires credentials."""
    api = Api(database.dsn, authentication=True)
    yield api
    await api.stop()


@pytest_twisted.ensureDeferred
async def test_a_browser_reads_with_an_api_key_as_the_password(
    database: TestDatabase, closed_api: Api
) -> None:
    key = add_api_key(database, add_investigator(database))
    asked = await closed_api.get("/search", headers={"Accept": BROWSER})
    assert asked.headers.getRawHeaders("www-authenticate") == [
        'Bearer realm="mig-api"',
        'Basic realm="mig-api", charset="UTF-8"',
    ]
    assert "an API key as the password" in read_page(asked, 401).text
    for user in ("", "me", "ü"):
        answer = await closed_api.get("/search", headers=make_basic(key, user))
        assert read_page(answer).text
    # what a browser downloads has the same headers as a page
    csv = await closed_api.get("/search?format=csv", headers=make_basic(key))
    assert csv.code == 200
    form = await closed_api.get("/action/create/", headers=make_basic(key))
    assert "This form cannot be sent from this page" in read_page(form).text
    for wrong in (
        make_basic("mig_1_x"),
        make_basic(""),
        {"Accept": BROWSER, "Authorization": "Basic !"},
    ):
        answer = await closed_api.get("/search", headers=wrong)
        assert read_page(answer, 401).text
        assert len(answer.headers.getRawHeaders("www-authenticate", [])) == 2


@pytest_twisted.ensureDeferred
async def test_a_password_is_not_accepted_for_anything_else(
    database: TestDatabase, closed_api: Api
) -> None:
    """A browser sends it also with what a page of another site makes it send."""
    key = add_api_key(database, add_investigator(database))
    basic = make_basic(key)
    other_site = {**basic, "Sec-Fetch-Site": "cross-site"}
    for method, headers in (
        ("POST", {**basic, "Origin": closed_api.root}),
        ("HEAD", basic),
        ("GET", {**basic, "Accept": "*/*"}),
        ("GET", {**basic, "Accept": "application/json, text/html"}),
        ("GET", {**other_site, "Sec-Fetch-Dest": "iframe"}),
        ("GET", {**other_site, "Sec-Fetch-Dest": "empty"}),
    ):
        path = "/action/create/" if method == "POST" else "/search"
        form = {"Content-Type": "application/x-www-form-urlencoded"} if method == "POST" else {}
        answer = await closed_api.request(method, path, headers={**headers, **form})
        assert answer.code == 401, (method, headers)
        assert answer.get_header("www-authenticate") == 'Bearer realm="mig-api"'
    link = {**other_site, "Sec-Fetch-Dest": "document"}
    assert (await closed_api.get("/search", headers=link)).code == 200
    both = {**basic, **with_key(key)}
    assert "2 credentials" in read_page(await closed_api.get("/search", headers=both), 401).text


def test_a_daemon_without_pages_does_not_load_what_they_are_made_of() -> None:
    """It would cost each process some memory and time at its start."""
    code = "import sys, mig.service.tap, mig.service.application; print('jinja2' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_the_style_sheet_loads_nothing() -> None:
    sheet = (Path(urls.__file__).parents[1] / "formats" / "pages" / "style.css").read_text()
    assert "url(" not in sheet and "@import" not in sheet
