"""Everything that holds for a connection of TCP holds for one with TLS."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThread

from mig.account import Account
from mig.limits import Limits
from mig.service.certificates import ServerCertificate
from mig.service.endpoints import CertificateFiles
from mig.web.site import ApiSite
from mig.web.tls import TlsFactory
from tests.support import fleet
from tests.support.api import Api
from tests.support.certificates import Certificate, issue_certificate, trust
from tests.support.echo_server import HEARTBEAT
from tests.support.postgres import MANY_COMMANDS, TestDatabase
from tests.support.programs import find_program
from tests.support.reactor import (
    listen_on,
    port_number,
    reactor,
    record_log,
    stop_listening,
    wait_until,
)
from tests.support.site_client import (
    BASE,
    CREATE,
    FORM,
    EchoRoutes,
    build_post_head,
    make_echo_site,
)

REPORT = f"/api/v1/search?type=command&report=complianceitems&limit=100000&{fleet.ANY_TIME}"
BACKENDS = (
    "select pid from pg_stat_activity"
    " where datname = current_database() and application_name like 'mig-api _%%'"
)
CLOSE = HEARTBEAT[:-2] + b"Connection: close\r\n\r\n"
HSTS = b"\r\nStrict-Transport-Security: max-age=31536000\r\n"


@dataclass(frozen=True, kw_only=True)
class TlsPort:
    """A site behind TLS, with a certificate of an authority of its own and its chain."""

    port: IListeningPort
    authority: Certificate

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", port_number(self.port)

    def connect(self, receive_buffer: int = 0) -> ssl.SSLSocket:
        raw = socket.socket()
        raw.settimeout(20)
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.connect(self.address)
        return trust(self.authority).wrap_socket(raw, server_hostname="localhost")

    def exchange(self, data: bytes) -> bytes:
        """Return everything that the service sends, which must end with a close_notify."""
        with self.connect() as client:
            client.sendall(data)
            return read_to_end(client)


def read_to_end(client: ssl.SSLSocket) -> bytes:
    """Return what comes until close_notify.

    :raises OSError: when the connection ends without one.
    """
    client.suppress_ragged_eofs = False  # type: ignore[attr-defined]  # not in the type's stub
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


OpenTls = Callable[[ApiSite], TlsPort]


@pytest_twisted.async_yield_fixture
async def open_tls(tmp_path: Path) -> AsyncIterator[OpenTls]:
    """Return a function that opens a port with TLS for a site."""
    opened: list[IListeningPort] = []
    authority = issue_certificate("authority", is_authority=True)
    middle = issue_certificate("middle", authority, is_authority=True)
    server = issue_certificate("localhost", middle)
    file = tmp_path / "server.pem"
    file.write_text(server.pem + middle.pem + server.key_pem)

    def open_port(site: ApiSite) -> TlsPort:
        listener = listen_on(f"ssl:0:certKey={file}")
        assert listener.certificate_files == CertificateFiles(certificate=file, key=file)
        certificate = ServerCertificate(listener.certificate_files, Account.of_process(), time.time)
        opened.append(listener.start_accepting(reactor, TlsFactory(reactor, certificate, site)))
        return TlsPort(port=opened[-1], authority=authority)

    yield open_port
    for port in opened:
        await stop_listening(port)


def make_site(limits: Limits = Limits()) -> ApiSite:  # noqa: B008 - nothing changes it
    return make_echo_site(reactor, BASE, EchoRoutes(), limits)


@pytest_twisted.ensureDeferred
async def test_requests_are_answered_over_tls_with_hsts(open_tls: OpenTls) -> None:
    """The chain is sent, and HTTP/1.1 is what is negotiated."""
    tls = open_tls(make_site())

    def negotiate() -> tuple[str | None, str | None]:
        context = trust(tls.authority)
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(tls.address, timeout=20) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as client,
        ):
            return client.selected_alpn_protocol(), client.compression()

    assert await deferToThread(negotiate) == ("http/1.1", None)
    answer = await deferToThread(tls.exchange, HEARTBEAT + CLOSE)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == answer.count(HSTS) == 2
    post = build_post_head(CREATE, FORM, "Content-Length: 8", "Connection: close") + b"action=1"
    assert b'{"action": "1"}' in await deferToThread(tls.exchange, post)
    for refused in (b"GET /api/v1/nothing", b"POST /api/v1/agent", b"GET /%ff"):
        request = refused + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        answer = await deferToThread(tls.exchange, request)
        assert re.match(rb"HTTP/1.1 4\d\d ", answer) and HSTS in answer


@pytest_twisted.ensureDeferred
async def test_answers_without_tls_have_no_hsts() -> None:
    port = listen_on("tcp:0").start_accepting(reactor, make_site())

    def exchange() -> bytes:
        with socket.create_connection(("127.0.0.1", port_number(port)), timeout=20) as client:
            client.sendall(CLOSE)
            return client.recv(65536)

    answer = await deferToThread(exchange)
    assert answer.startswith(b"HTTP/1.1 200 ") and b"Strict-Transport" not in answer
    await stop_listening(port)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://mig.example:1664", 200),
        ("https://localhost:1", 403),
        ("https://localhost", 200),
        ("http://localhost", 403),
        ("http://mig.example:1664", 200),
    ],
)
@pytest_twisted.ensureDeferred
async def test_over_tls_a_page_must_come_from_https_or_the_public_url(
    open_tls: OpenTls, origin: str, status: int
) -> None:
    """The public URL of this service is http://mig.example:1664."""
    tls = open_tls(make_site())
    host = "mig.example:1664" if "mig" in origin else "localhost"
    head = build_post_head(
        CREATE, FORM, "Content-Length: 8", f"Origin: {origin}", "Connection: close", host=host
    )
    answer = await deferToThread(tls.exchange, head + b"action=1")
    assert int(answer.split()[1]) == status


