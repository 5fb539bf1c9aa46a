"""A stream ends cleanly when its client or its database does something unexpected."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Callable, Iterator
from random import Random

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from mig.limits import Limits
from tests.support import fleet
from tests.support.api import Api
from tests.support.postgres import MANY_COMMANDS, TestDatabase
from tests.support.reactor import LogRecorder, port_number, record_log, wait_until

REPORT = f"/api/v1/search?type=command&report=complianceitems&limit=100000&{fleet.ANY_TIME}"
BACKENDS = (
    "select pid from pg_stat_activity"
    " where datname = current_database() and application_name like 'mig-api _%%'"
)


@pytest.fixture
def log() -> Iterator[LogRecorder]:
    """What is logged during the test."""
    with record_log() as log:
        yield log


class ReportClient:
    """A client that reads the report only as far as it is told."""

    def __init__(self, api: Api, version: str = "1.1") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port_number(api.port)), timeout=20)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        request = f"GET {REPORT} HTTP/{version}\r\nHost: localhost\r\n\r\n"
        self._socket.sendall(request.encode())
        self.bytes_read = 0
        self.first = b""

    def read_at_least(self, count: int) -> None:
        while self.bytes_read < count:
            received = self._socket.recv(65536)
            assert received, "the connection ended"
            self.first = self.first or received
            self.bytes_read += len(received)

    @property
    def operation(self) -> str:
        """The id of the operation, from the head of the answer."""
        return self.first.partition(b"X-Request-Id: ")[2].split()[0].decode()

    def read_to_end(self) -> bytes:
        """Read to the end, and return the last bytes.

        :raises ConnectionResetError: when the connection is cut.
        """
        last = b""
        while received := self._socket.recv(65536):
            self.first = self.first or received
            last = (last + received)[-5:]
        return last

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def disconnect(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("how", ["disconnect", "half_close"])
@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_frees_its_backend(
    api: Api, large_database: TestDatabase, how: str, log: LogRecorder
) -> None:
    client = await deferToThread(ReportClient, api)
    await deferToThread(client.read_at_least, 300_000)
    assert len(large_database.execute(BACKENDS)) == 1
    await deferToThread(getattr(client, how))
    await wait_until(lambda: not large_database.execute(BACKENDS))
    assert not log.failures
    again = await api.get(f"/search?type=command&limit=1&{fleet.ANY_TIME}")
    assert again.code == 200


@pytest.mark.parametrize("how", ["disconnect", "half_close"])
@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_before_the_first_row_cancels_the_query(
    api: Api, large_database: TestDatabase, how: str
) -> None:
    large_database.execute(
        "create function slow(json) returns text language sql as"
        " $$ select pg_sleep(600)::text $$;"
        " alter table commands rename to stored;"
        " create view commands as select s.*, slow(results) from stored s where slow(results) = '';"
        " grant select on commands to migapi"
    )
    client = await deferToThread(ReportClient, api)
    await wait_until(lambda: large_database.execute(BACKENDS))
    await deferToThread(getattr(client, how))
    await wait_until(lambda: not large_database.execute(BACKENDS))


@pytest_twisted.ensureDeferred
async def test_a_stalled_client_is_disconnected_and_frees_its_backend(
    start_api: Callable[[Limits], Api], large_database: TestDatabase
) -> None:
    api = start_api(Limits(stall_seconds=0.2, stall_bytes_per_second=10**9))
    client = await deferToThread(ReportClient, api)
    await deferToThread(client.read_at_least, 300_000)
    await wait_until(lambda: not large_database.execute(BACKENDS))
    with pytest.raises(ConnectionResetError):
        await deferToThread(client.read_to_end)


@pytest_twisted.ensureDeferred
async def test_a_stream_that_takes_too_long_is_ended(
    start_api: Callable[[Limits], Api], large_database: TestDatabase
) -> None:
    client = await deferToThread(ReportClient, start_api(Limits(stream_seconds=0.3)))
    await deferToThread(client.read_at_least, 300_000)
    await wait_until(lambda: not large_database.execute(BACKENDS))
    with pytest.raises(ConnectionResetError):
        await deferToThread(client.read_to_end)


@pytest_twisted.ensureDeferred
async def test_a_client_has_a_bounded_number_of_reports_at_a_time(
    start_api: Callable[[Limits], Api], large_database: TestDatabase
) -> None:
    """The end of one makes room for the next; what reads few rows does not count."""
    api = start_api(Limits(streams=1, loopback=True, short_search_rows=10_000))
    small, large = (f"/search?type=agent&limit={n}&{fleet.ANY_TIME}" for n in (10_000, 10_001))
    report = f"/search?type=command&{fleet.ANY_TIME}&report="
    newest = f"{report}complianceitems&latest=true&limit=1"
    found = re.search(r"cursor=[^\"]+", (await api.get(newest)).body.decode())
    assert found
    summary, later_page = f"{report}compliancesummary&groupby=check", f"{newest}&{found[0]}"
    client = await deferToThread(ReportClient, api)
    await deferToThread(client.read_at_least, 300_000)
    refused = await api.get(large)
    assert (refused.code, refused.get_header("retry-after")) == (429, "5")
    assert refused.get_header("ratelimit-policy") == (
        '"address-streams";q=1;qu="concurrent-requests"'
    )
    assert "more than 1 reports and large searches of one address" in refused.body.decode()
    elsewhere = await api.get(large, headers={"X-Forwarded-For": "192.0.2.1"})
    assert elsewhere.code == 200
    codes = [(await api.get(path)).code for path in (small, newest, later_page, summary)]
    assert codes == [200, 200, 429, 429]
    await deferToThread(client.disconnect)
    await wait_until(lambda: not large_database.execute(BACKENDS))
    for _ in range(1000):
        answer = await api.get(large)
        if answer.code != 429:
            break
    assert answer.code == 200
    assert (await api.get(large)).code == 200


@pytest_twisted.ensureDeferred
async def test_an_administrator_finds_and_stops_a_stream(
    api: Api, large_database: TestDatabase
) -> None:
    client = await deferToThread(ReportClient, api)
    await deferToThread(client.read_at_least, 300_000)
    [(pid, name)] = large_database.execute(
        BACKENDS.replace("select pid", "select pid, application_name")
    )
    assert name == f"mig-api {client.operation}"
    large_database.execute("select pg_terminate_backend(%s)", (pid,))
    with pytest.raises(ConnectionResetError):
        await deferToThread(client.read_to_end)


@pytest_twisted.ensureDeferred
async def test_each_stream_that_postgresql_cuts_off_is_one_warning(
    api: Api, large_database: TestDatabase, log: LogRecorder
) -> None:
    """It names the operation and the server's reason, and there is no traceback."""
    large_database.execute(
        "create function slow(json) returns json stable language plpgsql as"
        " $$ begin perform pg_sleep(600); return $1; end $$;"
        " alter table commands rename to stored;"
        " create view commands as select id, actionid, agentid, status, starttime, finishtime,"
        " case when id = 1000 then slow(results) else results end as results from stored;"
        " grant select on commands to migapi"
    )
    clients = [await deferToThread(ReportClient, api) for _ in range(Limits().stream_connections)]
    cut = [deferToThread(client.read_to_end) for client in clients]
    # a backend that is stopped while it sends rows cannot say why
    asleep = f"{BACKENDS} and wait_event = 'PgSleep'"

    await wait_until(lambda: len(large_database.execute(asleep)) == len(clients))
    large_database.execute(f"select pg_terminate_backend(pid) from ({BACKENDS}) b")
    for each in cut:
        with pytest.raises(ConnectionResetError):
            await each
    operations = [client.operation for client in clients]
    warnings = [line for line in log.lines if "was cut off" in line]
    assert sorted(line.split()[1] for line in warnings) == sorted(operations)
    for line in warnings:
        assert "terminating connection due to administrator command" in line
    assert not log.failures


@pytest.mark.parametrize("byte_count", [1, *Random(8).sample(range(2, 20_000_000), 6)])
@pytest_twisted.ensureDeferred
async def test_a_client_can_tell_that_its_backend_was_killed(
    api: Api, large_database: TestDatabase, byte_count: int
) -> None:
    client = await deferToThread(ReportClient, api)
    await deferToThread(client.read_at_least, byte_count)
    large_database.execute(f"select pg_terminate_backend(pid) from ({BACKENDS}) b")
    with pytest.raises(ConnectionResetError):
        await deferToThread(client.read_to_end)
    await wait_until(lambda: not large_database.execute(BACKENDS))


@pytest_twisted.ensureDeferred
async def test_a_complete_report_ends_as_http_requires(
    api: Api, large_database: TestDatabase
) -> None:
    def count_items() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port_number(api.port), timeout=60)
        connection.request("GET", REPORT, headers={"Host": "localhost"})
        body = connection.getresponse().read()
        connection.close()
        return body.count(b'"name":"compliance item"')

    assert await deferToThread(count_items) == MANY_COMMANDS * 5
