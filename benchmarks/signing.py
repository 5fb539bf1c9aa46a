"""Actions signed as investigators' clients sign them, and the rate at which gpg verifies them.

The keys are new in every run, in a folder that is deleted at its end.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import psycopg2

from benchmarks.child_processes import ChildProcesses

VALID_SECONDS: Final = 86_400
INVESTIGATOR: Final = 1000
INVESTIGATORS: Final = 4
OPERATIONS: Final = [{"module": "file", "parameters": {"searches": {"s": {"paths": ["/etc"]}}}}]
_FINGERPRINT: Final = re.compile(r"^fpr:+([0-9A-F]{40}):", re.MULTILINE)
_SIGNERS_AT_ONCE: Final = 2
_INSERT_INVESTIGATOR: Final = """
    insert into investigators
        (id, name, pgpfingerprint, publickey, status, permissions, createdat, lastmodified)
    values (%s, %s, %s, %s, 'active', 63, now(), now())
"""


@dataclass(frozen=True, kw_only=True)
class SignedAction:
    """A signed action: its JSON, and the two files for ``gpg --verify``."""

    body: str
    signature: Path
    text: Path


class Signer:
    """Investigators with RSA keys of 2048 bits, like those of the original clients."""

    def __init__(self, children: ChildProcesses, home: Path) -> None:
        self._children = children
        self._home = home
        self._gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--no-tty"]
        self._made = 0
        self._fingerprints: list[str] = []

    @classmethod
    @contextmanager
    def create(cls, children: ChildProcesses, home: Path) -> Iterator[Signer]:
        """Make the investigators' keys; their gpg-agent ends with the block."""
        home.mkdir(mode=0o700)
        signer = cls(children, home)
        try:
            unprotected = ["--pinentry-mode", "loopback", "--passphrase", ""]
            for n in range(INVESTIGATORS):
                name = [f"Benchmark {n} <bench{n}@example.net>", "rsa2048", "sign", "never"]
                children.run([*signer._gpg, *unprotected, "--quick-generate-key", *name])
            listed = children.run([*signer._gpg, "--with-colons", "--list-keys"])
            signer._fingerprints = _FINGERPRINT.findall(listed)
            yield signer
        finally:
            # The children may be stopped already, and would refuse to start another one.
            ChildProcesses().run(["gpgconf", "--homedir", home, "--kill", "all"])

    def enroll_investigators(self, dsn: str) -> None:
        """Insert the investigators into a database."""
        with (
            closing(psycopg2.connect(dsn)) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            for n, fingerprint in enumerate(self._fingerprints):
                key = self._children.run([*self._gpg, "--armor", "--export", fingerprint])
                values = (INVESTIGATOR + n, f"Benchmark {n}", fingerprint, key.encode())
                cursor.execute(_INSERT_INVESTIGATOR, values)

    def sign_actions(
        self, count: int, investigators: int = 1, operations: Sequence[Any] = OPERATIONS
    ) -> list[SignedAction]:
        """Return ``count`` new signed actions, by that many investigators in turn."""
        first, self._made = self._made, self._made + count
        fingerprints = self._fingerprints[:investigators]
        with ThreadPoolExecutor(_SIGNERS_AT_ONCE) as pool:
            numbers = range(first, first + count)
            signers = (fingerprints[number % len(fingerprints)] for number in numbers)
            return list(pool.map(self._sign_action, numbers, signers, repeat(operations)))

    def _sign_action(
        self, number: int, fingerprint: str, operations: Sequence[Any]
    ) -> SignedAction:
        now = int(time.time())
        action = _make_action(number, now - 60, now + VALID_SECONDS) | {"operations": operations}
        text, signature = self._home / f"{number}.txt", self._home / f"{number}.asc"
        text.write_text(format_canonical(action, now - 60, now + VALID_SECONDS))
        options = ["--local-user", fingerprint, "--output", signature]
        self._children.run([*self._gpg, *options, "--armor", "--detach-sign", text])
        action["pgpsignatures"] = [join_lines(signature.read_text())]
        return SignedAction(body=json.dumps(action), signature=signature, text=text)

    def sign_token(self) -> str:
        """Return a token of the first investigator, as clients send it in X-PGPAUTHORIZATION."""
        return self.sign_tokens(1)[0]

    def sign_tokens(self, count: int) -> list[str]:
        """Return ``count`` new tokens, by all investigators in turn."""
        first, self._made = self._made, self._made + count
        with ThreadPoolExecutor(_SIGNERS_AT_ONCE) as pool:
            return list(pool.map(self._sign_token, range(count), range(first, first + count)))

    def _sign_token(self, number: int, nonce: int) -> str:
        fingerprint = self._fingerprints[number % len(self._fingerprints)]
        text, signature = self._home / f"{nonce}.token", self._home / f"{nonce}.token.asc"
        token = f"1;{_format_time(int(time.time()))};{nonce + 1}"
        text.write_text(f"{token}\n")
        options = ["--local-user", fingerprint, "--output", signature]
        self._children.run([*self._gpg, *options, "--armor", "--detach-sign", text])
        return f"{token};{join_lines(signature.read_text())}"

    def time_verification(self, actions: Iterable[SignedAction], at_once: int) -> float:
        """Measure the seconds in which gpg verifies the actions, ``at_once`` processes at a time.

        :raises ValueError: when it does not verify one of them.
        """
        pairs = [str(path) for action in actions for path in (action.signature, action.text)]
        spawn = ["xargs", "-n", "2", "-P", at_once]
        start = time.perf_counter()
        output = self._children.run(
            [*spawn, *self._gpg, "--status-fd", "1", "--verify"], "\n".join(pairs)
        )
        seconds = time.perf_counter() - start
        if output.count("[GNUPG:] GOODSIG") * 2 != len(pairs):
            raise ValueError(f"gpg does not verify what it has signed:\n{output}")
        return seconds


def _make_action(number: int, begin: int, end: int) -> dict[str, Any]:
    return {
        "id": 0,
        "name": f"benchmark {number}",
        "target": "agents.name like 'web%'",
        "description": {"author": "Benchmark", "email": "bench@example.net", "revision": number},
        "threat": {"level": "low", "family": "compliance", "type": "system", "ref": "bench"},
        "validfrom": _format_time(begin),
        "expireafter": _format_time(end),
        "pgpsignatures": [],
        "syntaxversion": 2,
    }


def _format_time(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def format_canonical(action: dict[str, Any], begin: int, end: int) -> str:
    """Return the text that clients since 2015 sign; ``begin`` and ``end`` are Unix seconds."""
    # %!s(int64=…) is what a mistake in the Go clients' format string prints: it is signed as it is
    operations = json.dumps(action["operations"], sort_keys=True, separators=(",", ":"))
    return (
        f"name={action['name']};target={action['target']};validfrom={begin};"
        f"expireafter=%!s(int64={end});operations={operations};"
    )


def join_lines(armored: str) -> str:
    """Join an armored signature's base64 lines and its checksum."""
    return "".join(armored.split("\n\n", 1)[1].split("-----")[0].split())
