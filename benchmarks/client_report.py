"""What a report costs through the client library, beside curl that writes it to a file.

``python -m benchmarks.client_report URL`` asks any running API, in turns, for all of a report.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import click
import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from mig.client import MIGClient

LIMIT: Final = 10_000_000
_REPORT: Final = f"type=command&report=complianceitems&after=0001-01-01T00:00:00Z&limit={LIMIT}"
_NDJSON: Final = "&format=ndjson&seal=true"


class Reading(NamedTuple):
    """One or several reports through the client: items, seconds, CPU seconds, and megabytes."""

    items: int
    seconds: float
    cpu_seconds: float
    megabytes: int


async def _count_items(client: MIGClient) -> int:
    count = 0
    async for _ in client.compliance_items(after="0001-01-01T00:00:00Z", limit=LIMIT):
        count += 1
    return count


async def _read_reports(url: str, clients: int) -> None:
    started = time.monotonic()
    client = MIGClient(url)
    reports = [Deferred.fromCoroutine(_count_items(client)) for _ in range(clients)]
    items = sum(await gatherResults(reports))
    reading = Reading(
        items,
        time.monotonic() - started,
        time.process_time(),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    )
    await client.close()
    print(msgspec.json.encode(reading).decode())


def _read_in_process(url: str, clients: int) -> Reading:
    program = [sys.executable, "-m", "benchmarks.client_report", url, "--clients", str(clients)]
    done = subprocess.run([*program, "--child"], stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout, type=Reading)


def _time_curl(url: str, file: Path) -> float:
    """Return the seconds that curl takes: for NDJSON where that is known, else Collection+JSON."""
    for query in (_REPORT + _NDJSON, _REPORT):
        started = time.monotonic()
        address = f"{url.rstrip('/')}/search?{query}"
        done = subprocess.run(
            ["curl", "-s", "--compressed", "-o", file, "-w", "%{http_code}", address],
            stdout=subprocess.PIPE,
            check=True,
        )
        if done.stdout == b"200":
            return time.monotonic() - started
    raise click.ClickException(f"{url} answers {done.stdout.decode()}")


@click.command()
@click.argument("url")
@click.option("--rounds", default=5, help="How often both are measured, in turns.")
@click.option("--clients", default=1, help="How many reports are read at once.")
@click.option("--child", is_flag=True, hidden=True)
def main(url: str, rounds: int, clients: int, child: bool) -> None:
    """Measure the report of the API at URL, through the library and through curl."""
    if child:
        react(_start, (url, clients))
    curl: list[float] = []
    readings: list[Reading] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            curl.append(_time_curl(url, Path(folder) / "report"))
            readings.append(_read_in_process(url, clients))
    seconds = [reading.seconds for reading in readings]
    print(f"items {readings[0].items}, in {clients} reports at once")
    print(f"curl to a file, one report: median {median(curl):.2f} s, fastest {min(curl):.2f} s")
    print(f"client: median {median(seconds):.2f} s, fastest {min(seconds):.2f} s")
    print(f"client, CPU: fastest {min(reading.cpu_seconds for reading in readings):.2f} s")
    print(f"client, memory: most {max(reading.megabytes for reading in readings)} MB")


def _start(reactor: object, url: str, clients: int) -> Deferred[None]:
    return Deferred.fromCoroutine(_read_reports(url, clients))


if __name__ == "__main__":
    main()
