"""The library trusts the system's certificates, and follows pages while rows are added."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.web.client import Agent as HTTPAgent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from mig.client import ConnectionFailedError, MIGClient
from mig.model.search import DEFAULT_LIMIT
from tests.support.api import Api
from tests.support.certificates import HOUR, issue_certificate
from tests.support.postgres import TestDatabase
from tests.support.reactor import reactor
from tests.support.scripted_server import ScriptedAnswer, ScriptedServer, make_document

AGENTS = DEFAULT_LIMIT + 500
INSERT = """
insert into agents (id, name, queueloc, version, pid, starttime, heartbeattime, status)
select n, 'a', 'a', '1', 1, now() - (n %% 100000) * interval '1 s', now(), 'heartbeating'
from generate_series(%s, %s) n
"""


@pytest.mark.parametrize("refused", ["", "no authority", "another name", "expired"])
@pytest_twisted.ensureDeferred
async def test_a_key_goes_only_to_a_host_that_the_system_trusts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refused: str
) -> None:
    authority, other = issue_certificate("an authority"), issue_certificate("another")
    certificate = issue_certificate(
        "other.example" if refused == "another name" else "localhost",
        other if refused == "no authority" else authority,
        begin=-2 * HOUR,
        end=-HOUR if refused == "expired" else HOUR,
    )
    trusted, _ = authority.write(tmp_path, "authority")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    answer = ScriptedAnswer(make_document(("agent", {"id": 1})))
    server = ScriptedServer(answer, certificate=certificate)
    try:
        async with MIGClient(server.url, "secret") as client:
            if not refused:
                assert (await client.agent(1)).id == 1
                assert b"secret" in server.requests[0]
                return
            with pytest.raises(ConnectionFailedError) as caught:
                await client.agent(1)
        assert not caught.value.is_temporary
        assert server.requests == []
    finally:
        await server.stop()


@implementer(IAgent)
class FormAgent:
    """An agent whose service has NDJSON, or only Collection+JSON; it counts the requests."""

    def __init__(self, *, has_ndjson: bool) -> None:
        self._agent = HTTPAgent(reactor)
        self._has_ndjson = has_ndjson
        self.count = 0

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        self.count += 1
        if not self._has_ndjson:
            uri = uri.replace(b"&format=ndjson&seal=true", b"")
        sent: Deferred[IResponse] = self._agent.request(method, uri, headers, bodyProducer)
        return sent


@pytest.mark.parametrize("has_ndjson", [True, False], ids=["ndjson", "collection"])
@pytest_twisted.ensureDeferred
async def test_rows_that_are_added_meanwhile_repeat_and_hide_no_result(
    api: Api, database: TestDatabase, has_ndjson: bool
) -> None:
    database.execute(INSERT, (1, AGENTS))
    agent: Any = FormAgent(has_ndjson=has_ndjson)
    client = MIGClient(api.base, agent=agent)

    async def list_ids(**filters: Any) -> Sequence[int]:
        found: list[int] = []
        async for each in client.search("agent", after="-1000d", **filters):
            if not found:  # newer than all others, and among them
                database.execute(INSERT, (100_001 + agent.count * 1000, 100_900))
                database.execute(INSERT, (205_000 + agent.count * 1000, 206_500))
            found.append(each.id)
        return found

    found = await list_ids()
    assert len(set(found)) == len(found)
    assert set(range(1, AGENTS + 1)) <= set(found)
    assert agent.count == (1 if has_ndjson else 2)
    assert len(await list_ids(limit=700)) == 700
    assert agent.count == (2 if has_ndjson else 3)
