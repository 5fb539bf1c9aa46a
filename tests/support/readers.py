"""Many clients that read an answer slowly or not at all, in one thread."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field

TICK_SECONDS = 0.05


@dataclass(eq=False)
class Reader:
    """A client that reads *bytes_per_second* of its answer; with 0 it reads only the head."""

    path: str
    bytes_per_second: int
    connection: socket.socket = field(init=False)
    received: bytearray = field(default_factory=bytearray)
    outcome: str = ""
    started: float = 0.0
    length: int = 0

    def connect(self, port: int) -> None:
        """Connect, also again, and send the request if there is a path."""
        self.outcome, self.length = "", 0
        self.received.clear()
        self.connection = socket.socket()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        self.connection.settimeout(20)
        self.connection.connect(("127.0.0.1", port))
        if self.path:
            request = f"GET {self.path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            self.connection.sendall(request.encode())
        self.connection.setblocking(False)
        self.started = time.monotonic()

    def read_what_is_due(self) -> None:
        """Read as much as the client's speed allows by now."""
        due = int((time.monotonic() - self.started) * self.bytes_per_second) - self.length
        if self.bytes_per_second == 0:
            due = 0 if self.received else 1000
            if self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.outcome = "reset"
        if due <= 0:
            return
        try:
            data = self.connection.recv(due)
        except BlockingIOError:
            return
        except ConnectionResetError:
            self.outcome = "reset"
        else:
            self.received += data
            self.length += len(data)
            self.outcome = "" if data else "ended"
        if self.outcome:
            self.connection.close()

    @property
    def status(self) -> int:
        """The status of the answer; 0 when there is none."""
        return int(self.received.split()[1]) if self.received else 0

    @property
    def body(self) -> bytes:
        """The body of the answer, without the marks of its chunks."""
        rest, parts = bytes(self.received).partition(b"\r\n\r\n")[2], []
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            parts.append(rest[: int(size, 16)])
            rest = rest[int(size, 16) + 2 :]
        return b"".join(parts)


class ReaderThread:
    """The clients *readers*, until all that read have ended or *is_over* says so."""

    def __init__(self, port: int, readers: list[Reader]) -> None:
        self._port = port
        self.readers = readers
        self.cut = self.refused = 0
        self.is_over = False

    def run(self) -> None:
        """Read; a client that is refused, or stalled and was cut, connects again."""
        for reader in self.readers:
            reader.connect(self._port)
        while not self.is_over:
            for reader in self.readers:
                if not reader.outcome and reader.path:
                    reader.read_what_is_due()
                elif reader.outcome and (reader.status == 503 or not reader.bytes_per_second):
                    self.refused += reader.status == 503
                    self.cut += reader.status != 503
                    reader.connect(self._port)
            time.sleep(TICK_SECONDS)
        for reader in self.readers:
            reader.connection.close()

    def wait_for_slow(self, seconds: float) -> bool:
        """Return whether every slow reader has ended within *seconds*."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            slow = [reader for reader in self.readers if reader.bytes_per_second]
            if all(reader.outcome and reader.status != 503 for reader in slow):
                return True
            time.sleep(TICK_SECONDS)
        return False
