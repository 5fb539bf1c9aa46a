"""Signed actions that are posted to the real service, and checks of its state."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mig.actions.submission import parse_operations, parse_signed_time
from mig.signing.canonical import Signable, build_signed_texts, encode_operations
from tests.support.api import Answer, Api
from tests.support.json_types import Json, JsonObject
from tests.support.keys import Key, Keys
from tests.support.postgres import TestDatabase

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"


@dataclass(frozen=True, kw_only=True)
class RawBody:
    """A body that is sent as it is."""

    body: bytes
    content_type: str = FORM


class Case:
    """The keys and the database from which a test makes a submission."""

    def __init__(self, keys: Keys, database: TestDatabase) -> None:
        self.keys = keys
        self.database = database
        self.ids: dict[str, int] = {}
        self.add_investigator(keys.alice)

    def add_investigator(self, key: Key, status: str = "active") -> int:
        """Make the key's owner an investigator, unless they are one."""
        if key.fingerprint not in self.ids:
            investigator_id = self.ids[key.fingerprint] = len(self.ids) + 1
            self.database.execute(
                "insert into investigators (id, name, pgpfingerprint, publickey, status,"
                " createdat, lastmodified) values (%s, %s, %s, %s, %s, now(), now())",
                (investigator_id, key.name, key.fingerprint, key.armored.encode(), status),
            )
        return self.ids[key.fingerprint]

    def make_signature(
        self,
        action: JsonObject,
        key: Key | None = None,
        *options: str,
        form: str = "unix",
        time: str = "",
    ) -> str:
        return self.keys.sign(key or self.keys.alice, build_text(action, form), *options, time=time)

    def sign_action(self, action: JsonObject, form: str = "unix") -> JsonObject:
        """Return the action with Alice's signature."""
        return {**action, "pgpsignatures": [self.make_signature(action, form=form)]}


def make_action(**members: Json) -> JsonObject:
    return {
        "name": "Find the backdoor",
        "target": "agents.name='server1.example.net'",
        "description": {"author": "Alice", "revision": 1},
        "threat": {"level": "high", "family": "backdoor"},
        "validfrom": "2026-01-02T03:04:05.678901234Z",
        "expireafter": "2099-01-02T03:04:05Z",
        "operations": [
            {"module": "file", "parameters": {"number": 1, "zero": 0, "path": "/etc"}},
            {"module": "netstat", "parameters": {"ip": "198.51.100.7"}},
        ],
        "syntaxversion": 2,
        **members,
    }


def build_text(action: JsonObject, form: str = "unix") -> bytes:
    """Return the text that is signed."""
    signable = Signable(
        name=action["name"],
        target=action["target"],
        validfrom=parse_signed_time("validfrom", action["validfrom"]),
        expireafter=parse_signed_time("expireafter", action["expireafter"]),
        operations=encode_operations(parse_operations(action["operations"])),
    )
    return next(text.text for text in build_signed_texts(signable) if text.form == form)


async def post_submission(api: Api, submission: Json) -> Answer:
    """Post a submission: an action, its text, or a whole body."""
    if isinstance(submission, RawBody):
        headers = {"Content-Type": submission.content_type}
        return await api.request("POST", "/action/create/", data=submission.body, headers=headers)
    text = submission if isinstance(submission, str) else json.dumps(submission)
    return await api.request("POST", "/action/create/", data={"action": text})


async def assert_accepted(api: Api, submission: Json) -> Json:
    """Check that a submission is accepted, and return the action in the answer."""
    response = await post_submission(api, submission)
    assert response.code == 202, response.document
    return response.document["items"][0]["data"][0]["value"]


async def assert_refused(api: Api, submission: Json, says: str, status: int = 400) -> None:
    response = await post_submission(api, submission)
    assert response.code == status, response.document
    told = response.document["error"]["message"]
    assert says in told, told


def list_spool(api: Api) -> list[Path]:
    """Return all files below the spool's folders."""
    assert api.spool
    return sorted(path for path in api.spool.rglob("*") if not path.is_dir())


def check_nothing_stored(api: Api, database: TestDatabase) -> None:
    for table in ("actions", "signatures", "submissions"):
        assert database.execute(f"select count(*) from {table}") == [(0,)]
    assert list_spool(api) == []


def list_processes() -> Iterator[tuple[int, int, list[bytes]]]:
    """Yield the number, the parent and the command line of each process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1])
        except OSError:
            continue
        yield int(folder.name), parent, words


def list_parsers(parent: int) -> list[int]:
    """Return the processes that parse large actions for a service."""
    return [
        process
        for process, of, words in list_processes()
        if of == parent and b"mig.actions.parser_worker" in words
    ]


def check_nothing_left(temporary: Path) -> None:
    """Check that no file, open keyring, gpg or agent of the service remains."""
    assert list(temporary.iterdir()) == []
    opened = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [path for path in opened if "memfd:keyring" in str(path)]
    for _, parent, words in list_processes():
        gpg = Path(words[0].decode("latin-1")).name
        assert not (gpg.startswith("gpg") and parent == os.getpid()), words
        assert not (gpg == "gpg-agent" and b"/dev/null" in words), words
