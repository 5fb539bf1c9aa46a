"""The load generator, a process of its own: ``python -m benchmarks.load``, JSON in and out.

Plain sockets and epoll: one small request costs it about a twentieth of what it costs the servers
that are measured.
"""

from __future__ import annotations

import itertools
import json
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Final
from urllib.parse import urlsplit

from benchmarks.answer import Answer, Malformed
from benchmarks.children import Children
from benchmarks.figures import percentile

BLOCK: Final = 1 << 18
SLOW_BLOCK: Final = 1 << 15
SILENCE_SECONDS: Final = 120.0


@dataclass(frozen=True, kw_only=True)
class Request:
    target: str
    method: str = "GET"
    body: str = ""
    media_type: str = ""

    def encoded(self, host: str) -> bytes:
        """The request as it is sent."""
        body = self.body.encode()
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {host}"]
        if body:
            lines += [f"Content-Type: {self.media_type}", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True, kw_only=True)
class Group:
    """Clients that do the same: each sends its next request when the answer is whole.

    They go round in *requests*, for *seconds*, or, when that is 0, send each once; with
    *meanwhile* as long as other groups are at work. *pause* is waited between answer and request.
    With *rate* an answer is read that slowly, in bytes/s, and given up after *seconds*.
    """

    name: str
    requests: list[Request]
    connections: int = 1
    seconds: float = 0.0
    meanwhile: bool = False
    pause: float = 0.0
    rate: float = 0.0
    expect: int = 200
    needle: str = ""


@dataclass(kw_only=True)
class Outcome:
    """What the clients of a group saw; times in milliseconds."""

    name: str
    answers: int = 0
    failures: int = 0
    failure: str = ""
    bytes: int = 0
    found: int = 0
    seconds: float = 0.0
    client_cpu_s: float = 0.0
    first_byte_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    statuses: dict[str, int] = field(default_factory=dict)


class _Work:
    """A group under way."""

    def __init__(self, group: Group, host: str) -> None:
        encoded = [request.encoded(host) for request in group.requests]
        endless = group.seconds or group.meanwhile
        self.group = group
        self.requests: Iterator[bytes] = itertools.cycle(encoded) if endless else iter(encoded)
        self.outcome = Outcome(name=group.name)
        self.needle = group.needle.encode()
        self.active = 0
        self._latencies: list[float] = []
        self._first_bytes: list[float] = []

    def took(self, client: _Client) -> None:
        """Count a whole answer."""
        answer, outcome = client.answer, self.outcome
        status = str(answer.status)
        outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
        if answer.status != self.group.expect:
            self.failed(f"status {status}")
            return
        outcome.answers += 1
        outcome.bytes += answer.bytes
        outcome.found += answer.found
        self._latencies.append(time.perf_counter() - client.sent)
        self._first_bytes.append(client.first)

    def gave_up(self, client: _Client) -> None:
        """Count an answer that was read as far as there was time."""
        self.outcome.bytes += client.answer.bytes
        self._first_bytes.append(client.first)

    def failed(self, reason: str) -> None:
        """Count a request without the answer that it should have."""
        self.outcome.failures += 1
        self.outcome.failure = self.outcome.failure or reason

    def finish(self) -> Outcome:
        """What was seen, in all."""
        outcome = self.outcome
        milliseconds = sorted(seconds * 1000 for seconds in self._latencies)
        if self._first_bytes:
            outcome.first_byte_ms = percentile(sorted(self._first_bytes), 50) * 1000
        if milliseconds:
            outcome.p50_ms = percentile(milliseconds, 50)
            outcome.p95_ms = percentile(milliseconds, 95)
            outcome.p99_ms = percentile(milliseconds, 99)
            outcome.max_ms = milliseconds[-1]
        outcome.client_cpu_s = time.process_time()
        return outcome


