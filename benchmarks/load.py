"""``python -m benchmarks.load``: the load generator, which reads and writes JSON.

It is a process of its own with plain sockets and epoll (docs/decisions/benchmark/0001): a small
request costs it about a twentieth of what the measured servers need.
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

from benchmarks.child_processes import ChildProcesses
from benchmarks.measurements import compute_percentile
from benchmarks.response_parser import MalformedAnswerError, ResponseParser

BLOCK: Final = 1 << 18
SLOW_BLOCK: Final = 1 << 15
SILENCE_SECONDS: Final = 120.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """An HTTP request."""

    target: str
    method: str = "GET"
    body: str = ""
    media_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self, host: str) -> bytes:
        """Return the bytes of the request."""
        body = self.body.encode()
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if body:
            lines += [f"Content-Type: {self.media_type}", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True, kw_only=True)
class ClientGroup:
    """Clients with the same task: each sends its next request when an answer is complete.

    They repeat ``requests`` for ``seconds``, or send each once when that is 0. With
    ``is_background`` they go on while other groups do. ``pause`` is the time between an answer and
    the next request. With ``rate`` clients read at so many bytes/s and leave after ``seconds``.
    """

    name: str
    requests: list[Request]
    connections: int = 1
    seconds: float = 0.0
    is_background: bool = False
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


class _GroupProgress:
    """A group at work, and what it has seen so far."""

    def __init__(self, group: ClientGroup, host: str) -> None:
        encoded = [request.encode(host) for request in group.requests]
        endless = group.seconds or group.is_background
        self.group = group
        self.requests: Iterator[bytes] = itertools.cycle(encoded) if endless else iter(encoded)
        self.outcome = Outcome(name=group.name)
        self.needle = group.needle.encode()
        self.active = 0
        self._latencies: list[float] = []
        self._first_bytes: list[float] = []

    def count_answer(self, client: _Client) -> None:
        """Count a complete answer."""
        answer, outcome = client.answer, self.outcome
        status = str(answer.status)
        outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
        if answer.status != self.group.expect:
            self.count_failure(f"status {status}")
            return
        outcome.answers += 1
        outcome.bytes += answer.body_bytes
        outcome.found += answer.needle_count
        self._latencies.append(time.perf_counter() - client.sent)
        self._first_bytes.append(client.first)

    def count_partial_answer(self, client: _Client) -> None:
        """Count an answer that was read until the time was over."""
        self.outcome.bytes += client.answer.body_bytes
        self._first_bytes.append(client.first)

    def count_failure(self, reason: str) -> None:
        """Count a request that did not get the expected answer."""
        self.outcome.failures += 1
        self.outcome.failure = self.outcome.failure or reason

    def summarize(self) -> Outcome:
        """Return the outcome of the whole group."""
        outcome = self.outcome
        milliseconds = sorted(seconds * 1000 for seconds in self._latencies)
        if self._first_bytes:
            outcome.first_byte_ms = compute_percentile(sorted(self._first_bytes), 50) * 1000
        if milliseconds:
            outcome.p50_ms = compute_percentile(milliseconds, 50)
            outcome.p95_ms = compute_percentile(milliseconds, 95)
            outcome.p99_ms = compute_percentile(milliseconds, 99)
            outcome.max_ms = milliseconds[-1]
        outcome.client_cpu_s = time.process_time()
        return outcome


class _Client:
    """One keep-alive connection of a group."""

    def __init__(self, work: _GroupProgress, address: tuple[str, int]) -> None:
        self.work = work
        self.slow = bool(work.group.rate)
        self.socket = socket.socket()
        if self.slow:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BLOCK)
        self.socket.settimeout(SILENCE_SECONDS)
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> None:
        """Send a request, and start to time its answer."""
        self.answer = ResponseParser(self.work.needle)
        self.first = 0.0
        self.sent = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Read what has arrived; return whether the answer is complete.

        :raises ConnectionEndedError: when the end of the connection completes it.
        :raises MalformedAnswerError: when it is not HTTP/1, or incomplete.
        """
        data = self.socket.recv(SLOW_BLOCK if self.slow else BLOCK)
        if not self.first:
            self.first = time.perf_counter() - self.sent
        if not data:
            self.answer.check_complete()
            raise ConnectionEndedError
        return self.answer.feed(data)


class ConnectionEndedError(Exception):
    """The server has closed the connection after a complete answer."""


