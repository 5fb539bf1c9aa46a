"""docs/migctl.md: its examples run as they are, and its tables are those of the program."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
import pytest_twisted

from mig.demo.fleet import load_fleet
from mig.migctl.configuration import load_configuration
from mig.migctl.exits import ExitStatus
from mig.migctl.program import program
from tests.support.api import Api
from tests.support.migctl import ANSWERED, run_migctl
from tests.support.migctl_page import PAGE, replace_table
from tests.support.postgres import TestDatabase

TEXT = PAGE.read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    shlex.split(line)[1:]
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("migctl ")
]
ACTION = {
    "name": "find it",
    "target": "name LIKE 'web1%'",
    "operations": [{"module": "file", "parameters": {"searches": {}}}],
}


@pytest.fixture
def bob(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the armored key of Bob Kelso, in whose keyring it is."""
    home = tempfile.mkdtemp()
    monkeypatch.setenv("GNUPGHOME", home)
    gpg = ["gpg", "--batch", "--quiet", "--passphrase", ""]
    user = "Bob Kelso <bob_kelso@example.net>"
    subprocess.run([*gpg, "--quick-gen-key", user, "ed25519", "sign", "never"], check=True)
    exported = [*gpg, "--armor", "--export"]
    yield subprocess.run(exported, capture_output=True, text=True, check=True).stdout
    subprocess.run(["gpgconf", "--kill", "all"], check=True)
    shutil.rmtree(home)


@pytest_twisted.ensureDeferred
async def test_the_examples_run(
    api: Api,
    database: TestDatabase,
    bob: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load_fleet(database.dsn, datetime.now(UTC))
    database.execute(ANSWERED.replace("STATUS", "success").replace("<> 'web2'", "LIKE 'web1%'"))
    monkeypatch.chdir(tmp_path)
    Path("action.json").write_text(json.dumps(ACTION))
    Path("bob.asc").write_text(bob)
    monkeypatch.setenv("MIG_URL", api.base)
    assert (await run_migctl("investigator", "add", "Bob Kelso", "bob.asc")).status == 0
    assert len(COMMANDS) >= 12
    for command in COMMANDS:
        ended = await run_migctl(*command)
        # one of three agents of the demo does not comply
        expected = ExitStatus.FAILED if "--fail-under" in command else ExitStatus.OK
        assert ended.status == expected, (command, ended.errors)
        is_silent = {"--output", "--junit", "--fail-under", "init"} & set(command)
        assert bool(ended.output) != bool(is_silent), command
    assert {file.name for file in tmp_path.iterdir()} >= {
        "agents.ndjson",
        "report.csv",
        "compliance.xml",
    }


def test_the_configuration_of_the_page_is_read(home: Path) -> None:
    [text] = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    path = home / ".config" / "mig" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(0o600)
    found = load_configuration({})
    assert (found.url, found.keyid) == (
        "https://mig.example.com/api/v1",
        "bob_kelso@example.net",
    )


def test_the_page_has_the_options_of_the_program() -> None:
    assert replace_table(TEXT) == TEXT, "run `make reference`"


def test_the_page_has_every_command() -> None:
    listed = re.findall(r"^\| (`[a-z].*?) \|", TEXT, re.MULTILINE)
    names = set()
    for cell in listed:
        first, *others = re.findall(r"`([a-z ]+)`", cell)
        group, _, _ = first.rpartition(" ")
        names |= {first, *(each if " " in each else f"{group} {each}".strip() for each in others)}
    assert names == set(list_commands(program))


def list_commands(group: click.Group, prefix: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from list_commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"
