"""``python -m benchmarks.attacker``: clients that repeat expensive requests, one thread for each.

Unlike the load generator, they send large bodies at once, and take every answer, also none.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from typing import Final
from urllib.parse import urlsplit

from benchmarks.child_processes import ChildProcesses
from benchmarks.load import Request

LOOPBACK: Final = int(IPv4Address("127.0.0.0"))
TIMEOUT_SECONDS: Final = 60.0
PAUSE_AFTER_REFUSAL_SECONDS: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Requests that ``connections`` clients repeat in turn.

    They have as many ``addresses`` of 127.0.0.0/8 together. With ``is_closed`` the daemon requires
    credentials.
    """

    name: str
    about: str
    requests: list[Request]
    connections: int = 2
    addresses: int = 1
    is_closed: bool = False


def run_attack(
    children: ChildProcesses, base: str, attack: Attack, seconds: float
) -> dict[str, int]:
    """Attack the server at ``base``; return how often the clients saw each status or error."""
    order = {"base": base, "seconds": seconds, "attack": asdict(attack)}
    answer = children.run([sys.executable, "-m", "benchmarks.attacker"], json.dumps(order))
    found: dict[str, int] = json.loads(answer)
    return found


class _Attackers:
    def __init__(self, base: str, attack: Attack, seconds: float) -> None:
        parts = urlsplit(base)
        self._address = (parts.hostname or "", parts.port)
        self._path = parts.path
        self._attack = attack
        self._end = time.monotonic() + seconds
        self.seen: Counter[str] = Counter()

    def run(self) -> None:
        threads = [
            threading.Thread(target=self._repeat, args=(n,))
            for n in range(self._attack.connections)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _repeat(self, first: int) -> None:
        n = first
        while time.monotonic() < self._end:
            request = self._attack.requests[n % len(self._attack.requests)]
            answer = self._send(request, 2 + n % self._attack.addresses)
            self.seen[answer] += 1
            n += 1
            if not answer.isdigit():
                time.sleep(PAUSE_AFTER_REFUSAL_SECONDS)

    def _send(self, request: Request, address: int) -> str:
        source = (str(IPv4Address(LOOPBACK + address)), 0)
        connection = http.client.HTTPConnection(
            *self._address, timeout=TIMEOUT_SECONDS, source_address=source
        )
        headers = dict(request.headers)
        if request.body:
            headers["Content-Type"] = request.media_type
        try:
            connection.request(
                request.method, self._path + request.target, request.body.encode(), headers
            )
            response = connection.getresponse()
            while response.read(1 << 20):
                pass
            return str(response.status)
        except (OSError, http.client.HTTPException) as reason:
            return type(reason).__name__
        finally:
            connection.close()


def main() -> None:
    """Attack as standard input says, and write what was seen to standard output."""
    order = json.load(sys.stdin)
    requests = [Request(**request) for request in order["attack"].pop("requests")]
    attackers = _Attackers(
        order["base"], Attack(requests=requests, **order["attack"]), order["seconds"]
    )
    attackers.run()
    json.dump(attackers.seen, sys.stdout)


if __name__ == "__main__":
    main()
