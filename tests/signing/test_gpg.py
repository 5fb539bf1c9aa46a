"""What the real gpg verifies, and that a gpg that fails is never trusted."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, DeferredList

from mig.errors import InvalidInputError, UnavailableError
from mig.limits import Limits
from mig.openpgp import certificate, packet
from mig.openpgp.packet import Signature
from mig.signing.gpg.verify import Gpg, VerifiedSignature
from tests.support.keys import (
    HOMES,
    LONG_AGO,
    Key,
    Keys,
    decode_armor,
    encode_packet,
    encode_signature,
)
from tests.support.reactor import reactor
from tests.support.signatures import (
    BAD_SIGNATURES,
    BOB,
    GOOD_SIGNATURES,
    GOODSIG,
    SCRIPTS,
    TEXT,
    VALID,
    VALIDSIG,
    Signed,
    load_vector_key,
    load_vector_text,
    make_adopted,
    make_forging_user_id,
    make_victim,
    run_reactor_once,
    sign_text,
    sign_without_consent,
)


@pytest.mark.parametrize(
    "name", ["unix-plain", "unix-tricky", "unix-two-signers", "gotime-plain", "gotime-offset"]
)
@pytest_twisted.ensureDeferred
async def test_signatures_of_the_original_clients_are_valid(gpg: Gpg, name: str) -> None:
    text, signatures = load_vector_text(name)
    for signature, signer in zip(signatures, ["bob", "sher"], strict=False):
        parsed = packet.parse_signature(signature)
        key = load_vector_key(signer)
        verified = await gpg.verify(key, parsed, text)
        assert verified.fingerprint == verified.key_fingerprint == key.fingerprint
        assert verified.created == parsed.created
        with pytest.raises(InvalidInputError, match="not by this key"):
            await gpg.verify(load_vector_key("mallory"), parsed, text)
        with pytest.raises(InvalidInputError, match="made over another text"):
            await gpg.verify(key, parsed, text + b" ")


@pytest_twisted.ensureDeferred
async def test_a_user_id_cannot_forge_a_signer(gpg: Gpg, keys: Keys) -> None:
    eve = keys.make_key("forges", uid=make_forging_user_id(BOB.fingerprint))
    key, signature = sign_text(keys, eve)
    assert (
        await gpg.verify(key, packet.parse_signature(signature), TEXT)
    ).fingerprint == key.fingerprint


@pytest_twisted.ensureDeferred
async def test_the_signer_is_the_key_whatever_its_user_id_says(gpg: Gpg, keys: Keys) -> None:
    odd = "".join(map(chr, [*range(0x80, 0xA1), 0x2028, 0x2029, 0x202E, 0xFEFF, 0x1F510]))
    for name in (odd, "a:b%0A[GNUPG:] GOODSIG x", "%s%n \\x0a"):
        key, signature = sign_text(keys, keys.make_key("odd", uid=f"Odd {name}".encode()))
        reduced, _ = await gpg.minimize_certificate(key)
        verified = await gpg.verify(reduced, packet.parse_signature(signature), TEXT)
        assert verified.fingerprint == key.fingerprint


@pytest.mark.parametrize("make", GOOD_SIGNATURES.values(), ids=GOOD_SIGNATURES)
@pytest_twisted.ensureDeferred
async def test_a_good_signature_names_its_signer(
    gpg: Gpg, keys: Keys, make: Callable[[Keys], Signed]
) -> None:
    key, signature = make(keys)
    verified = await gpg.verify(key, packet.parse_signature(signature), TEXT)
    assert verified.fingerprint == key.fingerprint
    assert verified.key_fingerprint == key.keys[-1].fingerprint


@pytest.mark.parametrize(("make", "reason"), BAD_SIGNATURES.values(), ids=BAD_SIGNATURES)
@pytest_twisted.ensureDeferred
async def test_a_bad_signature_is_refused_with_a_reason(
    gpg: Gpg, keys: Keys, make: Callable[[Keys], Signed], reason: str
) -> None:
    key, signature = make(keys)
    with pytest.raises(InvalidInputError, match=reason):
        await gpg.verify(key, packet.parse_signature(signature), TEXT)


@pytest_twisted.ensureDeferred
async def test_a_signature_may_be_dated_five_minutes_in_the_future(keys: Keys) -> None:
    key, signature = sign_text(keys, keys.bob)  # an old key, and a signature that is made now
    parsed = packet.parse_signature(signature)
    assert parsed.created is not None
    too_early = parsed.created - 301
    await Gpg(reactor, lambda: too_early + 1).verify(key, parsed, TEXT)
    with pytest.raises(InvalidInputError, match="dated in the future"):
        await Gpg(reactor, lambda: too_early).verify(key, parsed, TEXT)


@pytest_twisted.ensureDeferred
async def test_an_adopted_key_verifies_for_its_owner_and_nobody_else(gpg: Gpg, keys: Keys) -> None:
    other = make_victim(keys)
    both, signed = sign_without_consent(keys)
    signature = packet.parse_signature(signed)
    assert (await gpg.verify(other.certificate, signature, TEXT)).fingerprint == other.fingerprint
    assert [key.fingerprint for key in both.keys] == [
        make_adopted(keys).fingerprint,
        other.fingerprint,
    ]
    with pytest.raises(InvalidInputError, match="may not be used for signing"):
        await gpg.verify(both, signature, TEXT)


@pytest_twisted.ensureDeferred
async def test_a_2014_key_with_a_sha_1_self_signature_can_sign_with_sha_2(
    gpg: Gpg, keys: Keys
) -> None:
    """This is how gpg made keys then, and adopted databases hold such keys."""
    old = keys.make_key("2014", "rsa2048", options=("--cert-digest-algo", "SHA1"))
    key, signature = sign_text(keys, old)
    assert packet.split_packets(key.packets)[-1].body[3] == 2
    assert (
        await gpg.verify(key, packet.parse_signature(signature), TEXT)
    ).fingerprint == key.fingerprint
    assert (await gpg.minimize_certificate(key))[0] == key


@pytest_twisted.ensureDeferred
async def test_a_key_in_two_certificates_counts_for_the_requested_one(gpg: Gpg, keys: Keys) -> None:
    """Its owner agreed, by a back signature. So a registry must refuse a key that it knows."""
    other, both = make_victim(keys), make_adopted(keys).certificate
    signature = packet.parse_signature(keys.sign(other, TEXT))
    assert other.fingerprint in [key.fingerprint for key in both.keys]
    for key in (both, other.certificate):
        verified = await gpg.verify(key, signature, TEXT)
        assert verified.fingerprint == key.fingerprint
        assert verified.key_fingerprint == other.fingerprint


@pytest_twisted.ensureDeferred
async def test_a_changed_signature_is_refused_without_an_error(gpg: Gpg, keys: Keys) -> None:
    key, signature = sign_text(keys, keys.alice)
    body = packet.split_packets(packet.parse_signature(signature).raw)[0].body
    for at in range(0, len(body), 3):
        text = encode_signature(
            encode_packet(2, body[:at] + bytes([body[at] ^ 0x41]) + body[at + 1 :])
        )
        try:
            verified = await gpg.verify(key, packet.parse_signature(text), TEXT)
        except InvalidInputError:
            continue
        assert verified.fingerprint == key.fingerprint  # the unsigned area, which names nobody


# Uploaded keys


@pytest_twisted.ensureDeferred
async def test_an_uploaded_key_is_reduced_to_the_minimum(gpg: Gpg, keys: Keys) -> None:
    key = keys.add_subkey(keys.make_key("minimal"))
    keys.certify(keys.make_key("friend"), key)
    signed = keys.export(key.fingerprint, minimal=False)
    assert len(decode_armor(signed)) > len(key.packets)
    reduced, text = await gpg.minimize_certificate(certificate.parse_armored(signed.encode()))
    assert reduced.packets == key.packets
    assert certificate.parse_armored(text.encode()) == reduced
    assert (await gpg.minimize_certificate(reduced))[0] == reduced


def remove_self_signatures(key: Key) -> bytes:
    return b"".join(one.raw for one in packet.split_packets(key.packets) if one.tag != 2)


def make_expired_subkey(keys: Keys) -> bytes:
    primary = keys.make_key("only an old subkey", "rsa2048", "cert", time=LONG_AGO)
    return keys.add_subkey(primary, expires="2021-01-01", time=LONG_AGO).packets


UNUSABLE: dict[str, tuple[Callable[[Keys], bytes], str]] = {
    "expired": (lambda keys: keys.expired.packets, "the key has expired"),
    "revoked": (lambda keys: keys.revoked.packets, "the key is revoked"),
    "no valid user id": (lambda keys: remove_self_signatures(keys.alice), "user id"),
    "no signing key": (
        lambda keys: keys.make_key("only certifies", "rsa2048", "cert").packets,
        "cannot sign: it has no key",
    ),
    "encrypts only": (
        lambda keys: (
            keys.add_subkey(
                keys.make_key("rsa encrypts", "rsa2048", "cert"), "rsa2048", "encr"
            ).packets
        ),
        "cannot sign: it has no key",
    ),
    "expired subkey": (make_expired_subkey, "signing subkey has expired"),
    "RSA with 1024 bits": (lambda keys: keys.rsa1024.packets, "1024 bits"),
    "weak signing subkey": (
        lambda keys: keys.add_subkey(keys.make_key("weak subkey"), "rsa1024").packets,
        "signing subkey .* is too weak: it has 1024 bits",
    ),
    "DSA": (lambda keys: keys.dsa.packets, "DSA"),
    "brainpool curve": (lambda keys: keys.make_key("P", "brainpoolP384r1").packets, "brainpool"),
}


@pytest.mark.parametrize(("make", "reason"), UNUSABLE.values(), ids=UNUSABLE)
@pytest_twisted.ensureDeferred
async def test_a_key_that_cannot_sign_well_is_refused_with_a_reason(
    gpg: Gpg, keys: Keys, make: Callable[[Keys], bytes], reason: str
) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        await gpg.minimize_certificate(certificate.parse_binary(make(keys)))


# A gpg that fails


def write_fake_gpg(folder: Path, script: str, *, version: str = "") -> str:
    """Write a gpg that answers what python-gnupg asks at its start, then runs *script*."""
    file = folder / "gpg"
    real = shutil.which("gpg")
    file.write_text(
        f'#!/bin/sh\ncase "$*" in\n*--version*|*--list-config*) {version} exec {real} "$@";;\n'
        f"esac\ncat >/dev/null\n{script}\n"
    )
    file.chmod(0o700)
    return str(file)


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
@pytest_twisted.ensureDeferred
async def test_a_gpg_that_fails_is_never_trusted(tmp_path: Path, script: str | None) -> None:
    text, (signature, *_) = load_vector_text("unix-plain")
    program = (
        write_fake_gpg(tmp_path, script)
        if script is not None
        else write_fake_gpg(tmp_path, "exit 0", version="exit 3;")
    )
    gpg = Gpg(reactor, time.time, program=program, limits=Limits(gpg_seconds=0.5))
    with pytest.raises(UnavailableError, match="cannot be checked at the moment") as raised:
        await gpg.verify(BOB, packet.parse_signature(signature), text)
    assert raised.value.detail
    await gpg.stop()


@pytest_twisted.ensureDeferred
async def test_the_fake_gpg_is_trusted_when_it_does_not_fail(tmp_path: Path) -> None:
    gpg = Gpg(reactor, time.time, program=write_fake_gpg(tmp_path, f"printf '{VALID}' >&3"))
    text, (signature, *_) = load_vector_text("unix-plain")
    assert await gpg.verify(BOB, packet.parse_signature(signature), text)


SAID = {
    "two": (VALID + VALID, "exactly one"),
    "no NEWSIG": (VALID.split("\\n", 1)[1], "exactly one"),
    "nothing": ("", "exactly one"),
    "expired too": (VALID + "[GNUPG:] EXPSIG x\\n", "has expired"),
    "bad too": (VALID + "[GNUPG:] BADSIG x\\n", "is bad"),
    "text mode": (VALID.replace(" 8 00 ", " 8 01 "), "class"),
    "SHA-1": (VALID.replace(" 8 00 ", " 2 00 "), "digest"),
    "another primary": (f"{GOODSIG}{VALIDSIG}{'A' * 40}\\n", "not by this key"),
    "another key": (
        VALID.replace(f"VALIDSIG {BOB.fingerprint}", f"VALIDSIG {'A' * 40}"),
        "not by",
    ),
}


@pytest.mark.parametrize(("status", "reason"), SAID.values(), ids=SAID)
@pytest_twisted.ensureDeferred
async def test_only_one_good_signature_by_this_key_is_accepted(
    tmp_path: Path, status: str, reason: str
) -> None:
    gpg = Gpg(reactor, time.time, program=write_fake_gpg(tmp_path, f"printf '{status}' >&3"))
    text, (signature, *_) = load_vector_text("unix-plain")
    with pytest.raises(InvalidInputError, match=reason):
        await gpg.verify(BOB, packet.parse_signature(signature), text)


@pytest_twisted.ensureDeferred
async def test_a_missing_gpg_makes_checks_unavailable(tmp_path: Path) -> None:
    signature = packet.parse_signature(load_vector_text("unix-plain")[1][0])
    with pytest.raises(UnavailableError):
        await Gpg(reactor, time.time, program=str(tmp_path / "none")).verify(BOB, signature, b"")
    with pytest.raises(UnavailableError):
        await Gpg(reactor, time.time, program=str(tmp_path / "none")).minimize_certificate(BOB)


class Hanging:
    """A gpg that never ends, and writes its process number for each run."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._log = folder / "pids"
        self._log.touch()
        program = write_fake_gpg(folder, f"echo $$ >> {self._log}; exec sleep 1000")
        self.gpg = Gpg(reactor, time.time, program=program, limits=limits)
        self.signature: Signature = packet.parse_signature(load_vector_text("unix-plain")[1][0])

    def verify(self) -> Deferred[VerifiedSignature]:
        return Deferred.fromCoroutine(self.gpg.verify(BOB, self.signature, b""))

    @property
    def process_ids(self) -> list[int]:
        return [int(line) for line in self._log.read_text().split()]

    async def wait_until_started(self, count: int) -> None:
        while len(self.process_ids) < count:
            await run_reactor_once()

    async def wait_until_gone(self) -> None:
        while any(Path(f"/proc/{pid}").exists() for pid in self.process_ids):
            await run_reactor_once()


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_ends_its_gpg_and_the_next_check_starts(
    tmp_path: Path,
) -> None:
    hanging = Hanging(tmp_path, Limits(gpg_processes=1))
    first, second = hanging.verify(), hanging.verify()
    await hanging.wait_until_started(1)
    first.cancel()
    with pytest.raises(CancelledError):
        await first
    await hanging.wait_until_started(2)
    assert not Path(f"/proc/{hanging.process_ids[0]}").exists()
    stopped = hanging.gpg.stop()
    with pytest.raises(UnavailableError):
        await second
    await stopped
    await hanging.wait_until_gone()
    with pytest.raises(UnavailableError):
        await hanging.verify()


