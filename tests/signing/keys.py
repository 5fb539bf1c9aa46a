"""Keys and signatures of every kind, made by the real gpg."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mig.signing import certificate, packet
from mig.signing.certificate import Certificate

OLD = "20200101T000000"
"""Long ago, in gpg's words."""
STILL = "20240101T000000!"
"""A clock that stands: two commands at this time make the same key packet of one secret key."""


def one_line(raw: bytes) -> str:
    """A signature's bytes as actions and tokens carry them."""
    checksum = base64.b64encode(packet.crc24(raw).to_bytes(3)).decode()
    return f"{base64.b64encode(raw).decode()}={checksum}"


def framed(tag: int, body: bytes) -> bytes:
    """A packet in the newer form."""
    return bytes([0xC0 | tag, 255]) + len(body).to_bytes(4) + body


def primary_fingerprint(raw: bytes) -> str:
    body = packet.packets(raw)[0].body
    return hashlib.sha1(b"\x99" + len(body).to_bytes(2) + body).hexdigest().upper()


@dataclass(frozen=True)
class TestKey:
    """A key whose secret part is in the home of its :class:`Keys`."""

    __test__ = False

    keys: Keys
    fingerprint: str

    @property
    def raw(self) -> bytes:
        """Its packets, without those of other keys that have it as a subkey."""
        found: list[bytes] = []
        for one in packet.packets(self.keys.run("--export", self.fingerprint)):
            if one.tag == certificate.PUBLIC_KEY:
                found.append(b"")
            found[-1] += one.raw
        return next(key for key in found if self.fingerprint == primary_fingerprint(key))

    @property
    def armored(self) -> bytes:
        return certificate.armor(self.raw).encode()

    @property
    def certificate(self) -> Certificate:
        return certificate.read(self.armored)

    @property
    def keygrip(self) -> str:
        listing = self.keys.run("--with-colons", "--with-keygrip", "--list-keys", self.fingerprint)
        lines = listing.split(b"\n")
        return next(line.split(b":")[9] for line in lines if line.startswith(b"grp")).decode()

    def sign(self, text: bytes, *options: str, at: str | None = None, key: str = "") -> bytes:
        """The signature packet over *text*; *key* is another signing key than the usual."""
        who = key or self.fingerprint
        return self.keys.run("-u", who, *options, "--detach-sign", data=text, at=at)

    def signature(self, text: bytes, *options: str, at: str | None = None, key: str = "") -> str:
        return one_line(self.sign(text, *options, at=at, key=key))

    def add_subkey(
        self,
        algorithm: str = "ed25519",
        use: str = "sign",
        expires: str = "0",
        at: str | None = None,
    ) -> str:
        """Add a subkey; its fingerprint, marked so that gpg uses it and no other."""
        self.keys.run("--quick-add-key", self.fingerprint, algorithm, use, expires, at=at)
        return f"{self.certificate.keys[-1].fingerprint}!"

    def revoke(self) -> None:
        """Publish the revocation certificate that was made with the key."""
        file = self.keys.home / "openpgp-revocs.d" / f"{self.fingerprint}.rev"
        text = file.read_text().replace(":-----BEGIN", "-----BEGIN")
        self.keys.run("--import", data=text.encode())

    def revoke_subkey(self, number: int = 1) -> None:
        self.edit(f"key {number}", "revkey", "y", "0", "", "y", "save")

    def edit(self, *commands: str, at: str | None = None) -> None:
        script = "\n".join(commands) + "\n"
        self.keys.run(
            *("--command-fd", "0", "--expert", "--edit-key", self.fingerprint),
            data=script.encode(),
            at=at,
        )


class Keys:
    """A private home of gpg with secret keys; close it to end its agent."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="mk"))
        self._environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}

    def run(self, *arguments: str, data: bytes = b"", at: str | None = None) -> bytes:
        command = [
            *("gpg", "--homedir", str(self.home), "--batch", "--no-tty", "--yes"),
            *("--pinentry-mode", "loopback", "--passphrase", "", "--trust-model", "always"),
            *(["--faked-system-time", at] if at else []),
            *arguments,
        ]
        done = subprocess.run(command, input=data, capture_output=True, env=self._environment)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout

    def make(
        self,
        user_id: str = "Ina Vestigator <ina@example.net>",
        *,
        algorithm: str = "ed25519",
        use: str = "sign,cert",
        expires: str = "0",
        at: str | None = None,
        options: Sequence[str] = (),
    ) -> TestKey:
        """A new key; *expires* as gpg takes it, *at* the time it is made."""
        before = self._fingerprints()
        self.run(*options, "--quick-gen-key", user_id, algorithm, use, expires, at=at)
        return TestKey(self, next(iter(self._fingerprints() - before)))

    def make_by_parameters(self, *lines: str, options: Sequence[str] = ()) -> TestKey:
        """A new key from lines of gpg's parameter file."""
        before = self._fingerprints()
        text = "\n".join(["%no-protection", *lines, "%commit", ""])
        self.run(*options, "--gen-key", data=text.encode())
        return TestKey(self, next(iter(self._fingerprints() - before)))

    def _fingerprints(self) -> set[str]:
        lines = self.run("--with-colons", "--list-keys").split(b"\n")
        found = [
            line.split(b":")[9].decode()
            for before, line in pairwise(lines)
            if before.startswith(b"pub") and line.startswith(b"fpr")
        ]
        return set(found)

    def close(self) -> None:
        subprocess.run(
            ["gpgconf", "--homedir", str(self.home), "--kill", "all"], capture_output=True
        )
        shutil.rmtree(self.home, ignore_errors=True)
