"""Listening sockets: bound before the reactor runs, and accepting once the service is ready.

Endpoint texts name them: see :mod:`mig.service.endpoints`.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorFDSet

from mig.errors import ListenerError
from mig.service.endpoints import MAX_PORT, CertificateFiles, Endpoint, is_loopback, parse_number
from mig.service.shared_port import PAUSE_SECONDS, TcpPort, UnixPort

DEFAULT_BACKLOG: Final = 511
FIRST_INHERITED_DESCRIPTOR: Final = 3
"""The descriptors below are the standard streams; systemd counts from here."""

FAMILIES: Final = {
    "INET": socket.AF_INET,
    "INET6": socket.AF_INET6,
    "UNIX": socket.AF_UNIX,
}


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A bound, listening socket.

    ``certificate_files`` are those of a listener with TLS. ``socket_file`` is the file that was
    made for it, if any. ``is_shared`` is true for an inherited socket, on which other daemons may
    accept, too.
    """

    text: str
    socket: socket.socket
    certificate_files: CertificateFiles | None = None
    socket_file: _SocketFile | None = None
    is_shared: bool = False

    @property
    def port(self) -> int | None:
        """The TCP port; ``None`` for a Unix socket."""
        if self.socket.family == socket.AF_UNIX:
            return None
        return int(self.socket.getsockname()[1])

    @property
    def is_local(self) -> bool:
        """Whether only this host can reach it."""
        if self.socket.family == socket.AF_UNIX:
            return True
        return is_loopback(ip_address(self.socket.getsockname()[0]))

    def start_accepting(
        self,
        reactor: IReactorFDSet,
        factory: IProtocolFactory,
        *,
        pause_seconds: float = PAUSE_SECONDS,
        on_exhaustion: Callable[[], None] | None = None,
    ) -> IListeningPort:
        """Start to accept connections; from now on the returned port owns the socket.

        :param pause_seconds: how long a connection to a shared socket is left to other daemons.
        :param on_exhaustion: called for each connection that finds no free descriptor.
        """
        # Private: the public adoptStreamPort makes Twisted's class. docs/twisted-internals.md
        if self.socket.family == socket.AF_UNIX:
            port: TcpPort | UnixPort = UnixPort(reactor, self.socket.dup(), factory)
        else:
            port = TcpPort._fromListeningDescriptor(
                reactor, self.socket.fileno(), self.socket.family, factory
            )
        port.is_shared = self.is_shared
        port.pause_seconds = pause_seconds
        if on_exhaustion is not None:
            port.count_exhaustion(on_exhaustion)
        port.startListening()
        self.socket.close()
        return port

    def close(self) -> None:
        """Delete the socket file, and close the socket if no port owns it.

        Call it while the port still accepts: then no other process takes the file for a stale one,
        and its inode is not used again.
        """
        if self.socket_file:
            self.socket_file.remove()
        self.socket.close()


@dataclass(frozen=True, kw_only=True)
class _SocketFile:
    """A socket file and its inode: another process may have put its own in the same place."""

    path: Path
    inode: tuple[int, int]

    def remove(self) -> None:
        with suppress(OSError):
            if _identify_file(self.path) == self.inode:
                self.path.unlink()


def bind_listeners(endpoints: Iterable[Endpoint]) -> list[Listener]:
    """Bind the listeners of all endpoints, or none.

    :raises ListenerError: for a wrong argument, and when an address cannot be bound.
    """
    bound: list[Listener] = []
    try:
        for endpoint in endpoints:
            bound.append(bind_listener(endpoint))
    except BaseException:
        for listener in bound:
            listener.close()
        raise
    return bound


def bind_listener(endpoint: Endpoint) -> Listener:
    """Bind the listener of an endpoint.

    :raises ListenerError: as :func:`bind_listeners` does.
    """
    try:
        listener = _BINDERS[endpoint.kind](endpoint)
    except OSError as reason:
        raise ListenerError(
            f"cannot listen on {endpoint.text}: {reason.strerror or reason}"
        ) from None
    except ValueError as reason:
        raise ListenerError(f"{endpoint.text}: {reason}") from None
    return replace(listener, certificate_files=endpoint.certificate_files)


