"""The library keeps little, does not wait for ever, and closes what nobody reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import ssl
from twisted.internet.defer import CancelledError, Deferred, fail, gatherResults
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.error import ConnectingCancelledError, ConnectionLost, DNSLookupError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web._newclient import RequestTransmissionFailed
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from mig.client import ConnectionFailedError, IncompleteResponseError, MIGClient
from mig.client.body import MAX_BUFFERED_BYTES, BodyReader
from mig.client.session import MAX_RETRIES
from tests.support import fleet
from tests.support.api import Api
from tests.support.certificates import issue_certificate
from tests.support.postgres import TestDatabase
from tests.support.reactor import (
    listen_on,
    port_number,
    reactor,
    stop_listening,
    wait_until,
)
from tests.support.site_client import SiteClient

STALL_SECONDS = 60.0
CHUNK = bytes(65_536)


def make_body(clock: Clock | None = None) -> tuple[BodyReader, StringTransport]:
    body: Any = BodyReader(clock or Clock(), STALL_SECONDS)
    transport = StringTransport()
    body.makeConnection(transport)
    return body, transport


def start_reading(body: BodyReader) -> Deferred[bytes]:
    return Deferred.fromCoroutine(body.read())


@pytest_twisted.ensureDeferred
async def test_the_sender_waits_while_nobody_reads() -> None:
    body, transport = make_body()
    chunks = MAX_BUFFERED_BYTES // len(CHUNK) + 1
    for number in range(chunks):
        assert transport.producerState == "producing", number
        body.dataReceived(CHUNK)
    assert transport.producerState == "paused"
    for _ in range(chunks):
        assert await body.read() == CHUNK
    assert transport.producerState == "paused"
    waiting = start_reading(body)
    assert transport.producerState == "producing"
    body.dataReceived(b"more")
    assert await waiting == b"more"


@pytest_twisted.ensureDeferred
async def test_a_request_that_is_cancelled_is_not_sent_again() -> None:
    requests: list[bytes] = []
    arrived: Deferred[None] = Deferred()

    class Silent(Protocol):
        def dataReceived(self, data: bytes) -> None:
            requests.append(data)
            arrived.callback(None)

    listener = listen_on("tcp:0")
    url = f"http://localhost:{listener.port}"
    port = listener.start_accepting(reactor, Factory.forProtocol(Silent))
    try:
        client = MIGClient(url)
        asked = Deferred.fromCoroutine(client.action(1))
        await arrived
        asked.cancel()
        with pytest.raises(CancelledError):
            await asked
        assert len(requests) == 1
    finally:
        await stop_listening(port)


@pytest.mark.parametrize("error", [ConnectingCancelledError(None), DNSLookupError("a")])
@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_cancelled_is_not_another_error(error: Exception) -> None:
    agent = SilentAgent(lambda: Deferred(lambda waiting: waiting.errback(error)))
    asked = Deferred.fromCoroutine(MIGClient("http://a", agent=agent).action(1))
    asked.cancel()
    with pytest.raises(CancelledError):
        await asked


@pytest_twisted.ensureDeferred
async def test_a_stalled_answer_is_incomplete() -> None:
    clock = Clock()
    body, transport = make_body(clock)
    clock.advance(STALL_SECONDS)  # nobody waits, so nothing is late
    waiting = start_reading(body)
    clock.advance(STALL_SECONDS - 1)
    assert not waiting.called
    clock.advance(1)
    with pytest.raises(IncompleteResponseError, match="nothing arrived for 60 seconds"):
        await waiting
    assert transport.disconnecting


@pytest_twisted.ensureDeferred
async def test_a_lost_connection_is_told_after_what_has_arrived() -> None:
    body, _ = make_body()
    body.dataReceived(b"all")
    body.connectionLost(Failure(ConnectionLost()))
    assert await body.read() == b"all"
    with pytest.raises(IncompleteResponseError, match="connection was lost"):
        await body.read()
    whole, transport = make_body()
    whole.connectionLost(Failure(ResponseDone()))
    assert await whole.read() == b""
    whole.abort()
    assert not transport.disconnecting


@pytest_twisted.ensureDeferred
async def test_a_reader_that_is_cancelled_leaves_nothing_behind() -> None:
    clock = Clock()
    body, _ = make_body(clock)
    waiting = start_reading(body)
    waiting.addErrback(lambda _: None)
    waiting.cancel()
    assert clock.getDelayedCalls() == []
    body.dataReceived(b"late")
    assert await body.read() == b"late"


@implementer(IAgent)
class SilentAgent:
    """An agent that never answers, and counts its requests.

    :param start: returns what each request waits for.
    """

    def __init__(self, start: Callable[[], Deferred[IResponse]] = Deferred) -> None:
        self._start = start
        self.count = 0
        self.uri = b""

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        self.count += 1
        self.uri = uri
        return self._start()


@pytest_twisted.ensureDeferred
async def test_a_service_that_never_answers_is_an_error() -> None:
    clock, agent = Clock(), SilentAgent()
    client = MIGClient("http://localhost", reactor=clock, agent=agent, stall_seconds=STALL_SECONDS)
    waiting = Deferred.fromCoroutine(client.home())
    while not waiting.called:
        clock.advance(STALL_SECONDS)
    with pytest.raises(ConnectionFailedError, match="no answer for 60 seconds"):
        await waiting
    assert agent.count == MAX_RETRIES + 1


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://[::1]:1664/api/v1/", b"http://[::1]:1664/api/v1/dashboard"),
        ("https://mig_api.example.com", b"https://mig_api.example.com/dashboard"),
        ("https://über.example.com", b"https://xn--ber-goa.example.com/dashboard"),
    ],
)
def test_every_kind_of_host_is_reached(url: str, sent: bytes) -> None:
    agent = SilentAgent()
    Deferred.fromCoroutine(MIGClient(url, reactor=Clock(), agent=agent).dashboard())
    assert agent.uri == sent


@pytest.mark.parametrize(
    "url", ["https://ü..example.com", "https://mig:port/", "https://[::", "https://mig example.com"]
)
@pytest_twisted.ensureDeferred
async def test_what_is_not_a_url_is_an_error_at_once(url: str) -> None:
    with pytest.raises(ConnectionFailedError, match="is not a URL"):
        await MIGClient(url, reactor=Clock(), agent=SilentAgent()).dashboard()


@pytest_twisted.ensureDeferred
async def test_a_connection_that_breaks_while_a_request_is_sent_is_an_error() -> None:
    clock = Clock()
    agent = SilentAgent(lambda: fail(RequestTransmissionFailed([Failure(ConnectionLost())])))
    client = MIGClient("http://localhost", reactor=clock, agent=agent, stall_seconds=STALL_SECONDS)
    with pytest.raises(ConnectionFailedError, match="no answer"):
        await client.create_investigator("name", "key")
    assert agent.count == 1


@pytest_twisted.ensureDeferred
async def test_a_report_that_is_left_is_closed(api: Api, large_database: TestDatabase) -> None:
    async with MIGClient(api.base) as client:
        items = client.compliance_items(after=fleet.ANY_TIME.partition("=")[2])
        assert (await anext(items)).check.test.type == "file"
        assert not [ended for ended in api.ended if ended.status == 200]
        await items.aclose()
        await wait_until(lambda: len(api.ended) == 1)


@pytest_twisted.ensureDeferred
async def test_ten_clients_read_their_reports_at_once(
    api: Api, large_database: TestDatabase
) -> None:
    async def count_items() -> int:
        async with MIGClient(api.base) as client:
            items = client.compliance_items(after=fleet.ANY_TIME.partition("=")[2], limit=1000)
            return len([item async for item in items])

    counts = await gatherResults([Deferred.fromCoroutine(count_items()) for _ in range(10)])
    assert counts == [5 * 1000] * 10


@pytest_twisted.ensureDeferred
async def test_a_loop_that_breaks_closes_the_report(api: Api, large_database: TestDatabase) -> None:
    async with MIGClient(api.base) as client:
        async for _ in client.compliance_items(after=fleet.ANY_TIME.partition("=")[2]):
            break
        await wait_until(lambda: len(api.ended) == 1)


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_is_not_trusted_is_an_error_at_once() -> None:
    made = issue_certificate()
    certificate = ssl.PrivateCertificate.loadPEM(made.pem + made.key_pem)
    site = SiteClient().site
    port = await SSL4ServerEndpoint(reactor, 0, certificate.options()).listen(site)
    client = MIGClient(f"https://localhost:{port_number(port)}/api/v1", "secret")
    try:
        with pytest.raises(ConnectionFailedError) as caught:
            await client.home()
        assert not caught.value.is_temporary
        assert "certificate" in str(caught.value)
    finally:
        await client.close()
        await stop_listening(port)
