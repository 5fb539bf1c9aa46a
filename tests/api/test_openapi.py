"""The API describes itself: in OpenAPI for programs, and on a page for people."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest_twisted
from openapi_spec_validator import validate
from twisted.internet.threads import deferToThread

from mig.api.descriptions import describe_statuses
from mig.api.docs import FILES
from mig.errors import MigError, RequestError
from mig.limits import Limits
from mig.search.parameters import REPORT_NAMES, SEARCH_TYPES
from mig.search.records import REPORT_RECORDS, TYPE_RECORDS
from mig.values import MAX_ID
from tests.support.api import Api
from tests.support.browser import Browser, Page
from tests.support.callers import add_api_key, add_investigator
from tests.support.postgres import TestDatabase

SWAGGER_UI = {  # of swagger-ui-dist 5.35.0
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
    "LICENSE": "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
    "NOTICE": "0d20d1adef18aee3f40dd258172155521ce702ac445cb5f7b7d60ed32dad2fb2",
    "swagger-ui-bundle.js.LICENSE.txt": (
        "37eb6e7e59aed57b2c1acf076574b818ea07b74265717e0bd67b59e0baf9abbb"
    ),
}


def list_errors(error: type[MigError]) -> Iterator[type[MigError]]:
    yield error
    for derived in error.__subclasses__():
        yield from list_errors(derived)


@pytest_twisted.ensureDeferred
async def test_the_description_is_valid_openapi(api: Api) -> None:
    answer = await api.get("/openapi.json")
    assert answer.get_header("content-type") == "application/json"
    described = json.loads(answer.body)
    validate(described)
    assert (await api.get("/openapi.json")).body == answer.body
    search: Any = described["paths"]["/search"]["get"]
    assert search["security"] == [
        {"key": ["search"]},
        {"bearer": ["search"]},
        {"token": ["search"]},
    ]
    assert described["paths"]["/heartbeat"]["get"]["security"] == []
    assert {"200", "400", "401", "403", "404", "503"} < search["responses"].keys()
    schemas = described["components"]["schemas"]
    assert {"Agent", "ComplianceItem", "Document"} < schemas.keys()
    references = {ref for ref in find_references(described) if ref.startswith("#/components/")}
    assert {ref.split("/")[3] for ref in references if "/schemas/" in ref} <= schemas.keys()


def find_references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for member in value.values():
            yield from find_references(member)
    elif isinstance(value, list):
        for member in value:
            yield from find_references(member)


def test_every_status_of_an_error_is_described() -> None:
    statuses = {error.status for error in list_errors(RequestError)} | {MigError.status}
    assert describe_statuses(Limits()).keys() == statuses


def test_every_search_has_a_described_record() -> None:
    assert REPORT_RECORDS.keys() == set(REPORT_NAMES)
    assert TYPE_RECORDS.keys() == set(SEARCH_TYPES)


@pytest_twisted.ensureDeferred
async def test_the_files_of_the_page_are_those_of_swagger_ui(api: Api) -> None:
    for name, media_type in FILES.items():
        answer = await api.get(f"/docs/{name}")
        assert answer.get_header("content-type") == f"{media_type}; charset=utf-8"
        if name in SWAGGER_UI:
            assert hashlib.sha256(answer.body).hexdigest() == SWAGGER_UI[name]
    assert FILES.keys() - SWAGGER_UI.keys() == {"init.js"}
    refused = await api.get("/docs/..%2F..%2Frecord.py")
    assert refused.code == 404


@pytest_twisted.ensureDeferred
async def test_a_large_file_of_the_page_is_compressed(api: Api, tmp_path: Path) -> None:
    url, file = f"{api.base}/docs/swagger-ui-bundle.js", tmp_path / "file"
    fetch = ["curl", "-sS", "--compressed", "-w", "%{size_download}", "-o", str(file), url]
    downloaded = await deferToThread(lambda: subprocess.check_output(fetch, timeout=60))
    assert hashlib.sha256(file.read_bytes()).hexdigest() == SWAGGER_UI["swagger-ui-bundle.js"]
    assert int(downloaded) < file.stat().st_size / 2


@pytest_twisted.async_yield_fixture
async def closed_api(database: TestDatabase) -> AsyncIterator[Api]:
    """Return an API that requires credentials."""
    api = Api(database.dsn, authentication=True)
    yield api
    await api.stop()


def send_search(page: Page, key: str, agent_id: str) -> tuple[int, str]:
    """Authorize the page, and search by it; return how many requests it shows, and the URL."""
    page.wait_until("document.querySelector('.opblock')")
    count = page.evaluate("document.querySelectorAll('.opblock').length")
    page.click(".auth-wrapper .authorize")
    page.type_text(".dialog-ux input", key)
    page.click(".dialog-ux .auth-btn-wrapper .authorize")
    page.click(".dialog-ux .close-modal")
    search = "#operations-search-get_search"
    page.click(f"{search} .opblock-summary-control")
    page.click(f"{search} .try-out__btn")
    page.type_text(f"{search} tr[data-param-name=agentid] input:enabled", agent_id)
    page.click(f"{search} .execute")
    row = f"{search} .live-responses-table .response"
    status = f"document.querySelector('{row} .response-col_status')"
    page.wait_until(f"{status} && {status}.innerText.startsWith('200')")
    return count, page.evaluate(f"document.querySelector('{search} .request-url').innerText")


@pytest_twisted.ensureDeferred
async def test_the_page_sends_requests_within_its_policy(
    closed_api: Api, database: TestDatabase, browser: Browser
) -> None:
    key = add_api_key(database, add_investigator(database))

    def visit() -> tuple[int, str, list[str]]:
        with browser.open_page(f"{closed_api.base}/docs") as page:
            return *send_search(page, key, str(MAX_ID)), page.problems

    count, url, problems = await deferToThread(visit)
    described = json.loads((await closed_api.get("/openapi.json")).body)
    assert count == sum(map(len, described["paths"].values()))
    assert url.endswith(f"{closed_api.base}/search?agentid={MAX_ID}")
    assert problems == []