def _bind_internet(endpoint: Endpoint) -> Listener:
    assert endpoint.address is not None
    family = socket.AF_INET if endpoint.address.version == 4 else socket.AF_INET6
    port = parse_number("port", endpoint.arguments.get("port", ""), MAX_PORT)
    backlog = _parse_backlog(endpoint.arguments)
    with _close_on_failure(socket.socket(family, socket.SOCK_STREAM)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((str(endpoint.address), port))
        listening.listen(backlog)
        listening.setblocking(False)
    return Listener(text=endpoint.text, socket=listening)


def _bind_unix(endpoint: Endpoint) -> Listener:
    arguments = endpoint.arguments
    if not arguments.get("address"):
        raise ValueError("the path of the socket is missing")
    if arguments.get("lockfile", "1") not in {"0", "1"}:
        raise ValueError("lockfile must be 0 or 1")
    mode = arguments.get("mode", "660")
    if not re.fullmatch(r"0?[0-7]{3}", mode, re.ASCII):
        raise ValueError("mode must be three octal digits, for example 660")
    backlog = _parse_backlog(arguments)
    path = Path(arguments["address"]).absolute()
    _remove_stale_socket(path)
    with _close_on_failure(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listening:
        listening.bind(str(path))
        socket_file = _SocketFile(path=path, inode=_identify_file(path))
        try:
            path.chmod(int(mode, 8))
            listening.listen(backlog)
        except OSError:
            socket_file.remove()
            raise
        listening.setblocking(False)
    return Listener(text=endpoint.text, socket=listening, socket_file=socket_file)


def _bind_systemd(endpoint: Endpoint) -> Listener:
    arguments = endpoint.arguments
    if ("index" in arguments) == ("name" in arguments):
        raise ValueError("either index or name must be set, and not both")
    count, names = _read_systemd_sockets()
    if "name" in arguments:
        if arguments["name"] not in names:
            raise ValueError("systemd has not passed a socket with this name")
        index = names.index(arguments["name"])
    else:
        index = parse_number("index", arguments["index"], 1000)
    if index >= count:
        raise ValueError(f"systemd has passed {count} sockets to this process")
    return _adopt_descriptor(
        endpoint.text, FIRST_INHERITED_DESCRIPTOR + index, arguments.get("domain", "")
    )


def _read_systemd_sockets() -> tuple[int, list[str]]:
    """Return how many sockets systemd has passed to this process, and their names."""
    environment = _read_initial_environment()
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return 0, []
    count = environment.get("LISTEN_FDS", "")
    names = environment.get("LISTEN_FDNAMES", "")
    return int(count) if re.fullmatch("[0-9]{1,4}", count) else 0, names.split(":")


def _read_initial_environment() -> Mapping[str, str]:
    """Return the environment that the process was started with.

    ``os.environ`` does not have systemd's variables any more: Twisted removes them when twistd
    looks for its plugins (docs/decisions/0035).
    """
    try:
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return os.environ
    pairs = (os.fsdecode(entry).partition("=") for entry in entries)
    return {name: value for name, _, value in pairs}


def _bind_fd(endpoint: Endpoint) -> Listener:
    number = parse_number("number", endpoint.arguments.get("number", ""), 2**31 - 1)
    if number < FIRST_INHERITED_DESCRIPTOR:
        raise ValueError(f"number must be {FIRST_INHERITED_DESCRIPTOR} or greater")
    return _adopt_descriptor(endpoint.text, number, endpoint.arguments.get("domain"))


def _adopt_descriptor(text: str, number: int, domain: str | None) -> Listener:
    """Return a listener on a descriptor that this process inherited; its file is not ours."""
    if domain is not None and domain not in FAMILIES:
        raise ValueError(f"domain must be one of {', '.join(FAMILIES)}")
    try:
        inherited = socket.socket(fileno=os.dup(number))  # the original stays open for others
    except OSError:
        raise ValueError(f"descriptor {number} is not a socket") from None
    with _close_on_failure(inherited):
        if inherited.family not in FAMILIES.values() or inherited.type != socket.SOCK_STREAM:
            raise ValueError(f"descriptor {number} is not a stream socket")
        if not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError(f"the socket of descriptor {number} is not listening")
        if domain is not None and inherited.family != FAMILIES[domain]:
            raise ValueError(f"the socket of descriptor {number} is not in the domain {domain}")
        inherited.setblocking(False)
    return Listener(text=text, socket=inherited, is_shared=True)


@contextmanager
def _close_on_failure(opened: socket.socket) -> Iterator[socket.socket]:
    try:
        yield opened
    except BaseException:
        opened.close()
        raise


def _remove_stale_socket(path: Path) -> None:
    """Delete the socket file of a process that has ended.

    :raises OSError: when a process still listens on it.
    :raises ValueError: when the file is not a socket.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ValueError("the path exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # a process listens, but its queue is full
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _identify_file(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _parse_backlog(arguments: Mapping[str, str]) -> int:
    return parse_number("backlog", arguments.get("backlog", str(DEFAULT_BACKLOG)), 65535)


_BINDERS: Final[Mapping[str, Callable[[Endpoint], Listener]]] = {
    "tcp": _bind_internet,
    "tcp6": _bind_internet,
    "ssl": _bind_internet,
    "unix": _bind_unix,
    "systemd": _bind_systemd,
    "fd": _bind_fd,
}
