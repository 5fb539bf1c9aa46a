"""The programs that people use read each format as it is."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from datetime import UTC, datetime

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from mig.demo import fleet as demo
from tests.support.api import Api
from tests.support.formats import read_items
from tests.support.json_types import JsonObject
from tests.support.postgres import TestDatabase
from tests.support.programs import find_program

REPORT = "/search?type=command&report=complianceitems"
BY_CHECK = (
    "select \"check.name\" as name, count(*) as items from read_csv('/dev/stdin') group by name"
)


@pytest.fixture
def demo_api(api: Api, database: TestDatabase) -> Api:
    assert demo.load_fleet(database.dsn, datetime.now(UTC))
    return api


async def pipe(api: Api, path: str, *program: str) -> str:
    """Return what a program prints that reads an answer from curl."""

    def run() -> str:
        url = f"{api.base}{path}"
        with subprocess.Popen(["curl", "-sSf", url], stdout=subprocess.PIPE) as curl:
            done = subprocess.run(
                program, stdin=curl.stdout, capture_output=True, text=True, timeout=60
            )
        assert (curl.returncode, done.returncode) == (0, 0), done.stderr
        return done.stdout

    return str(await deferToThread(run))


async def read_report(api: Api) -> list[JsonObject]:
    return read_items((await api.get(f"{REPORT}&limit=100000")).document)


@pytest_twisted.ensureDeferred
async def test_jq_reads_ndjson(demo_api: Api) -> None:
    expected = await read_report(demo_api)
    found = await pipe(demo_api, f"{REPORT}&format=ndjson", find_program("jq"), "-c", ".check.test")
    assert [json.loads(line) for line in found.splitlines()] == [
        item["check"]["test"] for item in expected
    ]
    ids = await pipe(
        demo_api, "/search?type=agent&format=ndjson&ids=text", find_program("jq"), "-r", ".id"
    )
    agents = read_items((await demo_api.get("/search?type=agent")).document)
    assert ids.split() == [str(agent["id"]) for agent in agents]


@pytest_twisted.ensureDeferred
async def test_duckdb_reads_csv_and_ndjson(demo_api: Api) -> None:
    expected = Counter(item["check"]["name"] for item in await read_report(demo_api))
    duckdb = find_program("duckdb")
    in_ndjson = BY_CHECK.replace("read_csv", "read_json").replace('"check.name"', '"check".name')
    for format_, sql in (("csv", BY_CHECK), ("ndjson", in_ndjson)):
        path = f"{REPORT}&format={format_}"
        found = await pipe(demo_api, path, duckdb, "-json", "-c", sql)
        assert {row["name"]: row["items"] for row in json.loads(found)} == expected
    # every column of every kind
    sql = "select * from read_csv('/dev/stdin', header = true, all_varchar = true)"
    for kind in ("action", "agent", "command", "investigator"):
        path = f"/search?type={kind}&limit=500"
        records = read_items((await demo_api.get(path)).document)
        found = await pipe(demo_api, f"{path}&format=csv", duckdb, "-json", "-c", sql)
        rows = json.loads(found)
        assert [row["id"] for row in rows] == [str(record["id"]) for record in records]
        assert [row["status"] for row in rows] == [record["status"] for record in records]