class LoadGenerator:
    """All groups at work at once, against one server."""

    def __init__(self, address: tuple[str, int], groups: list[ClientGroup]) -> None:
        self._address = address
        self._works = [_GroupProgress(group, f"{address[0]}:{address[1]}") for group in groups]
        self._selector = selectors.DefaultSelector()
        self._later: list[tuple[float, Callable[[], None]]] = []

    def run(self) -> list[Outcome]:
        """Work until every group has finished, and return their outcomes.

        :raises TimeoutError: when no answer arrives for a long time.
        """
        clients = [self._connect_client(w) for w in self._works for _ in range(w.group.connections)]
        self._began = time.perf_counter()
        for client in clients:
            client.work.active += 1
            self._send_next(client)
        while any(work.active for work in self._works):
            self._process_events()
        return [work.summarize() for work in self._works]

    def _process_events(self) -> None:
        now = time.perf_counter()
        due = [call for at, call in self._later if at <= now]
        self._later = [(at, call) for at, call in self._later if at > now]
        for call in due:
            call()
        timeout = min((at - now for at, _ in self._later), default=SILENCE_SECONDS)
        events = self._selector.select(0.0 if due else timeout)
        if not (events or due or self._later):
            raise TimeoutError(f"no answer arrived for {SILENCE_SECONDS:.0f} s")
        for key, _ in events:
            self._receive_answer(key.data)

    def _receive_answer(self, client: _Client) -> None:
        try:
            if client.receive():
                client.work.count_answer(client)
                self._schedule_next(client)
            elif client.slow:
                self._pause_reading(client)
        except ConnectionEndedError:
            client.work.count_answer(client)
            self._schedule_next(self._reconnect(client))
        except (OSError, MalformedAnswerError) as reason:
            client.work.count_failure(f"{type(reason).__name__}: {reason}")
            self._schedule_next(self._reconnect(client))

    def _pause_reading(self, client: _Client) -> None:
        """Read nothing until the rate allows it, or leave when the time is over."""
        group = client.work.group
        if time.perf_counter() > self._began + group.seconds:
            client.work.count_partial_answer(client)
            self._close_client(client)
            return
        self._selector.unregister(client.socket)
        due = client.sent + client.answer.body_bytes / group.rate
        self._later.append((due, lambda: self._watch_client(client)))

    def _schedule_next(self, client: _Client) -> None:
        if pause := client.work.group.pause:
            self._later.append((time.perf_counter() + pause, lambda: self._send_next(client)))
        else:
            self._send_next(client)

    def _send_next(self, client: _Client) -> None:
        work = client.work
        request = None if self._is_over(work.group) else next(work.requests, None)
        if request is None:
            self._close_client(client)
            return
        try:
            client.send(request)
        except OSError as reason:
            work.count_failure(f"{type(reason).__name__}: {reason}")
            self._schedule_next(self._reconnect(client))

    def _is_over(self, group: ClientGroup) -> bool:
        if group.is_background:
            return not any(work.active for work in self._works if not work.group.is_background)
        return bool(group.seconds) and time.perf_counter() > self._began + group.seconds

    def _close_client(self, client: _Client) -> None:
        self._selector.unregister(client.socket)
        client.socket.close()
        client.work.active -= 1
        client.work.outcome.seconds = time.perf_counter() - self._began

    def _connect_client(self, work: _GroupProgress) -> _Client:
        client = _Client(work, self._address)
        self._watch_client(client)
        return client

    def _reconnect(self, client: _Client) -> _Client:
        self._selector.unregister(client.socket)
        client.socket.close()
        return self._connect_client(client.work)

    def _watch_client(self, client: _Client) -> None:
        self._selector.register(client.socket, selectors.EVENT_READ, client)


def run_load(children: ChildProcesses, base: str, *groups: ClientGroup) -> list[Outcome]:
    """Return what the groups see of the server at ``base``; their targets are paths below it."""
    parts = urlsplit(base)
    order = {
        "address": [parts.hostname, parts.port or 80],
        "base": parts.path.rstrip("/"),
        "groups": [asdict(group) for group in groups],
    }
    command = [sys.executable, "-m", "benchmarks.load"]
    return [Outcome(**one) for one in json.loads(children.run(command, json.dumps(order)))]


def main() -> None:
    """Run the groups that standard input describes, and write their outcomes to standard output."""
    order = json.load(sys.stdin)
    groups = []
    for group in order["groups"]:
        for request in group["requests"]:
            request["target"] = order["base"] + request["target"]
        groups.append(
            ClientGroup(**group | {"requests": [Request(**r) for r in group["requests"]]})
        )
    json.dump(
        [asdict(one) for one in LoadGenerator(tuple(order["address"]), groups).run()], sys.stdout
    )


if __name__ == "__main__":
    main()
