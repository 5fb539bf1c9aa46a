"""PGP keys that the real gpg makes at run time, and signatures of every kind by them."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Concatenate, ParamSpec

from mig.openpgp import certificate
from mig.openpgp.certificate import Certificate
from mig.openpgp.packet import compute_crc24, split_packets

HOMES = "mig-test-keys-"
"""The prefix of the keyrings' folders, also in test runs at the same time."""

LONG_AGO = "20200101T000000!"
"""A clock that does not move, so that everything made at that time has the same date."""
SOON_AFTER = "20200201T000000!"
FAR_AHEAD = "20350101T000000!"

JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffd9")


def encode_packet(tag: int, body: bytes) -> bytes:
    """Return an OpenPGP packet with its length in five octets."""
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4) + body


def encode_signature(data: bytes) -> str:
    """Return packets in one line, as MIG writes a signature."""
    checksum = base64.b64encode(compute_crc24(data).to_bytes(3)).decode()
    return f"{base64.b64encode(data).decode()}={checksum}"


def decode_signature(signature: str) -> bytes:
    """Return the packets of a signature in one line."""
    return base64.b64decode(signature[:-5])


def encode_public_armor(data: bytes) -> str:
    """Return any packets in the armor of a public key."""
    return certificate.encode_armor(data)


def decode_armor(text: str) -> bytes:
    """Return the packets in an armor that gpg made."""
    lines = text.strip().splitlines()
    return base64.b64decode("".join(lines[lines.index("") + 1 : -2]))


def replace_issuer(signature: str, key_id: str) -> str:
    """Replace the unsigned key id in a signature made by gpg."""
    data = bytearray(decode_signature(signature))
    hashed = int.from_bytes(data[find_packet_start(data) + 4 :][:2])
    at = find_packet_start(data) + 6 + hashed + 2
    assert data[at : at + 2] == b"\x09\x10"
    data[at + 2 : at + 10] = bytes.fromhex(key_id)
    return encode_signature(bytes(data))


def replace_version(signature: str, version: int) -> str:
    """Replace the version number in a signature."""
    data = bytearray(decode_signature(signature))
    data[find_packet_start(data)] = version
    return encode_signature(bytes(data))


def remove_back_signature(raw: bytes) -> bytes:
    """Remove the unsigned consent of the last subkey from its binding."""
    *before, binding = split_packets(raw)
    hashed = 6 + int.from_bytes(binding.body[4:6])
    unhashed = hashed + 2 + int.from_bytes(binding.body[hashed : hashed + 2])
    assert binding.body[hashed + 3] == 32 or b"\x20\x04\x19" in binding.body[hashed:unhashed]
    body = binding.body[:hashed] + b"\0\0" + binding.body[unhashed:]
    return b"".join(part.raw for part in before) + encode_packet(2, body)