class _Client:
    """One keep-alive connection of a group."""

    def __init__(self, work: _Work, address: tuple[str, int]) -> None:
        self.work = work
        self.slow = bool(work.group.rate)
        self.socket = socket.socket()
        if self.slow:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BLOCK)
        self.socket.settimeout(SILENCE_SECONDS)
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> None:
        self.answer = Answer(self.work.needle)
        self.first = 0.0
        self.sent = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Take what is there; whether the answer is whole."""
        data = self.socket.recv(SLOW_BLOCK if self.slow else BLOCK)
        if not self.first:
            self.first = time.perf_counter() - self.sent
        if not data:
            self.answer.ended()
            raise EndOfConnection
        return self.answer.feed(data)


class EndOfConnection(Exception):
    """The server closes the connection after a whole answer."""


class Load:
    """All groups at once, against one server."""

    def __init__(self, address: tuple[str, int], groups: list[Group]) -> None:
        self._address = address
        self._works = [_Work(group, f"{address[0]}:{address[1]}") for group in groups]
        self._selector = selectors.DefaultSelector()
        self._later: list[tuple[float, Callable[[], None]]] = []

    def run(self) -> list[Outcome]:
        """Work until every group has done what it should."""
        clients = [self._connect(w) for w in self._works for _ in range(w.group.connections)]
        self._began = time.perf_counter()
        for client in clients:
            client.work.active += 1
            self._next(client)
        while any(work.active for work in self._works):
            self._turn()
        return [work.finish() for work in self._works]

    def _turn(self) -> None:
        now = time.perf_counter()
        due = [call for at, call in self._later if at <= now]
        self._later = [(at, call) for at, call in self._later if at > now]
        for call in due:
            call()
        patience = min((at - now for at, _ in self._later), default=SILENCE_SECONDS)
        events = self._selector.select(0.0 if due else patience)
        if not (events or due or self._later):
            raise TimeoutError(f"nothing came for {SILENCE_SECONDS:.0f} s")
        for key, _ in events:
            self._receive(key.data)

    def _receive(self, client: _Client) -> None:
        try:
            if client.receive():
                client.work.took(client)
                self._again(client)
            elif client.slow:
                self._slowly(client)
        except EndOfConnection:
            client.work.took(client)
            self._again(self._reconnected(client))
        except (OSError, Malformed) as reason:
            client.work.failed(f"{type(reason).__name__}: {reason}")
            self._again(self._reconnected(client))

    def _slowly(self, client: _Client) -> None:
        """Leave what comes to the kernel for a while, or give the answer up."""
        group = client.work.group
        if time.perf_counter() > self._began + group.seconds:
            client.work.gave_up(client)
            self._end(client)
            return
        self._selector.unregister(client.socket)
        due = client.sent + client.answer.bytes / group.rate
        self._later.append((due, lambda: self._watch(client)))

    def _again(self, client: _Client) -> None:
        if pause := client.work.group.pause:
            self._later.append((time.perf_counter() + pause, lambda: self._next(client)))
        else:
            self._next(client)

    def _next(self, client: _Client) -> None:
        work = client.work
        request = None if self._is_over(work.group) else next(work.requests, None)
        if request is None:
            self._end(client)
            return
        try:
            client.send(request)
        except OSError as reason:
            work.failed(f"{type(reason).__name__}: {reason}")
            self._again(self._reconnected(client))

    def _is_over(self, group: Group) -> bool:
        if group.meanwhile:
            return not any(work.active for work in self._works if not work.group.meanwhile)
        return bool(group.seconds) and time.perf_counter() > self._began + group.seconds

    def _end(self, client: _Client) -> None:
        self._selector.unregister(client.socket)
        client.socket.close()
        client.work.active -= 1
        client.work.outcome.seconds = time.perf_counter() - self._began

    def _connect(self, work: _Work) -> _Client:
        client = _Client(work, self._address)
        self._watch(client)
        return client

    def _reconnected(self, client: _Client) -> _Client:
        self._selector.unregister(client.socket)
        client.socket.close()
        return self._connect(client.work)

    def _watch(self, client: _Client) -> None:
        self._selector.register(client.socket, selectors.EVENT_READ, client)


def ask(children: Children, base: str, *groups: Group) -> list[Outcome]:
    """What the groups see of the server at *base*; their targets are paths below it."""
    parts = urlsplit(base)
    order = {
        "address": [parts.hostname, parts.port or 80],
        "base": parts.path.rstrip("/"),
        "groups": [asdict(group) for group in groups],
    }
    command = [sys.executable, "-m", "benchmarks.load"]
    return [Outcome(**one) for one in json.loads(children.run(command, json.dumps(order)))]


def main() -> None:
    """Do what standard input orders, and write what was seen to standard output."""
    order = json.load(sys.stdin)
    groups = []
    for given in order["groups"]:
        for request in given["requests"]:
            request["target"] = order["base"] + request["target"]
        groups.append(Group(**given | {"requests": [Request(**r) for r in given["requests"]]}))
    json.dump([asdict(one) for one in Load(tuple(order["address"]), groups).run()], sys.stdout)


if __name__ == "__main__":
    main()
