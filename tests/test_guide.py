"""The examples of docs/guide.md work as they are written, against the demo."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from mig.demo import fleet as demo
from tests.support.api import Api
from tests.support.postgres import TestDatabase

GUIDE = (Path(__file__).parent.parent / "docs" / "guide.md").read_text()
CURLS = re.findall(r"^    (curl 'http.*)$", GUIDE, re.MULTILINE)
KEY = re.findall(r"^    ((?:gpg|curl -F) .*)$", GUIDE, re.MULTILINE)
[SIGN] = re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
[SCRIPT] = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture
def demo_api(api: Api, database: TestDatabase) -> Iterator[Api]:
    assert demo.load_fleet(database.dsn)
    yield api


def run_shell(command: str) -> str:
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def run_guide_command(api: Api, command: str) -> str:
    here = command.replace("http://localhost:1664/api/v1", api.base)
    return str(await deferToThread(run_shell, here.replace("curl ", "curl -sSf ")))


@pytest.mark.parametrize("command", CURLS)
@pytest_twisted.ensureDeferred
async def test_the_commands_of_the_guide_work(demo_api: Api, command: str) -> None:
    assert (await run_guide_command(demo_api, command)).startswith('{"collection":{"version":"1.0"')


@pytest_twisted.ensureDeferred
async def test_keys_and_actions_can_be_added_as_the_guide_says(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tempfile.mkdtemp()
    monkeypatch.setenv("GNUPGHOME", home)
    monkeypatch.chdir(tmp_path)
    user = "Bob Kelso <bob_kelso@example.net>"
    options = "--batch --passphrase '' --quick-gen-key"
    try:
        await deferToThread(run_shell, f"gpg {options} '{user}' ed25519 sign never")
        assert len(KEY) == 2
        added = await run_guide_command(api, "\n".join(KEY))
        assert '"name":"Bob Kelso"' in added
        taken = await run_guide_command(api, SIGN)
        assert '"status":"init"' in taken and '"name":"Is it there?"' in taken
    finally:
        await deferToThread(run_shell, "gpgconf --kill all")
        shutil.rmtree(home)


@pytest_twisted.ensureDeferred
async def test_the_script_of_the_guide_counts_what_the_report_says(demo_api: Api) -> None:
    path = "/search?type=command&report=complianceitems&threatfamily=compliance"
    report = await demo_api.get(path)
    failed = report.body.count(b'"compliance":false')
    assert failed > 100

    def run_script() -> Any:
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, demo_api.base],
            capture_output=True,
            text=True,
            timeout=60,
        )

    done = await deferToThread(run_script)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f'{{"failed checks": {failed}}}\n'
    assert len(SCRIPT.strip().splitlines()) <= 32


@pytest_twisted.ensureDeferred
async def test_the_demo_fleet_is_as_documented(demo_api: Api, database: TestDatabase) -> None:
    assert demo.load_fleet(database.dsn) is False, "a fresh fleet is used again"
    [(agents, actions, commands, statuses, systems, families)] = database.execute(
        "select (select count(*) from agents), (select count(*) from actions),"
        " (select count(*) from commands), (select count(distinct status) from commands),"
        " (select count(distinct os) from agents),"
        " (select count(distinct threat->>'family') from actions)"
    )
    assert (agents, actions, commands, statuses) == (500, 40, 20_000, 7)
    assert systems == 3 and families >= 3
    for table in ("agents", "actions", "commands"):
        [(old_ids, ids)] = database.execute(
            f"select count(*) filter (where scale(id) = 17), count(*) from {table}"
        )
        assert 0 < old_ids < ids, "some ids are as the programs of 2013 to 2015 wrote them"
    whole = await demo_api.get(
        "/search?type=command&threatfamily=compliance&status=done&report=complianceitems"
        "&limit=100000"
    )
    assert whole.body.count(b'"name":"compliance item"') > 10_000
    assert b"unreadable" not in whole.body
    for resource in ("command", "agent", "action", "investigator"):
        found = await demo_api.get(f"/search?type={resource}&limit=100000")
        assert b"unreadable" not in found.body
        assert found.document["items"][0]["data"][0]["name"] == resource


@pytest_twisted.ensureDeferred
async def test_a_database_with_other_agents_is_not_used_for_a_demo(
    api: Api, database: TestDatabase
) -> None:
    database.execute(
        "insert into agents (id, name, queueloc, version, pid, starttime, heartbeattime)"
        " values (1, 'a', 'q', 'v', 1, now(), now())"
    )
    with pytest.raises(ValueError, match="agents that are not the demo's"):
        demo.load_fleet(database.dsn)
    assert database.execute("select count(*) from agents") == [(1,)]
