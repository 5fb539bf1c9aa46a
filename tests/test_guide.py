"""The examples of docs/guide.md work as they are written, against the demo."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from mig.demo.fleet import load_fleet
from tests.support.api import Api
from tests.support.postgres import TestDatabase
from tests.support.programs import PATH, find_program

GUIDE = (Path(__file__).parent.parent / "docs" / "guide.md").read_text()
CURLS = re.findall(r"^    (curl 'http.*)$", GUIDE, re.MULTILINE)
PIPES = re.findall(r"^    (curl -\S+ '.*\|.*)$", GUIDE, re.MULTILINE)
[DOWNLOAD] = re.findall(r"^    (curl -sSfOJ .*)$", GUIDE, re.MULTILINE)
KEY = re.findall(r"^    ((?:gpg|curl -F) .*)$", GUIDE, re.MULTILINE)
[SIGN] = re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
[SCRIPT] = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture
def demo_api(api: Api, database: TestDatabase) -> Iterator[Api]:
    load_fleet(database.dsn, datetime.now(UTC))
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


@pytest.mark.parametrize("command", PIPES)
@pytest_twisted.ensureDeferred
async def test_the_pipes_of_the_guide_work(demo_api: Api, command: str, tmp_path: Path) -> None:
    for program in re.findall(r"\| (\w+)", command):
        find_program(program)
    file = tmp_path / "report.parquet"
    here = f"set -o pipefail; PATH={PATH}; cd {tmp_path}; {command}"
    found = await run_guide_command(demo_api, here)
    assert file.exists() if file.name in command else "example.net" in found


@pytest_twisted.ensureDeferred
async def test_the_download_of_the_guide_is_a_file(demo_api: Api, tmp_path: Path) -> None:
    await run_guide_command(demo_api, f"cd {tmp_path}; {DOWNLOAD}")
    [file] = tmp_path.glob("*.csv")
    assert re.fullmatch(r"mig-agent-\d{4}-\d\d-\d\d\.csv", file.name)
    assert file.read_bytes().startswith(b"\xef\xbb\xbfid,name,")


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