@pytest.mark.parametrize(
    ("version", "is_accepted"),
    [("tls1", False), ("tls1_1", False), ("tls1_2", True), ("tls1_3", True)],
)
@pytest_twisted.ensureDeferred
async def test_only_tls_1_2_and_1_3_are_accepted(
    open_tls: OpenTls, version: str, is_accepted: bool
) -> None:
    tls = open_tls(make_site())
    answer = await run_openssl(tls, f"-{version}", "-ign_eof", "-cipher", "DEFAULT:@SECLEVEL=0")
    assert (b"HTTP/1.1 200 OK" in answer) is is_accepted
    assert (b"tlsv1 alert protocol version" in answer) is not is_accepted


async def run_openssl(tls: TlsPort, *options: str, sent: bytes = CLOSE) -> bytes:
    """Return what ``openssl s_client`` prints when it sends a request."""
    host, number = tls.address
    command = [find_program("openssl"), "s_client", "-connect", f"{host}:{number}", *options]
    done = await deferToThread(
        lambda: subprocess.run(
            command, input=sent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60
        )
    )
    return done.stdout


@pytest_twisted.ensureDeferred
async def test_a_client_cannot_renegotiate(open_tls: OpenTls) -> None:
    """s_client renegotiates on a line that begins with R."""
    tls = open_tls(make_site())
    answer = await run_openssl(tls, "-tls1_2", sent=b"R\n" + CLOSE)
    assert b"RENEGOTIATING" in answer and b"no renegotiation" in answer
    assert b"HTTP/1.1 200" not in answer


@pytest_twisted.ensureDeferred
async def test_a_client_without_tls_is_disconnected_without_a_log_line(open_tls: OpenTls) -> None:
    tls = open_tls(make_site())

    def speak_plainly() -> bytes:
        with socket.create_connection(tls.address, timeout=20) as client:
            client.sendall(CLOSE)
            received = b""
            with suppress(ConnectionResetError):
                while part := client.recv(65536):
                    received += part
            return received

    with record_log() as log:
        assert b"HTTP" not in await deferToThread(speak_plainly)
    assert not log.lines


