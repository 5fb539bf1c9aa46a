"""A new format is a class and an entry in the table; nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import pytest_twisted

from mig.formats import FORMATS
from mig.formats.format import ActionFields, AnyRecord, DocumentTail, FormatOptions
from mig.hypermedia.document import Link
from mig.hypermedia.urls import Urls
from mig.model.record import Record, encode_json
from tests.support import fleet
from tests.support.api import Api
from tests.support.postgres import TestDatabase

LINES = "text/x-lines"
KINDS = ("agent", "action", "command", "investigator")


class LinesFormat:
    """A format with a line for each record, after its noun, and for each compliance item."""

    media_types = (LINES,)
    charset = ""
    file_extension = ""
    is_paged = True
    is_flat = False
    ids_as_text = False
    needs_seal = False
    separator = b""
    max_items = None

    def __init__(self, urls: Urls, options: FormatOptions) -> None:
        pass

    def encode_head(self, href: str) -> bytes:
        return b"begin\n"

    def encode_tail(self, tail: DocumentTail) -> bytes:
        return b"end\n"

    def encode_record(self, record: AnyRecord, links: Sequence[Link] = ()) -> bytes:
        assert isinstance(record, Record)
        return record.noun.encode() + b" " + record.encode() + b"\n"

    def make_check_encoder(
        self, *, name: str, type_: str, value: str, compliance: bool
    ) -> Callable[[str], bytes]:
        return lambda location: f"{location}|{name}|{compliance}".encode()

    def encode_action_part(self, action: ActionFields) -> bytes:
        return action.policy.level.encode()

    def encode_agent_part(self, target: str) -> bytes:
        return target.encode()

    def encode_command_parts(
        self, link: str, agent: bytes, action: bytes, timestamp: str
    ) -> tuple[bytes, bytes]:
        return b"item " + agent + b"|" + action + b"|", b"|" + timestamp.encode() + b"\n"


@pytest.fixture
def add_lines_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the format to the table."""
    monkeypatch.setitem(FORMATS, "lines", LinesFormat)


async def get_lines(api: Api, path: str) -> list[str]:
    """Return the lines of an answer between its first and its last."""
    answer = await api.get(path, headers={"Accept": LINES})
    assert answer.headers.getRawHeaders("content-type") == [LINES]
    first, *found, last = answer.body.decode().splitlines()
    assert (first, last) == ("begin", "end")
    return found


@pytest.mark.usefixtures("add_lines_format")
@pytest_twisted.ensureDeferred
async def test_every_record_and_item_is_written_in_a_new_format(
    database: TestDatabase, api: Api
) -> None:
    fleet.load_fleet(database.dsn)
    for kind in KINDS:
        rows = fleet.FLEET[f"{kind}s"]
        found = await get_lines(api, f"/search?type={kind}&{fleet.ANY_TIME}")
        assert len(found) == len(rows)
        assert {line.partition(" ")[0] for line in found} == {kind}
        [one] = await get_lines(api, f"/{kind}?{kind}id={rows[0]['id']}")
        assert one.startswith(f"{kind} {encode_json({'id': rows[0]['id']}).decode()[:-1]},")


@pytest.mark.usefixtures("add_lines_format")
@pytest_twisted.ensureDeferred
async def test_a_report_has_the_same_items_in_every_format(
    database: TestDatabase, api: Api
) -> None:
    fleet.load_fleet(database.dsn)
    report = f"/search?type=command&report=complianceitems&{fleet.ANY_TIME}"
    items = [item["data"][0]["value"] for item in (await api.get_collection(report))["items"]]
    expected = [
        "item {target}|{level}|{location}|{name}|{compliance}|{timestamp}".format(
            target=item["target"],
            level=item["policy"]["level"],
            location=item["check"]["location"],
            name=item["check"]["name"],
            compliance=item["compliance"],
            timestamp=item["timestamp"],
        )
        for item in items
    ]
    assert await get_lines(api, report) == expected


@pytest.mark.usefixtures("add_lines_format")
@pytest_twisted.ensureDeferred
async def test_errors_have_one_format(api: Api) -> None:
    """This includes a search of a client of 2017 that finds nothing."""
    for query, status in (("limit=0", 400), ("offset=0", 404), ("type=agent&target=true", 404)):
        answer = await api.get(f"/search?{query}", headers={"Accept": LINES})
        assert answer.code == status
        assert answer.get_header("content-type") == "application/vnd.collection+json"
        assert answer.document["error"]["message"]
    assert await get_lines(api, "/search") == []


@pytest_twisted.ensureDeferred
async def test_a_format_that_is_not_in_the_table_is_not_served(
    database: TestDatabase, api: Api
) -> None:
    answer = await api.get("/", headers={"Accept": LINES})
    assert answer.headers.getRawHeaders("content-type") == ["application/vnd.collection+json"]
