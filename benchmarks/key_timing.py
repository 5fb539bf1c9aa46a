"""``python -m benchmarks.key_timing URL``: whether the time of a refusal tells if an id is known.

It sends keys that are wrong to a running daemon: one half names ``--known`` ids, the other half ids
that do not exist, in random order and each from another address. The daemon must trust this host's
X-Forwarded-For (``clientpublicip = x-forwarded-for:0``). It prints the medians and the Mann-Whitney
test: |z| above 3 is a difference that chance hardly makes.
"""

from __future__ import annotations

import argparse
import http.client
import math
import random
import statistics
import time
from ipaddress import IPv4Address
from urllib.parse import urlsplit

from mig.access.apikeys import make_key

FIRST_ADDRESS = int(IPv4Address("198.18.0.0"))


def measure(url: str, known: list[int], unknown: list[int], samples: int) -> list[list[float]]:
    """Return the seconds of ``samples`` refusals of known ids, and of as many of unknown ones."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    times: list[list[float]] = [[], []]
    order = [0, 1] * samples
    random.shuffle(order)
    for n, kind in enumerate(order):
        key = make_key(random.choice((known, unknown)[kind]))
        headers = {"X-MIGAPIKEY": key, "X-Forwarded-For": str(IPv4Address(FIRST_ADDRESS + n))}
        begin = time.perf_counter()
        connection.request("GET", f"{parts.path}/search?type=agent&limit=1", headers=headers)
        response = connection.getresponse()
        response.read()
        times[kind].append(time.perf_counter() - begin)
        if response.status != http.client.UNAUTHORIZED:
            raise SystemExit(f"status {response.status}: is the client address trusted?")
    return times


def compute_z(first: list[float], second: list[float]) -> float:
    """Return the normal approximation of the Mann-Whitney U test of two samples."""
    ranked = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    rank_sum = sum(rank for rank, (_, kind) in enumerate(ranked, 1) if kind == 0)
    n, m = len(first), len(second)
    u = rank_sum - n * (n + 1) / 2
    return (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)


def main() -> None:
    """Measure the daemon at the URL of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.key_timing", description=__doc__)
    parser.add_argument("url", help="for example http://localhost:1664/api/v1")
    parser.add_argument("--known", type=int, nargs="+", required=True, help="ids of keys")
    parser.add_argument("--samples", type=int, default=2_000)
    options = parser.parse_args()
    unknown = [max(options.known) + 1_000_000 + n for n in range(len(options.known))]
    measure(options.url, options.known, unknown, 200)  # warms up
    known_times, unknown_times = measure(options.url, options.known, unknown, options.samples)
    for name, seconds in (("known", known_times), ("unknown", unknown_times)):
        print(f"{name:8} median {statistics.median(seconds) * 1e6:.0f} us")
    print(f"Mann-Whitney z = {compute_z(known_times, unknown_times):.2f}")


if __name__ == "__main__":
    main()
