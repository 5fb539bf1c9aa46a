"""Signed actions as an investigator's client makes them, and what gpg itself can verify.

The key is new in every run and lives in a folder that goes at the end.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg2

from benchmarks.children import Children

VALID_SECONDS: Final = 86_400
INVESTIGATOR: Final = 1000
OPERATIONS: Final = [{"module": "file", "parameters": {"searches": {"s": {"paths": ["/etc"]}}}}]
_FINGERPRINT: Final = re.compile(r"^fpr:+([0-9A-F]{40}):", re.MULTILINE)
_SIGNERS_AT_ONCE: Final = 2


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A signed action: its JSON, and the two files that ``gpg --verify`` takes."""

    body: str
    signature: Path
    text: Path


class Signer:
    """An investigator with a key of 2048 bits RSA, as the original clients use."""

    def __init__(self, children: Children, home: Path) -> None:
        self._children = children
        self._home = home
        self._gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--no-tty"]
        self._made = 0

    @classmethod
    @contextmanager
    def at(cls, children: Children, home: Path) -> Iterator[Signer]:
        """A signer whose key is made now; its agent ends with the block."""
        home.mkdir(mode=0o700)
        signer = cls(children, home)
        try:
            unprotected = ["--pinentry-mode", "loopback", "--passphrase", ""]
            name = ["Benchmark <bench@example.net>", "rsa2048", "sign", "never"]
            children.run([*signer._gpg, *unprotected, "--quick-generate-key", *name])
            yield signer
        finally:
            # The children may be stopped already: this one must run all the same.
            Children().run(["gpgconf", "--homedir", home, "--kill", "all"])

    def enroll(self, dsn: str) -> None:
        """Put the investigator into a database."""
        listed = self._children.run([*self._gpg, "--with-colons", "--list-keys"])
        [fingerprint] = _FINGERPRINT.findall(listed)
        key = self._children.run([*self._gpg, "--armor", "--export"])
        with (
            closing(psycopg2.connect(dsn)) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(
                "insert into investigators (id, name, pgpfingerprint, publickey, status, createdat,"
                " lastmodified) values (%s, 'Benchmark', %s, %s, 'active', now(), now())",
                (INVESTIGATOR, fingerprint, key.encode()),
            )

    def sign(self, count: int) -> list[Signed]:
        """*count* actions that nobody has signed before."""
        first, self._made = self._made, self._made + count
        with ThreadPoolExecutor(_SIGNERS_AT_ONCE) as pool:
            return list(pool.map(self._sign, range(first, first + count)))

    def _sign(self, number: int) -> Signed:
        now = int(time.time())
        action = _action(number, now - 60, now + VALID_SECONDS)
        text, signature = self._home / f"{number}.txt", self._home / f"{number}.asc"
        text.write_text(canonical(action, now - 60, now + VALID_SECONDS))
        made = ["--armor", "--output", signature, "--detach-sign", text]
        self._children.run([*self._gpg, *made])
        action["pgpsignatures"] = [one_line(signature.read_text())]
        return Signed(body=json.dumps(action), signature=signature, text=text)

    def verify(self, actions: Iterable[Signed], at_once: int) -> float:
        """Seconds that gpg takes to verify the actions, *at_once* processes at a time."""
        pairs = [str(path) for action in actions for path in (action.signature, action.text)]
        spawn = ["xargs", "-n", "2", "-P", at_once]
        began = time.perf_counter()
        said = self._children.run(
            [*spawn, *self._gpg, "--status-fd", "1", "--verify"], "\n".join(pairs)
        )
        spent = time.perf_counter() - began
        if said.count("[GNUPG:] GOODSIG") * 2 != len(pairs):
            raise ValueError(f"gpg does not verify what it signed:\n{said}")
        return spent


def _action(number: int, begin: int, end: int) -> dict[str, Any]:
    return {
        "id": 0,
        "name": f"benchmark {number}",
        "target": "agents.name like 'web%'",
        "description": {"author": "Benchmark", "email": "bench@example.net", "revision": number},
        "threat": {"level": "low", "family": "compliance", "type": "system", "ref": "bench"},
        "validfrom": _instant(begin),
        "expireafter": _instant(end),
        "operations": OPERATIONS,
        "pgpsignatures": [],
        "syntaxversion": 2,
    }


def _instant(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def canonical(action: dict[str, Any], begin: int, end: int) -> str:
    """The text that clients since 2015 sign; *begin* and *end* are the times in Unix seconds."""
    operations = json.dumps(action["operations"], sort_keys=True, separators=(",", ":"))
    return (
        f"name={action['name']};target={action['target']};validfrom={begin};"
        f"expireafter=%!s(int64={end});operations={operations};"
    )


def one_line(armored: str) -> str:
    """An armored signature's base64 lines and its checksum, joined."""
    return "".join(armored.split("\n\n", 1)[1].split("-----")[0].split())
