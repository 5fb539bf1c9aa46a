"""A compressed stream that was suspended goes on, and its seal says so."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
from collections.abc import Callable
from typing import Final

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from mig.limits import Limits
from tests.support import fleet
from tests.support.api import Api
from tests.support.encodings import decode_whole
from tests.support.postgres import TestDatabase
from tests.support.reactor import port_number, record_log

COMMANDS: Final = 1_500
HITS: Final = 5
REPORT: Final = (
    f"/api/v1/search?type=command&report=complianceitems&{fleet.ANY_TIME}&format=ndjson&seal=true"
)
LIMITS: Final = Limits(stream_connections=1, pause_seconds=0.05, wanted_pause_seconds=0.05)


def insert_random_commands(database: TestDatabase) -> None:
    """Insert commands whose report is some 15 MB, also compressed."""
    fleet.insert_rows(database.dsn, "actions", [fleet.make_action(1)])
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1)])
    database.execute(
        "insert into commands select n, 1, 1, 'success', json_build_array(json_build_object("
        " 'elements', json_build_object('a', (select json_agg(json_build_object('file',"
        "  (select string_agg(md5(random()::text || n || hit || m), '')"
        "   from generate_series(1, 100) m), 'search', '{}'::json))"
        f"  from generate_series(1, {HITS}) hit)))),"
        " now() - n * interval '1 s', now()"
        f" from generate_series(1, {COMMANDS}) n"
    )


def begin_to_read(api: Api, encoding: str) -> http.client.HTTPResponse:
    """Return a response of which only the first bytes have been read."""
    connection = http.client.HTTPConnection("127.0.0.1", port_number(api.port), timeout=60)
    connection.connect()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.request("GET", REPORT, headers={"Host": "localhost", "Accept-Encoding": encoding})
    response = connection.getresponse()
    assert response.headers["content-encoding"] == encoding
    return response


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest_twisted.ensureDeferred
async def test_a_compressed_stream_goes_on_after_a_pause(
    start_api: Callable[[Limits], Api], database: TestDatabase, encoding: str
) -> None:
    insert_random_commands(database)
    api = start_api(LIMITS)
    with record_log() as log:
        slow = await deferToThread(begin_to_read, api, encoding)
        first = await deferToThread(slow.read, 1_000)
        # it gets the only connection as soon as the other one is suspended
        fast = await deferToThread(begin_to_read, api, encoding)
        quick = await deferToThread(fast.read)
        late = first + await deferToThread(slow.read)
    assert not log.failures
    assert len(late) > 5_000_000
    for body, is_snapshot in ((quick, None), (late, False)):
        document = decode_whole(body, encoding)
        lines, _, end = document[:-1].rpartition(b"\n")
        seal = json.loads(end)["end"]
        assert seal["rows"] == COMMANDS and seal["items"] == COMMANDS * HITS
        assert seal["sha256"] == hashlib.sha256(lines + b"\n").hexdigest()
        assert is_snapshot is None or seal["snapshot"] is is_snapshot
        links = {json.loads(line)["link"] for line in lines.split(b"\n")}
        assert len(links) == COMMANDS and lines.count(b"\n") == COMMANDS * HITS - 1