def find_packet_start(data: bytes | bytearray) -> int:
    """Return where the body of the first packet starts."""
    (first, *_) = split_packets(bytes(data))
    return len(first.raw) - len(first.body)


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key pair in the ring; *signer* tells gpg which key to sign with."""

    name: str
    fingerprint: str
    signer: str
    armored: str
    """The public key as it is uploaded or stored."""

    @property
    def key_id(self) -> str:
        return self.fingerprint[-16:]

    @property
    def packets(self) -> bytes:
        return decode_armor(self.armored)

    @property
    def certificate(self) -> Certificate:
        return certificate.parse_armored(self.armored.encode())


P = ParamSpec("P")


def cache_key(
    make: Callable[Concatenate[Keys, P], Key],
) -> Callable[Concatenate[Keys, P], Key]:
    """Cache the key that a method makes.

    The same arguments give the same key; a test that needs a key of its own gives it a name of
    its own.
    """

    @wraps(make)
    def find_or_make(self: Keys, /, *arguments: P.args, **options: P.kwargs) -> Key:
        asked = (make.__name__, arguments, frozenset(options.items()))
        if asked not in self._cache:
            self._cache[asked] = make(self, *arguments, **options)
        return self._cache[asked]

    return find_or_make


class Keys:
    """A keyring that ignores the settings of the user who runs the tests."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix=HOMES))
        self._cache: dict[Hashable, Key] = {}
        self._program = shutil.which("gpg") or "gpg"
        self._environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}

    def run_gpg(self, *arguments: str | bytes, stdin: bytes = b"", time: str = "") -> bytes:
        """Return the output of gpg; *time* is the clock that it sees."""
        faked = ["--faked-system-time", time, "--ignore-time-conflict"] if time else []
        done = subprocess.run(
            [
                *(self._program, "--homedir", str(self.home)),
                *("--batch", "--no-tty", "--yes", "--quiet"),
                *("--no-options", "--pinentry-mode", "loopback", "--passphrase", ""),
                *("--trust-model", "always", "--allow-weak-digest-algos", "--expert"),
                *faked,
                *arguments,
            ],
            input=stdin,
            capture_output=True,
            env=self._environment,
            timeout=60,
        )
        assert done.returncode == 0, (arguments, done.stderr.decode("latin-1"))
        return done.stdout

    def _create_key(self, *arguments: str | bytes, time: str) -> str:
        """Return the fingerprint of the key or subkey that gpg makes."""
        said = self.run_gpg("--status-fd", "1", *arguments, time=time).split(b"\n")
        (line,) = [line for line in said if line.startswith(b"[GNUPG:] KEY_CREATED ")]
        return line.split()[3].decode()

    @cache_key
    def make_key(
        self,
        name: str,
        algorithm: str = "ed25519",
        usage: str = "sign,cert",
        *,
        uid: bytes = b"",
        expires: str = "0",
        time: str = "",
        options: tuple[str, ...] = (),
    ) -> Key:
        """Return the key of this name; what is not set has its default."""
        user = uid or f"{name} <{name}@example.net>".encode()
        make = ("--quick-gen-key", user, algorithm, usage, expires)
        fingerprint = self._create_key(*options, *make, time=time)
        return Key(
            name=name,
            fingerprint=fingerprint,
            signer=f"{fingerprint}!",
            armored=self.export(fingerprint),
        )

    def export(self, fingerprint: str, *, minimal: bool = True, ring: Path | None = None) -> str:
        """Return the armored public key."""
        options = ["--export-options", "export-minimal"] if minimal else []
        return self.run_gpg(
            *_ring_options(ring), "--armor", *options, "--export", fingerprint
        ).decode()

    def export_secret(self, key: Key) -> str:
        """Return the armored secret key."""
        return self.run_gpg("--armor", "--export-secret-keys", key.fingerprint).decode()

    # -- the keys ---------------------------------------------------------------------------

    @property
    def alice(self) -> Key:
        return self.make_key("alice")

    @property
    def bob(self) -> Key:
        return self.make_key("bob", time=LONG_AGO)

    @property
    def stranger(self) -> Key:
        """The key of no investigator."""
        return self.make_key("stranger")

    @property
    def rsa(self) -> Key:
        return self.make_key("rsa", "rsa2048")

    @property
    def rsa1024(self) -> Key:
        return self.make_key("rsa1024", "rsa1024")

    @property
    def dsa(self) -> Key:
        return self.make_key("dsa", "dsa1024")

    @property
    def expired(self) -> Key:
        """An expired key; it signs with *time* :data:`SOON_AFTER`."""
        return self.make_key("expired", expires="2020-06-01", time=LONG_AGO)

    @property
    @cache_key
    def revoked(self) -> Key:
        """A key whose export is revoked; it still signs here."""
        made = self.make_key("revoked")
        text = (self.home / f"openpgp-revocs.d/{made.fingerprint}.rev").read_text()
        revocation = decode_armor(text[text.index(":-----") + 1 :])
        first, *others = split_packets(made.packets)
        data = first.raw + revocation + b"".join(packet.raw for packet in others)
        return replace(made, armored=encode_public_armor(data))

    @cache_key
    def add_subkey(
        self,
        key: Key,
        algorithm: str = "ed25519",
        usage: str = "sign",
        *,
        expires: str = "0",
        time: str = "",
    ) -> Key:
        """Return the key with one more subkey, which signs for it."""
        make = ("--quick-add-key", key.fingerprint, algorithm, usage, expires)
        subkey = self._create_key(*make, time=time)
        armored = self.export(key.fingerprint, minimal=False)  # keeps what has expired
        return replace(key, signer=f"{subkey}!", armored=armored)

    @cache_key
    def revoke_subkey(self, key: Key) -> Key:
        """Revoke the subkey in the exported key; it still signs here."""
        ring = self._make_ring(f"revoked {key.fingerprint}", key.armored)
        self._edit_key(key, ring, "key 1", "revkey", "y", "0", "", "y", "save")
        return replace(key, armored=self.export(key.fingerprint, minimal=False, ring=ring))

    @property
    def subkey(self) -> Key:
        return self.add_subkey(self.make_key("subkey", usage="cert", time=LONG_AGO), time=LONG_AGO)

    @property
    def expired_subkey(self) -> Key:
        """A key whose subkey has expired; it signs with *time* :data:`SOON_AFTER`."""
        primary = self.make_key("expired-subkey", usage="cert", time=LONG_AGO)
        return self.add_subkey(primary, expires="2020-06-01", time=LONG_AGO)

    @property
    def revoked_subkey(self) -> Key:
        primary = self.make_key("revoked-subkey", usage="cert")
        return self.revoke_subkey(self.add_subkey(primary))

    @property
    def encrypts(self) -> Key:
        """A key that cannot sign."""
        return self.add_subkey(self.make_key("encrypts", usage="cert"), "cv25519", "encr")

    @cache_key
    def make_adopting(self, name: str, fingerprint: str, *capabilities: str) -> Key:
        """Return a key that has the (sub)key of this fingerprint as a subkey of its own.

        It is bound as gpg does it, for signing, and by the adopted key as well; *capabilities*
        are the letters that switch each use of it on or off. The adopted key must have been made
        at :data:`LONG_AGO`.
        """
        made = self.make_key(name, time=LONG_AGO)
        ring = self._make_ring(name, made.armored)
        grip = self._keygrip(fingerprint)
        commands = ["addkey", "13", grip, *capabilities, "q", "0", "save"]
        self._edit_key(made, ring, *commands, time=LONG_AGO)
        adopted = replace(made, armored=self.export(made.fingerprint, ring=ring))
        assert adopted.certificate.find_key(fingerprint), "not the same key"
        return adopted

    @cache_key
    def make_with_primary(self, name: str, fingerprint: str) -> Key:
        """Return a key whose primary key has this fingerprint, although another key uses it."""
        ring = self._make_ring(name, self.bob.armored)
        parameters = [
            *("Key-Type: EDDSA", f"Key-Grip: {self._keygrip(fingerprint)}"),
            *("Key-Usage: sign,cert", f"Name-Real: {name}", "Creation-Date: 20200101T000000"),
            *("%no-protection", "%commit", ""),
        ]
        stdin = "\n".join(parameters).encode()
        self.run_gpg(*_ring_options(ring), "--full-gen-key", stdin=stdin, time=LONG_AGO)
        armored = self.export(fingerprint, ring=ring)
        return Key(name=name, fingerprint=fingerprint, signer=f"{fingerprint}!", armored=armored)

    def _keygrip(self, fingerprint: str) -> str:
        arguments = ("--with-colons", "--with-keygrip", "--with-subkey-fingerprint")
        lines = self.run_gpg("--list-keys", *arguments, fingerprint).decode().splitlines()
        grips = [
            after.split(":")[9]
            for line, after in pairwise(lines)
            if line.startswith("fpr:") and fingerprint in line
        ]
        return grips[0]

    @property
    @cache_key
    def decorated(self) -> Key:
        """A key with an image, and with signatures by other keys on its user id."""
        made = self.make_key("decorated")
        image = self.home / "image.jpg"
        image.write_bytes(JPEG)
        self._edit_key(made, None, "addphoto", str(image), "y", "save")
        for n in range(3):
            self.certify(self.make_key(f"friend{n}"), made)
        return replace(made, armored=self.export(made.fingerprint, minimal=False))

    def certify(self, by: Key, key: Key) -> None:
        """Sign the user id of another key."""
        self.run_gpg("--local-user", by.fingerprint, "--quick-sign-key", key.fingerprint)

    def _make_ring(self, name: str, armored: str) -> Path:
        ring = self.home / f"{name}.gpg"
        self.run_gpg(*_ring_options(ring), "--import", stdin=armored.encode())
        return ring

    def _edit_key(self, key: Key, ring: Path | None, *commands: str, time: str = "") -> None:
        stdin = "".join(f"{line}\n" for line in commands).encode()
        edit = ("--command-fd", "0", "--edit-key", key.fingerprint)
        self.run_gpg(*_ring_options(ring), *edit, stdin=stdin, time=time)

    # -- what they sign ---------------------------------------------------------------------

    def sign(self, key: Key, text: bytes, *options: str, time: str = "") -> str:
        """Return a detached signature in one line; *options* are those of gpg."""
        return encode_signature(self.make_message(key, text, "--detach-sign", *options, time=time))

    def make_message(self, key: Key, text: bytes, *options: str, time: str = "") -> bytes:
        """Return what gpg makes of *text* with this key."""
        return self.run_gpg(*_order_arguments(options, key), stdin=text, time=time)

    def stop(self) -> None:
        """Stop the agent of gpg, and delete the keyring."""
        subprocess.run(
            ["gpgconf", "--homedir", str(self.home), "--kill", "all"],
            check=False,
            capture_output=True,
        )
        shutil.rmtree(self.home, ignore_errors=True)


def _order_arguments(options: tuple[str, ...], key: Key) -> list[str]:
    """Return the arguments of gpg, whose command comes after its options."""
    commands = [o for o in options if o in COMMANDS]
    return ["--local-user", key.signer, *(o for o in options if o not in COMMANDS), *commands]


COMMANDS = ("--detach-sign", "--sign", "--clear-sign")


def _ring_options(ring: Path | None) -> list[str]:
    return ["--no-default-keyring", "--keyring", str(ring)] if ring else []
