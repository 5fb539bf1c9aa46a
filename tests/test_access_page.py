"""The examples of docs/access.md work as they are written, one after the other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.support.api import Api
from tests.support.postgres import TestDatabase

PAGE = (Path(__file__).parent.parent / "docs" / "access.md").read_text()
EXAMPLES = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
MAKE_KEY = """
gpg --batch --passphrase '' --quick-gen-key 'Alice Admin <alice@example.net>' ed25519 sign never
gpg --export --armor --export-options export-minimal > alice.asc
"""


@pytest_twisted.async_yield_fixture
async def closed_api(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Api]:
    """Return an API that requires credentials."""
    api = Api(database.dsn, tmp_path / "spool", authentication=True)
    yield api
    await api.stop()


class Shell:
    """A shell in a folder of its own, with a keyring of its own."""

    def __init__(self, api: Api, database: TestDatabase, folder: Path) -> None:
        self.home = tempfile.mkdtemp()  # gpg's sockets need a short path
        self._base = api.base
        self._folder = folder
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "GNUPGHOME": self.home,
            "MIG_DATABASE": database.dsn,
        }

    def run(self, text: str) -> str:
        here = text.replace("http://localhost:1664/api/v1", self._base)
        done = subprocess.run(
            ["bash", "-ec", here.replace("curl ", "curl -sSf ")],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self._folder,
            env=self._environment,
        )
        assert done.returncode == 0, (text, done.stdout, done.stderr)
        return done.stdout

    def close(self) -> None:
        self.run("gpgconf --kill all")
        shutil.rmtree(self.home)


@pytest.fixture
def shell(closed_api: Api, database: TestDatabase, tmp_path: Path) -> Iterator[Shell]:
    opened = Shell(closed_api, database, tmp_path)
    yield opened
    opened.close()


@pytest_twisted.ensureDeferred
async def test_the_examples_of_the_page_work(shell: Shell, database: TestDatabase) -> None:
    await deferToThread(shell.run, MAKE_KEY)
    said = [await deferToThread(shell.run, example) for example in EXAMPLES]
    add, permissions, key, rotation, browser, token, audit = said
    assert add == "added investigator 1\n"
    assert "investigator_update" in permissions
    for answer in (key, token):
        assert answer.startswith('{"collection":{"version":"1.0"')
    assert "nightly report 2" in rotation
    assert browser.startswith("mig_3_")
    assert database.execute("select id, revokedat is null from apikeys order by id") == [
        (1, False),
        (2, True),
        (3, True),
    ]
    assert audit.count("\n") >= 5
