"""PGP keys made at run time by the real gpg, and signatures of every kind by them."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mig.signing import certificate
from mig.signing.packet import crc24, packets

LONG_AGO = "20200101T000000!"
"""A time that stands still, so that whatever is made then has the same date."""
SOON_AFTER = "20200201T000000!"
FAR_AHEAD = "20350101T000000!"

JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffd9")


def packet(tag: int, body: bytes) -> bytes:
    """An OpenPGP packet, its length in five octets."""
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4) + body


def one_line(data: bytes) -> str:
    """Packets as the platform writes a signature."""
    checksum = base64.b64encode(crc24(data).to_bytes(3)).decode()
    return f"{base64.b64encode(data).decode()}={checksum}"


def octets(signature: str) -> bytes:
    """The packets of a signature in its one line."""
    return base64.b64decode(signature[:-5])


def public_armor(data: bytes) -> str:
    """Any packets in the armor of a public key."""
    return certificate.armor(data)


def dearmored(text: str) -> bytes:
    """The packets in an armor that gpg made."""
    lines = text.strip().splitlines()
    return base64.b64decode("".join(lines[lines.index("") + 1 : -2]))


def with_issuer(signature: str, key_id: str) -> str:
    """A signature of gpg's whose unsigned key id is another one."""
    data = bytearray(octets(signature))
    hashed = int.from_bytes(data[packet_start(data) + 4 :][:2])
    at = packet_start(data) + 6 + hashed + 2
    assert data[at : at + 2] == b"\x09\x10"
    data[at + 2 : at + 10] = bytes.fromhex(key_id)
    return one_line(bytes(data))


def with_version(signature: str, version: int) -> str:
    """A signature that says that it is of another version."""
    data = bytearray(octets(signature))
    data[packet_start(data)] = version
    return one_line(bytes(data))