@pytest_twisted.ensureDeferred
async def test_the_queue_of_checks_and_the_time_in_it_are_bounded(tmp_path: Path) -> None:
    hanging = Hanging(tmp_path, Limits(gpg_processes=1, waiting_checks=2, gpg_seconds=0.5))
    waiting = [hanging.verify() for _ in range(3)]
    with pytest.raises(UnavailableError) as raised:
        await hanging.verify()
    assert "too many" in raised.value.detail
    for one in waiting:
        with pytest.raises(UnavailableError) as raised:
            await one
        assert "0.5 s" in raised.value.detail
    await hanging.gpg.stop()
    await hanging.wait_until_gone()


# What a check leaves behind


def count_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def list_agents() -> set[str]:
    """Return the agents that run, except for those of the tests' own keyrings."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "comm").read_text().strip()
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if name in ("gpg-agent", "dirmngr", "keyboxd") and HOMES not in command:
            found.add(folder.name)
    return found


@pytest_twisted.ensureDeferred
async def test_gpg_leaves_no_files_or_agents_and_ignores_settings(
    gpg: Gpg, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gpg.conf in a home folder that the environment names is not read."""
    (tmp_path / "gpg.conf").write_text("auto-key-retrieve\ntrust-model tofu\nno-such-option\n")
    (tmp_path / "common.conf").write_text("use-keyboxd\n")
    for name in ("HOME", "GNUPGHOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    key, signature = sign_text(keys, keys.make_key("leaves nothing"))
    before, descriptors = list_agents(), count_open_files()
    for _ in range(3):
        await gpg.minimize_certificate(key)
        await gpg.verify(key, packet.parse_signature(signature), TEXT)
        with pytest.raises(InvalidInputError):
            await gpg.verify(BOB, packet.parse_signature(signature), TEXT)
    assert list_agents() == before
    assert {file.name for file in tmp_path.iterdir()} == {"common.conf", "gpg.conf"}
    assert count_open_files() <= descriptors + 3


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest_twisted.ensureDeferred
async def test_gpg_makes_no_connection_and_writes_no_file(keys: Keys, tmp_path: Path) -> None:
    """This also holds for an unknown key whose signature names a key server."""
    trace = tmp_path / "trace"
    program = tmp_path / "gpg"
    program.write_text(
        f"#!/bin/sh\nexec strace -f -A -o {trace} -e trace=network,openat,open,mkdir,rename,unlink"
        f' {shutil.which("gpg")} "$@"\n'
    )
    program.chmod(0o700)
    gpg = Gpg(reactor, time.time, program=str(program), limits=Limits(gpg_processes=1))
    options = ("--sig-keyserver-url", "hkp://192.0.2.1", "--include-key-block")
    key, signature = sign_text(keys, keys.alice, *options)
    parsed = packet.parse_signature(signature)
    await gpg.verify(key, parsed, TEXT)
    with pytest.raises(InvalidInputError):
        await gpg.verify(BOB, parsed, TEXT)
    await gpg.minimize_certificate(key)
    lines = trace.read_text().splitlines()
    assert any("/dev/fd/5" in line for line in lines)
    name_service = "/var/run/nscd/socket"
    assert [x for x in lines if "connect(" in x and name_service not in x] == []
    written = ("O_CREAT", "O_WRONLY", "O_RDWR", "mkdir(", "rename(", "unlink(")
    assert [x for x in lines if any(word in x for word in written)] == []


@pytest_twisted.ensureDeferred
async def test_concurrent_checks_are_never_refused_wrongly(gpg: Gpg) -> None:
    """Each check has a keyring of its own."""
    text, (signature, *_) = load_vector_text("unix-plain")
    parsed = packet.parse_signature(signature)
    checks = [Deferred.fromCoroutine(gpg.verify(BOB, parsed, text)) for _ in range(200)]
    results = await DeferredList(checks, consumeErrors=True)
    assert {value.fingerprint for _, value in results} == {BOB.fingerprint}
