"""Readers that are slow or stop reading take nothing away from anyone else."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from mig.limits import Limits
from tests.support import fleet
from tests.support.api import Api
from tests.support.json_types import Json
from tests.support.postgres import TestDatabase
from tests.support.reactor import port_number, record_log

COMMANDS: Final = 4_000
ITEMS_PER_COMMAND: Final = 5
REPORT: Final = (
    f"/api/v1/search?type=command&report=complianceitems&limit={COMMANDS}&{fleet.ANY_TIME}"
)
"""A report of some 8 MB, more than fits into the buffers of a connection."""

NEVER: Final = 10.0**6


@dataclass(frozen=True, kw_only=True)
class Report:
    """The answer to a report: its number of items, and its links by relation."""

    item_count: int
    links: dict[str, str]


class ReportReader:
    """A client that reads a report only as far as it is told."""

    def __init__(self, api: Api, path: str = REPORT, source: str = "127.0.0.1") -> None:
        self._socket = socket.socket()
        self._socket.settimeout(60)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._socket.bind((source, 0))
        self._socket.connect(("127.0.0.1", port_number(api.port)))
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        self._response = http.client.HTTPResponse(self._socket)
        self._parts: list[bytes] = []

    def begin(self) -> int:
        """Read the head and the first bytes; return the status."""
        self._response.begin()
        self._parts.append(self._response.read(1000))
        return self._response.status

    def read_to_end(self) -> Report:
        """Read what is left of the report.

        :raises ConnectionResetError: when the connection is cut.
        """
        self._parts.append(self._response.read())
        collection: Json = json.loads(b"".join(self._parts))["collection"]
        self.close()
        hrefs = [item["href"] for item in collection["items"]]
        assert len(set(hrefs)) * ITEMS_PER_COMMAND == len(hrefs), "an item is missing or repeated"
        links = {link["rel"]: link["href"] for link in collection.get("links", ())}
        return Report(item_count=len(hrefs), links=links)

    def close(self) -> None:
        self._response.close()
        self._socket.close()


@pytest_twisted.ensureDeferred
async def test_small_searches_do_not_wait_for_stalled_readers(
    start_api: Callable[[Limits], Api], large_database: TestDatabase
) -> None:
    limits = Limits(stream_wait_seconds=1, pause_seconds=NEVER, wanted_pause_seconds=NEVER)
    api = start_api(limits)
    readers = [await deferToThread(ReportReader, api) for _ in range(limits.stream_connections)]
    for reader in readers:
        assert await deferToThread(reader.begin) == 200
    assert not api.database.can_stream()
    for type_ in ("agent", "action", "investigator", "command"):
        answer = await api.get(f"/search?type={type_}&limit=2&{fleet.ANY_TIME}")
        assert answer.code == 200
    long = await api.get(REPORT.removeprefix("/api/v1"))
    assert long.code == 503 and long.get_header("Retry-After")
    for reader in readers:
        await deferToThread(reader.close)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(stream_connections=1, pause_seconds=0.05, wanted_pause_seconds=0.05),
        Limits(stream_connections=1, pause_seconds=NEVER, wanted_pause_seconds=0.05),
    ],
    ids=["after a pause", "for another request"],
)
@pytest_twisted.ensureDeferred
async def test_a_reader_that_paused_gets_the_rest_of_its_report(
    start_api: Callable[[Limits], Api], large_database: TestDatabase, limits: Limits
) -> None:
    api = start_api(limits)
    with record_log() as log:
        slow, fast = [await deferToThread(ReportReader, api) for _ in range(2)]
        for reader in (slow, fast):
            assert await deferToThread(reader.begin) == 200
        reports = [await deferToThread(reader.read_to_end) for reader in (fast, slow)]
    assert not log.failures
    assert [r.item_count for r in reports] == [COMMANDS * ITEMS_PER_COMMAND] * 2
    resumed = reports[1].links["resumed"]
    path = resumed.partition(api.root)[2]
    later = await deferToThread(ReportReader, api, path)
    assert await deferToThread(later.begin) == 200
    from_first_snapshot = (
        reports[1].item_count - (await deferToThread(later.read_to_end)).item_count
    )
    assert 0 < from_first_snapshot < reports[1].item_count


@pytest_twisted.ensureDeferred
async def test_a_report_in_one_snapshot_has_no_such_link(
    api: Api, large_database: TestDatabase
) -> None:
    reader = await deferToThread(ReportReader, api)
    assert await deferToThread(reader.begin) == 200
    report = await deferToThread(reader.read_to_end)
    assert report.item_count == COMMANDS * ITEMS_PER_COMMAND
    assert list(report.links) == ["next"]


@pytest_twisted.ensureDeferred
async def test_a_client_with_every_connection_gives_one_to_another_client(
    start_api: Callable[[Limits], Api], large_database: TestDatabase
) -> None:
    api = start_api(Limits(stream_connections=4, pause_seconds=NEVER, stream_wait_seconds=NEVER))
    readers = [await deferToThread(ReportReader, api) for _ in range(4)]
    assert [await deferToThread(reader.begin) for reader in readers] == [200] * 4
    assert not api.database.can_stream()
    readers.append(await deferToThread(ReportReader, api, REPORT, "127.0.0.2"))
    assert await deferToThread(readers[-1].begin) == 200
    reports = [await deferToThread(reader.read_to_end) for reader in readers]
    assert [report.item_count for report in reports] == [COMMANDS * ITEMS_PER_COMMAND] * 5
