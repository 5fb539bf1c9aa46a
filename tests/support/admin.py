"""A client of the admin listener on a Unix socket."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import NamedTuple


class Answered(NamedTuple):
    """The status and the body of an answer."""

    status: int
    body: str


def ask_admin(path: Path, target: str, host: str = "localhost") -> Answered:
    """Return the answer of the admin listener on the Unix socket *path*."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        connection.sendall(
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        received = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    head, _, body = received.partition("\r\n\r\n")
    return Answered(int(head.split()[1]), body)