def packet_start(data: bytes | bytearray) -> int:
    """Where the content of the first packet starts."""
    (first, *_) = packets(bytes(data))
    return len(first.raw) - len(first.body)


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key pair in the ring; *signer* is what gpg is told to sign with."""

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
        return dearmored(self.armored)


class Keys:
    """A keyring of our own; each key is made when it is first asked for."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._program = shutil.which("gpg") or "gpg"
        self._made: dict[str, Key] = {}

    def gpg(self, *arguments: str | bytes, given: bytes = b"", time: str = "") -> bytes:
        """What gpg answers; *time* is the clock that it sees."""
        faked = ["--faked-system-time", time, "--ignore-time-conflict"] if time else []
        done = subprocess.run(
            [
                *(
                    self._program,
                    "--homedir",
                    str(self.home),
                    "--batch",
                    "--no-tty",
                    "--yes",
                    "--quiet",
                ),
                *("--no-options", "--pinentry-mode", "loopback", "--passphrase", ""),
                *("--trust-model", "always", "--allow-weak-digest-algos", "--expert"),
                *faked,
                *arguments,
            ],
            input=given,
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 0, (arguments, done.stderr.decode("latin-1"))
        return done.stdout

    def _once(self, name: str, make: Callable[[], Key]) -> Key:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def key(
        self,
        name: str,
        algorithm: str = "ed25519",
        usage: str = "sign,cert",
        *,
        uid: bytes = b"",
        expires: str = "0",
        time: str = "",
    ) -> Key:
        """The key of this name, with the default of everything but what is given."""

        def make() -> Key:
            user = uid or f"{name} <{name}@example.net>".encode()
            before = set(self._fingerprints())
            self.gpg("--quick-gen-key", user, algorithm, usage, expires, time=time)
            (fingerprint,) = set(self._fingerprints()) - before
            return self._named(name, fingerprint, signer=fingerprint)

        return self._once(name, make)

    def _fingerprints(self) -> list[str]:
        """Of the primary keys."""
        lines = self.gpg("--list-keys", "--with-colons").decode("latin-1").splitlines()
        return [
            line.split(":")[9]
            for before, line in pairwise(lines)
            if before.startswith("pub:") and line.startswith("fpr:")
        ]

    def _named(self, name: str, fingerprint: str, signer: str) -> Key:
        armored = self.export(fingerprint)
        return Key(name=name, fingerprint=fingerprint, signer=f"{signer}!", armored=armored)

    def export(self, fingerprint: str, *, minimal: bool = True, ring: Path | None = None) -> str:
        """The armored public key."""
        options = ["--export-options", "export-minimal"] if minimal else []
        return self.gpg(*_ring(ring), "--armor", *options, "--export", fingerprint).decode()

    def secret(self, key: Key) -> str:
        """The armored secret key."""
        return self.gpg("--armor", "--export-secret-keys", key.fingerprint).decode()

    # -- the keys ---------------------------------------------------------------------------

    @property
    def alice(self) -> Key:
        return self.key("alice")

    @property
    def bob(self) -> Key:
        return self.key("bob", time=LONG_AGO)

    @property
    def stranger(self) -> Key:
        """Nobody's key."""
        return self.key("stranger")

    @property
    def rsa(self) -> Key:
        return self.key("rsa", "rsa2048")

    @property
    def rsa1024(self) -> Key:
        return self.key("rsa1024", "rsa1024")

    @property
    def dsa(self) -> Key:
        return self.key("dsa", "dsa1024")

    @property
    def expired(self) -> Key:
        """It signs with *time* :data:`SOON_AFTER`."""
        return self.key("expired", expires="2020-06-01", time=LONG_AGO)

    @property
    def revoked(self) -> Key:
        """Revoked for whoever gets it; it still signs here."""

        def make() -> Key:
            made = self.key("revoked-ring")
            text = (self.home / f"openpgp-revocs.d/{made.fingerprint}.rev").read_text()
            revocation = dearmored(text[text.index(":-----") + 1 :])
            first, *rest = packets(made.packets)
            data = first.raw + revocation + b"".join(packet.raw for packet in rest)
            return self._other(made, "revoked", public_armor(data))

        return self._once("revoked", make)

    def _other(self, key: Key, name: str, armored: str) -> Key:
        return Key(name=name, fingerprint=key.fingerprint, signer=key.signer, armored=armored)

    def with_subkey(
        self,
        name: str,
        algorithm: str = "ed25519",
        usage: str = "sign",
        *,
        primary: str = "cert",
        expires: str = "0",
        time: str = "",
    ) -> Key:
        """A key whose subkey signs."""

        def make() -> Key:
            made = self.key(f"{name}-ring", usage=primary, time=time)
            self.gpg("--quick-add-key", made.fingerprint, algorithm, usage, expires, time=time)
            armored = self.export(made.fingerprint, minimal=False)  # keeps what has expired
            _, subkey = certificate.parse(dearmored(armored)).keys
            return Key(
                name=name,
                fingerprint=made.fingerprint,
                signer=f"{subkey.fingerprint}!",
                armored=armored,
            )

        return self._once(name, make)

    @property
    def subkey(self) -> Key:
        return self.with_subkey("subkey", time=LONG_AGO)

    @property
    def expired_subkey(self) -> Key:
        """It signs with *time* :data:`SOON_AFTER`."""
        return self.with_subkey("expired-subkey", expires="2020-06-01", time=LONG_AGO)

    @property
    def revoked_subkey(self) -> Key:
        """Revoked for whoever gets it; it still signs here."""

        def make() -> Key:
            made = self.with_subkey("revoked-subkey-ring")
            ring = self._another_ring("revoked-subkey", made.armored)
            self._edit(made, ring, "key 1", "revkey", "y", "0", "", "y", "save")
            armored = self.export(made.fingerprint, minimal=False, ring=ring)
            return self._other(made, "revoked-subkey", armored)

        return self._once("revoked-subkey", make)

    @property
    def encrypts(self) -> Key:
        """A key that cannot sign."""
        return self.with_subkey("encrypts", "cv25519", "encr")

    def adopting(self, name: str, fingerprint: str, *capabilities: str) -> Key:
        """A key that has another's (sub)key, of this fingerprint, as a subkey of its own.

        It is bound as gpg does it, for signing, and by the adopted key as well; *capabilities*
        are the letters that switch each use of it on or off.
        """

        def make() -> Key:
            made = self.key(f"{name}-ring", time=LONG_AGO)
            ring = self._another_ring(name, made.armored)
            grip = self._keygrip(fingerprint)
            commands = ["addkey", "13", grip, *capabilities, "q", "0", "save"]
            self._edit(made, ring, *commands, time=LONG_AGO)
            adopted = self._other(made, name, self.export(made.fingerprint, ring=ring))
            assert certificate.parse(adopted.packets).key(fingerprint), "not the same key"
            return adopted

        return self._once(name, make)

    def with_primary(self, name: str, fingerprint: str) -> Key:
        """A key whose primary key is the one of this fingerprint, wherever else it is in use."""

        def make() -> Key:
            ring = self._another_ring(name, self.bob.armored)
            parameters = [
                *("Key-Type: EDDSA", f"Key-Grip: {self._keygrip(fingerprint)}"),
                *("Key-Usage: sign,cert", f"Name-Real: {name}", "Creation-Date: 20200101T000000"),
                *("%no-protection", "%commit", ""),
            ]
            given = "\n".join(parameters).encode()
            self.gpg(*_ring(ring), "--full-gen-key", given=given, time=LONG_AGO)
            armored = self.export(fingerprint, ring=ring)
            return Key(
                name=name, fingerprint=fingerprint, signer=f"{fingerprint}!", armored=armored
            )

        return self._once(name, make)

    def _keygrip(self, fingerprint: str) -> str:
        arguments = ("--with-colons", "--with-keygrip", "--with-subkey-fingerprint")
        lines = self.gpg("--list-keys", *arguments, fingerprint).decode().splitlines()
        grips = [
            after.split(":")[9]
            for line, after in pairwise(lines)
            if line.startswith("fpr:") and fingerprint in line
        ]
        return grips[0]

    @property
    def decorated(self) -> Key:
        """With an image, and signatures by other keys on its user id."""

        def make() -> Key:
            made = self.key("decorated-ring")
            image = self.home / "image.jpg"
            image.write_bytes(JPEG)
            self._edit(made, None, "addphoto", str(image), "y", "save")
            for n in range(3):
                other = self.key(f"friend{n}")
                sign = ("--quick-sign-key", made.fingerprint)
                self.gpg("--local-user", other.fingerprint, *sign)
            armored = self.export(made.fingerprint, minimal=False)
            return self._other(made, "decorated", armored)

        return self._once("decorated", make)

    def _another_ring(self, name: str, armored: str) -> Path:
        ring = self.home / f"{name}.gpg"
        self.gpg(*_ring(ring), "--import", given=armored.encode())
        return ring

    def _edit(self, key: Key, ring: Path | None, *commands: str, time: str = "") -> None:
        given = "".join(f"{line}\n" for line in commands).encode()
        edit = ("--command-fd", "0", "--edit-key", key.fingerprint)
        self.gpg(*_ring(ring), *edit, given=given, time=time)

    # -- what they sign ---------------------------------------------------------------------

    def sign(self, key: Key, text: bytes, *options: str, time: str = "") -> str:
        """A detached signature in one line; *options* are gpg's."""
        return one_line(self.made_by(key, text, "--detach-sign", *options, time=time))

    def made_by(self, key: Key, text: bytes, *options: str, time: str = "") -> bytes:
        """What gpg makes of *text* with this key."""
        return self.gpg(*_arguments(options, key), given=text, time=time)

    def stop(self) -> None:
        """Leave nothing behind."""
        subprocess.run(
            ["gpgconf", "--homedir", str(self.home), "--kill", "all"],
            check=False,
            capture_output=True,
        )
        shutil.rmtree(self.home, ignore_errors=True)


def _arguments(options: tuple[str, ...], key: Key) -> list[str]:
    """gpg takes its command after its options."""
    commands = [o for o in options if o in COMMANDS]
    return ["--local-user", key.signer, *(o for o in options if o not in COMMANDS), *commands]


COMMANDS = ("--detach-sign", "--sign", "--clear-sign")


def _ring(ring: Path | None) -> list[str]:
    return ["--no-default-keyring", "--keyring", str(ring)] if ring else []
