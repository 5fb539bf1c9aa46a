"""The installed daemon serves TLS, and takes a new certificate while it runs."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.support.certificates import Certificate, issue_certificate, trust
from tests.support.daemon import Daemon, wait_for
from tests.support.postgres import TestDatabase
from tests.support.programs import find_program
from tests.support.properties import REPETITIONS

AUTHORITY = issue_certificate("authority", is_authority=True)
CONTEXT = trust(AUTHORITY)
PATH = "/api/v1/heartbeat"


@pytest.fixture
def server(tmp_path: Path) -> Certificate:
    """Write server.pem and server.key, and return the certificate."""
    made = issue_certificate(issuer=AUTHORITY)
    made.write(tmp_path)
    return made


class TlsDaemon:
    """A daemon with one listener that has TLS."""

    def __init__(
        self, database: TestDatabase, folder: Path, *options: str, inherited: int | None = None
    ) -> None:
        self.folder = folder
        arguments = options or ("--listen", "ssl:0:certKey=server.pem:privateKey=server.key")
        folders = folder / f"daemon{len(list(folder.glob('daemon*')))}"
        folders.mkdir()
        for name in ("server.pem", "server.key", "api.cfg"):
            (folders / name).symlink_to(folder / name)
        self.daemon = Daemon(
            *("--database", database.dsn, *arguments),
            cwd=folders,
            inherited=[] if inherited is None else [inherited],
        )
        scheme, _, rest = self.daemon.base.partition("://localhost:")
        assert scheme == "https"
        self.port = int(rest.partition("/")[0])

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("localhost", self.port, timeout=20, context=CONTEXT)

    def fetch_status(self) -> int:
        """Return the status of a request on a new connection."""
        with closing(self.connect()) as client:
            client.request("GET", PATH)
            return client.getresponse().status

    def fetch_certificate(self) -> bytes:
        """Return the certificate that a new connection gets."""
        with closing(self.connect()) as client:
            client.connect()
            assert isinstance(client.sock, ssl.SSLSocket)
            served = client.sock.getpeercert(binary_form=True)
            assert served is not None
            return served

    def read_lines(self, text: str) -> list[str]:
        return [line for line in self.daemon.log.read_text().splitlines() if text in line]

    def reload(self) -> str:
        """Send SIGHUP, and return the line that says what came of it."""
        before = len(self.read_lines("the certificate in "))
        self.daemon.process.send_signal(signal.SIGHUP)
        return wait_for(lambda: self.read_lines("the certificate in ")[before:])[0]

    def stop(self) -> None:
        assert self.daemon.stop() == -signal.SIGTERM
        assert not self.read_lines("Traceback")


@pytest.fixture
def running(server: Certificate, database: TestDatabase, tmp_path: Path) -> Iterator[TlsDaemon]:
    daemon = TlsDaemon(database, tmp_path)
    yield daemon
    daemon.stop()


def encode(certificate: Certificate) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.pem)


def replace_files(folder: Path, certificate: Certificate) -> None:
    """Put new files in the place of those that the daemon has loaded."""
    for path in certificate.write(folder, "new"):
        path.rename(folder / f"server{path.suffix}")


class Load:
    """Clients that make requests all the time, each on a new connection or on a lasting one."""

    def __init__(self, daemon: TlsDaemon) -> None:
        self._daemon = daemon
        self._is_over = Event()
        self.counts = [0, 0, 0]
        self.errors: list[Exception] = []
        self._threads = [Thread(target=self._run, args=(number, number > 0)) for number in range(3)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int, is_lasting: bool) -> None:
        lasting = self._daemon.connect()
        try:
            while not self._is_over.is_set():
                client = lasting if is_lasting else self._daemon.connect()
                client.request("GET", PATH)
                answer = client.getresponse()
                assert (answer.status, answer.getheader("Connection")) == (200, None)
                answer.read()
                assert client.sock is not None, "the connection was closed"
                self.counts[number] += 1
                if not is_lasting:
                    client.close()
        except Exception as error:
            self.errors.append(error)
        finally:
            lasting.close()

    def wait_for_more(self) -> None:
        """Wait until each client has had another answer."""
        before = list(self.counts)
        wait_for(
            lambda: (
                self.errors
                or all(new > old + 1 for new, old in zip(self.counts, before, strict=True))
            )
        )
        assert not self.errors

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(30)
        assert not self.errors


def test_certificates_are_swapped_under_load_without_an_error(running: TlsDaemon) -> None:
    """New connections get the new one; those that are open go on."""
    load = Load(running)
    for _ in range(3 * REPETITIONS):
        new = issue_certificate(issuer=AUTHORITY)
        replace_files(running.folder, new)
        load.wait_for_more()
        assert " was loaded, and is valid until " in running.reload()
        assert running.fetch_certificate() == encode(new)
        load.wait_for_more()
    load.stop()


def test_the_old_certificate_stays_until_the_new_one_loads(
    running: TlsDaemon, server: Certificate
) -> None:
    """The log says what is wrong with the new one."""
    day = timedelta(days=1)
    for new, why in (
        (issue_certificate(issuer=AUTHORITY, end=-timedelta(minutes=1)), "it expired at 2"),
        (issue_certificate(issuer=AUTHORITY, begin=day, end=2 * day), "it is not valid before 2"),
    ):
        replace_files(running.folder, new)
        line = running.reload()
        assert "the one before it remains in use: " + why in line and "#error" in line
        assert running.fetch_certificate() == encode(server)
    new = issue_certificate(issuer=AUTHORITY)
    (running.folder / "server.pem").write_text(new.pem)
    assert "does not belong to the first certificate" in running.reload()
    assert running.fetch_certificate() == encode(server)
    (running.folder / "server.key").write_text(new.key_pem)
    assert " was loaded, and is valid until " in running.reload()
    assert running.fetch_certificate() == encode(new)


def test_the_keys_of_the_file_make_a_listener_with_tls(
    server: Certificate, database: TestDatabase, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "api.cfg").write_text(
        f"[server]\nport = {port}\ntlscert = server.pem\ntlskey = server.key\n"
    )
    daemon = TlsDaemon(database, tmp_path, "--config", "api.cfg")
    assert daemon.port == port
    assert daemon.fetch_status() == 200
    daemon.stop()


def test_a_certificate_that_the_options_ignore_is_noticed(
    server: Certificate, database: TestDatabase, tmp_path: Path
) -> None:
    (tmp_path / "api.cfg").write_text("[server]\ntlscert = server.pem\ntlskey = server.key\n")
    daemon = Daemon(
        *("--config", "api.cfg", "--listen", "tcp:0", "--database", database.dsn), cwd=tmp_path
    )
    assert "[server] tlscert has no effect: --listen sets the listeners" in daemon.log.read_text()
    daemon.stop()


def test_an_expired_certificate_is_noticed_at_the_start(
    database: TestDatabase, tmp_path: Path
) -> None:
    issue_certificate(issuer=AUTHORITY, end=-timedelta(minutes=1)).write(tmp_path)
    daemon = TlsDaemon(database, tmp_path)
    [line] = daemon.read_lines("server.pem is of no use: it expired at 2")
    assert "#warn" in line
    daemon.stop()


def test_daemons_share_a_socket_with_tls(
    server: Certificate, database: TestDatabase, tmp_path: Path
) -> None:
    """When one of them is killed, the other one answers all later requests."""
    with socket.create_server(("127.0.0.1", 0)) as shared:
        fd = shared.fileno()
        listen = ("--listen", f"fd:{fd}:certKey=server.pem:privateKey=server.key")
        first, second = (TlsDaemon(database, tmp_path, *listen, inherited=fd) for _ in range(2))
    assert {second.fetch_status() for _ in range(20)} == {200}
    first.daemon.process.kill()
    first.daemon.process.wait()
    assert {second.fetch_status() for _ in range(20)} == {200}
    second.stop()


def test_a_public_listener_with_tls_and_authentication_starts(
    server: Certificate, database: TestDatabase, tmp_path: Path
) -> None:
    listen = "ssl:0:interface=0.0.0.0:certKey=server.pem:privateKey=server.key"
    daemon = TlsDaemon(database, tmp_path, "--authentication", "on", "--listen", listen)
    assert daemon.fetch_status() == 200
    daemon.stop()


def test_a_public_listener_without_tls_starts_when_that_is_wanted(
    database: TestDatabase, tmp_path: Path
) -> None:
    (tmp_path / "api.cfg").write_text("[server]\ncleartext = on\n[authentication]\nenabled = on\n")
    daemon = Daemon(
        *("--config", "api.cfg", "--database", database.dsn),
        *("--listen", "tcp:0:interface=0.0.0.0"),
        cwd=tmp_path,
    )
    port = int(daemon.base.removeprefix("http://localhost:").partition("/")[0])
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as client:
        client.request("GET", PATH)
        assert client.getresponse().status == 200
    daemon.stop()


def test_curl_sees_https_links_and_hsts(running: TlsDaemon, tmp_path: Path) -> None:
    (tmp_path / "authority.pem").write_text(AUTHORITY.pem)
    url = f"https://localhost:{running.port}/api/v1/"
    done = subprocess.run(
        [find_program("curl"), "-si", "--cacert", tmp_path / "authority.pem", url],
        capture_output=True,
        text=True,
        env={**os.environ, "no_proxy": "localhost"},
        timeout=60,
    )
    assert done.stdout.startswith("HTTP/1.1 200 OK")
    assert "Strict-Transport-Security: max-age=31536000" in done.stdout
    assert f'"href":"{url}"' in done.stdout and "http:" not in done.stdout
