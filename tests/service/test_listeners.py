"""Listeners are named by endpoint texts, and clean up their files."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from mig.errors import ListenerError
from mig.service.endpoints import ACCEPTED_FORMS, parse_endpoint
from mig.service.listeners import Listener, bind_listeners
from tests.support.reactor import listen_on, reactor, stop_listening


@pytest.fixture
def short_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to a folder, so that the relative path of a socket is short enough."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def open_listening_descriptor(
    family: socket.AddressFamily = socket.AF_INET, address: str = "127.0.0.1"
) -> int:
    """Return a descriptor as a parent process passes it on."""
    made = socket.socket(family, socket.SOCK_STREAM)
    made.bind((address, 0))
    made.listen()
    return made.detach()


@pytest.mark.parametrize(
    ("text", "kind", "arguments"),
    [
        ("tcp:80", "tcp", {"port": "80"}),
        ("tcp:port=80", "tcp", {"port": "80"}),
        ("tcp:80:127.0.0.1", "tcp", {"port": "80", "interface": "127.0.0.1"}),
        ("tcp6:80:interface=\\:\\:1", "tcp6", {"port": "80", "interface": "::1"}),
        ("unix:address=/x=y\\\\", "unix", {"address": "/x=y\\"}),
        ("unix:/run/a\\:b", "unix", {"address": "/run/a:b"}),
        ("systemd:domain=INET:index=0", "systemd", {"domain": "INET", "index": "0"}),
        ("fd:3", "fd", {"number": "3"}),
    ],
)
def test_endpoint_texts_are_parsed_as_twisted_parses_them(
    text: str, kind: str, arguments: dict[str, str]
) -> None:
    endpoint = parse_endpoint(text)
    assert (endpoint.kind, endpoint.arguments) == (kind, arguments)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("sctp:1", f"'sctp:1' is not a listener; accepted are {ACCEPTED_FORMS}"),
        ("ssl:1", "ssl:1: certKey must be the file of the certificate"),
        ("ssl:1:interface=localhost:certKey=c", "'localhost' does not appear to be an IPv4 or"),
        ("ssl:x:certKey=c", "port must be a whole number from 0 to 65535"),
        ("ssl:1:sslmethod=x", "ssl takes port, privateKey, certKey, interface, backlog, each"),
        ("tcp:1:certKey=c", "tcp takes port, interface, backlog, each at most once"),
        ("", f"'' is not a listener; accepted are {ACCEPTED_FORMS}"),
        ("port=80", f"'port=80' is not a listener; accepted are {ACCEPTED_FORMS}"),
        ("tcp:80\\", "it ends with a backslash"),
        ("tcp:80:backlog=1:backlog=2", "it sets backlog twice"),
        ("tcp:80:port=80", "tcp takes port, interface, backlog, each at most once"),
        ("tcp:80:ip=::1", "tcp takes port, interface, backlog, each at most once"),
        ("unix:/run/a=b", "unix takes address, mode, backlog, lockfile, each at most once"),
        ("tcp", "tcp: port must be a whole number from 0 to 65535"),
        ("tcp:65536", "port must be a whole number from 0 to 65535"),
        ("tcp:٣", "port must be a whole number from 0 to 65535"),
        ("tcp:0:backlog=x", "backlog must be a whole number"),
        ("tcp:0:interface=localhost", "Expected 4 octets in 'localhost'"),
        ("tcp6:0:interface=127.0.0.1", "'127.0.0.1'"),
        ("unix:", "the path of the socket is missing"),
        ("unix:s:mode=999", "mode must be three octal digits"),
        ("unix:s:lockfile=x", "lockfile must be 0 or 1"),
        ("unix:no-such-folder/s", "cannot listen on unix:no-such-folder/s: No such file"),
        (f"unix:{'x' * 200}", "path too long"),
        ("systemd:domain=INET", "either index or name must be set, and not both"),
        ("systemd:domain=INET:index=0", "systemd has passed 0 sockets to this process"),
        ("systemd:domain=INET:name=web", "systemd has not passed a socket with this name"),
        ("fd:1", "number must be 3 or greater"),
        ("fd:99999", "descriptor 99999 is not a socket"),
    ],
)
def test_an_unusable_listener_is_refused_with_a_reason(
    text: str, why: str, short_folder: Path
) -> None:
    with pytest.raises(ListenerError) as told:
        listen_on(text)
    assert why in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp:0", "127.0.0.1"),
        ("tcp:0:interface=127.8.9.1:backlog=5", "127.8.9.1"),
        ("tcp6:0", "::1"),
        ("tcp6:0:interface=\\:\\:1", "::1"),
        ("ssl:0:certKey=c", "127.0.0.1"),
        ("ssl:0:interface=\\:\\:1:certKey=c", "::1"),
    ],
)
def test_the_address_of_a_text_is_bound_and_by_default_the_loopback_one(
    text: str, address: str
) -> None:
    listener = listen_on(text)
    assert listener.socket.getsockname()[0] == address
    socket.create_connection((address, listener.port)).close()
    listener.close()


def test_one_failed_listener_closes_the_others(short_folder: Path) -> None:
    taken = listen_on("tcp:0")
    with pytest.raises(ListenerError, match="Address already in use"):
        bind_listeners(map(parse_endpoint, ("unix:first", "tcp:0", f"tcp:{taken.port}")))
    assert not list(short_folder.iterdir())
    taken.close()


def test_a_unix_socket_has_its_mode_and_is_deleted_at_the_end(short_folder: Path) -> None:
    for text, mode in (("unix:s", 0o660), ("unix:s:mode=600:lockfile=0", 0o600)):
        listener = listen_on(text)
        assert stat.S_IMODE(Path("s").stat().st_mode) == mode
        assert listener.port is None
        assert listener.socket_file and listener.socket_file.path == short_folder / "s"
        listener.close()
        assert not Path("s").exists()


def test_only_a_stale_socket_file_is_replaced(short_folder: Path) -> None:
    listen_on("unix:s").socket.close()
    listener = listen_on("unix:s")
    with pytest.raises(ListenerError, match="Address already in use"):
        listen_on("unix:s")
    assert Path("s").exists()
    listener.close()
    Path("s").write_text("a file of somebody")
    with pytest.raises(ListenerError, match="the path exists and is not a socket"):
        listen_on("unix:s")
    assert Path("s").read_text()


def test_the_socket_file_of_another_process_is_left_alone(short_folder: Path) -> None:
    listener = listen_on("unix:s")
    Path("s").unlink()
    other = listen_on("unix:s")
    listener.close()
    assert Path("s").is_socket()
    other.close()


def test_an_inherited_socket_must_listen(short_folder: Path) -> None:
    def refuse_descriptor(fd: int, arguments: str = "") -> str:
        with pytest.raises(ListenerError) as told:
            listen_on(f"fd:{fd}{arguments}")
        os.fstat(fd)
        os.close(fd)
        return str(told.value)

    assert "is not a socket" in refuse_descriptor(os.open("/dev/null", os.O_RDONLY))
    assert "is not listening" in refuse_descriptor(socket.socket().detach())
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    assert "is not a stream socket" in refuse_descriptor(datagrams.detach())
    assert "is not in the domain INET6" in refuse_descriptor(
        open_listening_descriptor(), ":domain=INET6"
    )
    assert "domain must be one of INET, INET6, UNIX" in refuse_descriptor(
        open_listening_descriptor(), ":domain=INET4"
    )


def test_inherited_sockets_are_accepted(short_folder: Path) -> None:
    for fd, domain in (
        (open_listening_descriptor(), "INET"),
        (open_listening_descriptor(socket.AF_INET6, "::1"), "INET6"),
    ):
        for text in (f"fd:{fd}", f"fd:{fd}:domain={domain}"):
            listener = listen_on(text)
            assert listener.port
            assert not listener.socket.get_inheritable()
            listener.close()
        os.close(fd)


SYSTEMD = """
import os, socket, sys
first, second = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
second.bind("by-systemd")
second.listen()
os.dup2(first.fileno(), 63)
os.dup2(second.fileno(), 64)
os.dup2(63, 3)
os.dup2(64, 4)
os.environ.update(LISTEN_PID=str(os.getpid() + {pid_offset}))
os.environ.update(LISTEN_FDS="2", LISTEN_FDNAMES="web:local")
os.execv(sys.executable, [sys.executable, "-c", '''
from twisted.internet import endpoints  # takes LISTEN_PID out of os.environ
from mig.errors import ListenerError
from mig.service.endpoints import parse_endpoint
from mig.service.listeners import bind_listener
for text in {texts}:
    try:
        listener = bind_listener(parse_endpoint(text))
        print(listener.socket.family.name)
        listener.close()
    except ListenerError as reason:
        print(reason)
'''])
"""


def bind_in_systemd_process(*texts: str, pid_offset: int = 0) -> list[str]:
    """Bind endpoint texts in a process that systemd passes two sockets to."""
    program = SYSTEMD.format(texts=texts, pid_offset=pid_offset)
    return subprocess.check_output(
        [sys.executable, "-c", program],
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
    ).splitlines()


def test_sockets_from_systemd_are_found_by_index_or_name(short_folder: Path) -> None:
    assert bind_in_systemd_process(
        "systemd:domain=INET:index=0",
        "systemd:INET:0",
        "systemd:domain=UNIX:name=local",
        "systemd:domain=UNIX:index=0",
        "systemd:domain=INET:index=2",
        "systemd:domain=INET:name=other",
        "systemd:index=0",
    ) == [
        "AF_INET",
        "AF_INET",
        "AF_UNIX",
        "systemd:domain=UNIX:index=0: the socket of descriptor 3 is not in the domain UNIX",
        "systemd:domain=INET:index=2: systemd has passed 2 sockets to this process",
        "systemd:domain=INET:name=other: systemd has not passed a socket with this name",
        "systemd:index=0: domain must be one of INET, INET6, UNIX",
    ]
    assert Path("by-systemd").is_socket(), "the file belongs to systemd"


def test_systemd_sockets_for_another_process_are_not_used(short_folder: Path) -> None:
    [told] = bind_in_systemd_process("systemd:domain=INET:index=0", pid_offset=1)
    assert told.endswith("systemd has passed 0 sockets to this process")


def read_mode(path: str) -> int | None:
    """Return the mode of a file, or ``None`` when there is no file."""
    return stat.S_IMODE(Path(path).stat().st_mode) if Path(path).exists() else None


class Greeting(Protocol):
    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello")
        self.transport.loseConnection()


async def read_greeting(connection: socket.socket) -> bytes:
    """Return what a server in this reactor sends, without blocking it."""
    connection.setblocking(False)
    for _ in range(200):
        await deferLater(reactor, 0.01)
        try:
            return connection.recv(100)
        except BlockingIOError:
            pass
    return b""


async def check_greeting(listener: Listener, address: str | tuple[str, int | None]) -> None:
    port = listener.start_accepting(reactor, Factory.forProtocol(Greeting))
    with closing(socket.socket(listener.socket.family)) as client:
        client.connect(address)
        assert await read_greeting(client) == b"hello"
    await stop_listening(port)


@pytest_twisted.ensureDeferred
async def test_connections_are_accepted() -> None:
    listener = listen_on("tcp:0")
    address = ("127.0.0.1", listener.port)
    await check_greeting(listener, address)


@pytest_twisted.ensureDeferred
async def test_accepting_keeps_the_mode_of_a_unix_socket(
    short_folder: Path, twisted_greenlet: object
) -> None:
    """Twisted itself would change it to 0666."""
    listener = listen_on("unix:s")
    await check_greeting(listener, "s")
    assert read_mode("s") == 0o660
    listener.close()
    assert read_mode("s") is None


@pytest_twisted.ensureDeferred
async def test_an_inherited_unix_socket_stays_as_it_is(short_folder: Path) -> None:
    """The file belongs to systemd, which keeps listening after the service has stopped."""
    theirs = socket.socket(socket.AF_UNIX)
    theirs.bind("theirs")
    Path("theirs").chmod(0o640)
    theirs.listen()
    listener = listen_on(f"fd:{theirs.fileno()}:domain=UNIX")
    await check_greeting(listener, "theirs")
    listener.close()
    assert read_mode("theirs") == 0o640
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect("theirs")
    theirs.close()


class Counting(Factory):
    """A factory that counts the connections that it accepts, and closes them."""

    noisy = False
    accepted = 0

    def buildProtocol(self, addr: object) -> None:
        self.accepted += 1


@pytest_twisted.ensureDeferred
async def test_connections_are_accepted_one_at_a_time(short_folder: Path) -> None:
    """This lets daemons that share a socket share a burst of connections."""
    for text in ("tcp:0", "unix:socket"):
        factory = Counting()
        listener = listen_on(text)
        family, address = listener.socket.family, listener.socket.getsockname()
        port = listener.start_accepting(reactor, factory)
        with ExitStack() as stack:
            for _ in range(5):
                client = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                client.connect(address)
            for count in (1, 2, 3):
                IReadDescriptor(port).doRead()
                assert factory.accepted == count
            await stop_listening(port)
        listener.close()