@pytest_twisted.ensureDeferred
async def test_a_handshake_that_does_not_end_is_cut(open_tls: OpenTls) -> None:
    tls = open_tls(make_site(Limits(idle_seconds=0.2, linger_seconds=0.2)))

    def wait_for_the_end(begin: bytes) -> bytes:
        with socket.create_connection(tls.address, timeout=20) as client:
            client.sendall(begin)
            with suppress(ConnectionResetError):
                return client.recv(65536)
        return b""

    for begin in (b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"):
        assert await deferToThread(wait_for_the_end, begin) == b""


@pytest_twisted.ensureDeferred
async def test_a_refused_client_can_read_the_answer_while_it_sends(open_tls: OpenTls) -> None:
    site = make_site()
    tls = open_tls(site)
    head = build_post_head(CREATE, FORM, "Content-Length: 99999999")

    def send_too_much() -> bytes:
        with tls.connect() as client:
            client.sendall(head)
            answer = client.recv(65536)
            for _ in range(200):
                client.sendall(bytes(65536))
            return answer + client.recv(65536)

    answer = await deferToThread(send_too_much)
    assert answer.startswith(b"HTTP/1.1 413 ") and HSTS in answer
    await wait_until(lambda: not len(site.connections))


@pytest_twisted.ensureDeferred
async def test_idle_connections_make_room_although_their_clients_do_nothing(
    open_tls: OpenTls,
) -> None:
    """Their descriptors are free at once: a client need not answer a close_notify."""
    site = make_site(Limits(connections=4))
    tls = open_tls(site)
    clients = [await deferToThread(tls.connect) for _ in range(8)]
    await wait_until(lambda: len(site.connections) == 4)
    for client in clients[:4]:
        assert await deferToThread(read_to_end, client) == b""
    for client in clients[4:]:
        await deferToThread(client.sendall, CLOSE)
        assert (await deferToThread(read_to_end, client)).startswith(b"HTTP/1.1 200 ")
    for client in clients:
        client.close()


@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_turned_away_is_closed_without_a_failure(
    open_tls: OpenTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site()
    tls = open_tls(site)
    monkeypatch.setattr(site.connections, "make_room", lambda _: False)
    with record_log() as log, pytest.raises(OSError):
        await deferToThread(tls.connect)
    assert not log.failures


class ReportClient:
    """A client that reads a report over TLS only as far as it is told."""

    def __init__(self, tls: TlsPort) -> None:
        self._client = tls.connect(receive_buffer=65536)
        request = f"GET {REPORT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        self._client.sendall(request.encode())

    def read_at_least(self, count: int) -> None:
        while count > 0:
            received = self._client.recv(65536)
            assert received, "the connection ended"
            count -= len(received)

    def read_to_end(self) -> bytes:
        """Read to the close_notify.

        :raises OSError: when the connection is cut before it.
        """
        return read_to_end(self._client)

    def disconnect(self) -> None:
        self._client.close()

    def say_goodbye(self) -> None:
        """Send a close_notify, and read nothing more."""
        with suppress(TimeoutError, ssl.SSLError):
            self._client.settimeout(0)
            self._client.unwrap()


@pytest_twisted.ensureDeferred
async def test_a_report_over_tls_is_complete(
    api: Api, large_database: TestDatabase, open_tls: OpenTls
) -> None:
    client = await deferToThread(ReportClient, open_tls(api.site))
    report = await deferToThread(client.read_to_end)
    assert report.count(b'"name":"compliance item"') == MANY_COMMANDS * 5
    assert report.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize("how", ["disconnect", "say_goodbye"])
@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_in_a_report_frees_its_backend(
    api: Api, large_database: TestDatabase, open_tls: OpenTls, how: str
) -> None:
    """The report is not made to its end, where the database waits."""
    large_database.execute(
        "create function slow(json) returns json stable language plpgsql as"
        " $$ begin perform pg_sleep(600); return $1; end $$;"
        " alter table commands rename to stored;"
        " create view commands as select id, actionid, agentid, status, starttime, finishtime,"
        " case when id = 15000 then slow(results) else results end as results from stored;"
        " grant select on commands to migapi"
    )
    with record_log() as log:
        client = await deferToThread(ReportClient, open_tls(api.site))
        await deferToThread(client.read_at_least, 300_000)
        assert len(large_database.execute(BACKENDS)) == 1
        await deferToThread(getattr(client, how))
        await wait_until(lambda: not large_database.execute(BACKENDS))
        await wait_until(lambda: not len(api.site.connections))
    assert not log.failures


@pytest_twisted.ensureDeferred
async def test_a_stalled_client_is_cut_and_sees_it(
    start_api: Callable[[Limits], Api], large_database: TestDatabase, open_tls: OpenTls
) -> None:
    api = start_api(Limits(stall_seconds=0.2, stall_bytes_per_second=10**9))
    client = await deferToThread(ReportClient, open_tls(api.site))
    await deferToThread(client.read_at_least, 300_000)
    await wait_until(lambda: not large_database.execute(BACKENDS))
    with pytest.raises(OSError):
        await deferToThread(client.read_to_end)


@pytest_twisted.ensureDeferred
async def test_a_slow_reader_over_tls_gives_its_database_connection_back(
    start_api: Callable[[Limits], Api], large_database: TestDatabase, open_tls: OpenTls
) -> None:
    """It gets the rest of its report, and another report does not wait for it."""
    api = start_api(Limits(stream_connections=1, pause_seconds=0.05, wanted_pause_seconds=0.05))
    tls = open_tls(api.site)
    slow, fast = [await deferToThread(ReportClient, tls) for _ in range(2)]
    await deferToThread(slow.read_at_least, 100_000)
    for client in (fast, slow):
        report = await deferToThread(client.read_to_end)
        assert report.endswith(b"\r\n0\r\n\r\n")


@pytest_twisted.ensureDeferred
async def test_a_client_sees_that_its_report_over_tls_was_cut(
    api: Api, large_database: TestDatabase, open_tls: OpenTls
) -> None:
    """There is neither the end that HTTP needs nor a close_notify."""
    client = await deferToThread(ReportClient, open_tls(api.site))
    await deferToThread(client.read_at_least, 300_000)
    large_database.execute(f"select pg_terminate_backend(pid) from ({BACKENDS}) b")
    with pytest.raises(OSError):
        await deferToThread(client.read_to_end)
