"""Answers that are cut at a chosen byte, on their way to a client or to a proxy."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.cluster import find_free_port
from tests.support.daemon import wait_for
from tests.support.programs import find_program

_FOLDER = Path(__file__).parent / "cut_clients"
_CUT = re.compile(rb"\r\nx-cut: *([0-9]+)", re.IGNORECASE)
_HOST = re.compile(rb"\r\nhost:[^\r]*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Order:
    """A request; ``cut`` is the number of bytes of its answer that arrive, 0 for all."""

    url: str
    encoding: str
    cut: int = 0


class CuttingRelay:
    """What a dying daemon looks like: it forwards the first bytes of an answer, and closes.

    A request says by the header X-Cut how many. The connection is closed, as by the end of a
    process, or reset, in turns. ``cut_count`` tells how many answers were cut, ``last_size`` and
    ``head_size`` the sizes of the last whole one, and of its head.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listening.getsockname()[1]
        self.cut_count = 0
        self.last_size = 0
        self.head_size = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # a thread that waits in accept() is woken by this, and not by close()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Forward requests and answers until a cut, or until either side closes."""
        with (
            client,
            contextlib.suppress(OSError),
            socket.create_connection(self._target) as daemon,
        ):
            head, cut, sent = b"", 0, 0
            while True:
                readable, _, _ = select.select([client, daemon], [], [])
                if daemon in readable:
                    data = daemon.recv(65536)
                    if cut and sent + len(data) > cut:
                        self._cut(client, data[: cut - sent])
                        return
                    if not data:
                        return
                    client.sendall(data)
                    if not sent:
                        self.head_size = data.index(b"\r\n\r\n") + 4
                    sent += len(data)
                    self.last_size = sent
                else:
                    data = client.recv(65536)
                    if not data:
                        return
                    head += data
                    if b"\r\n\r\n" in head:
                        found = _CUT.search(head)
                        cut, sent = int(found[1]) if found else 0, 0
                        daemon.sendall(_HOST.sub(b"\r\nHost: localhost", head))
                        head = b""

    def _cut(self, client: socket.socket, last: bytes) -> None:
        client.sendall(last)
        self.cut_count += 1
        if self.cut_count % 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Client:
    """A program that reads answers one after the other."""

    def __init__(self, name: str, *command: str) -> None:
        self.name = name
        self._command = command

    def fetch(self, orders: Sequence[Order]) -> list[dict[str, str]]:
        """Return, for each answer, the hash of the body or the error that the program saw."""
        text = "".join(json.dumps(vars(order)) + "\n" for order in orders)
        done = subprocess.run(self._command, input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


class CurlClient(Client):
    """curl, which is started for each answer."""

    def fetch(self, orders: Sequence[Order]) -> list[dict[str, str]]:
        found = []
        for order in orders:
            headers = (f"Accept-Encoding: {order.encoding}", f"X-Cut: {order.cut}")
            options = [option for header in headers for option in ("-H", header)]
            command = ["curl", "-sSf", "--compressed", *options, order.url]
            done = subprocess.run(command, capture_output=True)
            if done.returncode:
                found.append({"error": done.stderr.decode()})
            else:
                found.append({"sha256": hashlib.sha256(done.stdout).hexdigest()})
        return found


def make_clients(*, with_go: bool) -> list[Client]:
    """Return all clients; the one in Go is compiled first, which takes long."""
    python, node = str(_FOLDER / "client.py"), str(_FOLDER / "client.mjs")
    clients = [
        CurlClient("curl"),
        Client("requests", sys.executable, python, "requests"),
        Client("http.client", sys.executable, python, "http.client"),
        Client("Node http", find_program("node"), node, "http"),
        Client("Node fetch", find_program("node"), node, "fetch"),
    ]
    if with_go:
        clients.append(Client("Go", find_program("go"), "run", str(_FOLDER / "client.go")))
    return clients


_NGINX = """
daemon off; pid {folder}/pid; error_log stderr; {user}
events {{ }}
http {{
    access_log off; {folders}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{target};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""
_HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 90s
    timeout server 90s
frontend mig
    bind 127.0.0.1:{port}
    default_backend mig_api
backend mig_api
    server api 127.0.0.1:{target}
"""


@contextmanager
def run_proxy(name: str, folder: Path, target: int) -> Iterator[int]:
    """Run nginx or HAProxy in front of a port; yield its own port. ``direct`` has none."""
    if name == "direct":
        yield target
        return
    port = find_free_port()
    file = folder / f"{name}.conf"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    text = (_NGINX if name == "nginx" else _HAPROXY).format(
        folder=folder,
        folders="".join(f"{kind}_temp_path {folder}/{kind}; " for kind in kinds),
        port=port,
        target=target,
        user="user root;" if folder.owner() == "root" else "",
    )
    file.write_text(text)
    options = ["-e", "stderr", "-p", str(folder), "-c"] if name == "nginx" else ["-db", "-f"]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([find_program(name), *options, file], stdout=log, stderr=log)
    try:
        wait_for(lambda: _accepts(port))
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
