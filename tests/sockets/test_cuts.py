"""Every client sees that an answer was cut, in each format and encoding, behind each proxy."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.support import fleet
from tests.support.cuts import CurlClient, CuttingRelay, Order, make_clients, run_proxy
from tests.support.daemon import Daemon
from tests.support.postgres import TestDatabase
from tests.support.properties import REPETITIONS

FORMATS = ("collection", "ndjson", "csv")
ENCODINGS = ("identity", "gzip", "zstd")
CURL = CurlClient("curl")
SEARCH = f"type=command&report=complianceitems&{fleet.ANY_TIME}"


@pytest.fixture
def daemon(database: TestDatabase, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon whose report has some pages, also compressed."""
    random = Random(1)
    fleet.insert_rows(database.dsn, "agents", [fleet.make_agent(1)])
    fleet.insert_rows(database.dsn, "actions", [fleet.make_action(1)])
    commands = (
        fleet.make_command(n, 1, 1, results=fleet.make_results(fleet.make_hit(file)))
        for n, file in enumerate((random.randbytes(100).hex() for _ in range(400)), 1)
    )
    fleet.insert_rows(database.dsn, "commands", commands)
    folder = tmp_path / "daemon"
    folder.mkdir()
    running = Daemon("--listen", "tcp:0", "--database", database.dsn, cwd=folder)
    yield running
    running.stop()


class Answer:
    """An answer in one format and encoding, and the orders for it: whole, then cut."""

    def __init__(self, url: str, encoding: str, relay: CuttingRelay, seed: int) -> None:
        whole = Order(url=url, encoding=encoding)
        [found] = CURL.fetch([whole])
        assert "sha256" in found, found
        size = relay.last_size
        assert size > 15_000
        random = Random(seed)
        # the head leaves in one piece with the first bytes of the body, which a kill cannot part
        cuts = [random.randrange(relay.head_size + 1, size) for _ in range(REPETITIONS)]
        self.orders = [whole, *(replace(whole, cut=cut) for cut in cuts)]

    def find_unnoticed(self, found: list[dict[str, str]]) -> list[Order]:
        """Return the orders whose answer looks whole to a client and is not.

        The last bytes only end the message: without them the body is complete.
        """
        whole, *others = found
        assert "sha256" in whole, whole
        return [
            order
            for order, one in zip(self.orders[1:], others, strict=True)
            if not one.get("error") and one["sha256"] != whole["sha256"]
        ]


@pytest.mark.parametrize("proxy", ["direct", "nginx", "haproxy"])
@pytest_twisted.ensureDeferred
async def test_a_cut_answer_is_an_error_for_every_client(
    proxy: str, daemon: Daemon, tmp_path: Path
) -> None:
    # in a thread: PostgreSQL writes about each cut to a pipe that the reactor reads
    await deferToThread(check_cuts, proxy, daemon, tmp_path)


def check_cuts(proxy: str, daemon: Daemon, folder: Path) -> None:
    clients = make_clients(with_go=REPETITIONS > 1)
    relay = CuttingRelay(urlsplit(daemon.base).port or 0)
    try:
        with run_proxy(proxy, folder, relay.port) as port:
            url = f"http://127.0.0.1:{port}/api/v1/search?{SEARCH}"
            answers = [
                Answer(f"{url}&format={format_}", encoding, relay, seed)
                for seed, (format_, encoding) in enumerate(product(FORMATS, ENCODINGS))
            ]
            for client in clients:
                before = relay.cut_count
                found = iter(client.fetch([order for each in answers for order in each.orders]))
                for answer in answers:
                    own = list(islice(found, len(answer.orders)))
                    assert not answer.find_unnoticed(own), client.name
                assert relay.cut_count - before >= len(answers) * REPETITIONS
    finally:
        relay.close()


@pytest_twisted.ensureDeferred
async def test_a_failure_after_the_first_byte_is_an_error_in_every_encoding(
    daemon: Daemon, database: TestDatabase
) -> None:
    """It is one of the database, some pages into the report."""
    database.execute(
        "create function fail() returns json stable language plpgsql as"
        " $$ begin raise exception 'a fault'; end $$;"
        " alter table commands rename to stored;"
        " create view commands as select id, actionid, agentid, status, starttime, finishtime,"
        " case when id = 100 then fail() else results end as results from stored;"
        " grant select on commands to migapi"
    )
    for format_ in FORMATS:
        for encoding in ENCODINGS:
            url = f"{daemon.base}search?{SEARCH}&format={format_}"
            options = ["-sS", "-D", "-", "-H", f"Accept-Encoding: {encoding}"]
            command = ["curl", *options, url]
            done = await deferToThread(subprocess.run, command, capture_output=True, timeout=60)
            assert done.stdout.startswith(b"HTTP/1.1 200") and len(done.stdout) > 5_000
            assert done.returncode in (18, 56), done.stderr
