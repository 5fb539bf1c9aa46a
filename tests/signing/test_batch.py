"""Signatures that share a run of gpg get the same verdicts as alone."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, DeferredList

from mig.errors import InvalidInputError, UnavailableError
from mig.limits import Limits
from mig.openpgp import packet
from mig.openpgp.certificate import Certificate
from mig.openpgp.packet import Signature
from mig.signing.gpg.verify import Gpg, VerifiedSignature
from tests.support.keys import Keys
from tests.support.reactor import reactor
from tests.support.signatures import (
    BAD_SIGNATURES,
    BOB,
    GOOD_SIGNATURES,
    SCRIPTS,
    TEXT,
    VALID,
    Signed,
    load_vector_text,
    run_reactor_once,
)

TEXTS = {
    "empty": b"",
    "line end": b"\n",
    "other line ends": b"a\r\nb\rc\n\r",
    "blanks at the end": b"a \t\n b \t",
    "dashes": b"-----BEGIN PGP SIGNATURE-----\n- -\n",
    "every octet": bytes(range(256)),
    "packets": bytes([0xC0 | 2, 1, 4, 0xC0 | 11, 6, *b"b\0\0\0\0\0", 0xD2, 1]),
    "large": b"0123456789abcdef" * 65_536,
}
SHARED = Limits().shared_signatures
REAL_GPG = shutil.which("gpg")


def write_counting_gpg(folder: Path, shared_run: str = f'exec {REAL_GPG} "$@"') -> str:
    """Write a gpg that logs each run; *shared_run* is its script for several signatures."""
    file = folder / "gpg"
    file.write_text(
        f'#!/bin/sh\ncase "$*" in\n*--verify-files*) echo "$*" | grep -o -e \'-&[0-9]*\' | wc -l'
        f" >> {folder}/runs\n{shared_run};;\n*--verify*) echo alone >> {folder}/runs;;\nesac\n"
        f'exec {REAL_GPG} "$@"\n'
    )
    file.chmod(0o700)
    return str(file)


def read_runs(folder: Path) -> list[str]:
    return (folder / "runs").read_text().split()


async def verify_at_once(
    gpg: Gpg, *checks: tuple[Certificate, str, bytes] | tuple[Certificate, str, bytes, str]
) -> list[Any]:
    """Return the verdicts, or the exceptions."""
    waiting = [
        Deferred.fromCoroutine(gpg.verify(key, packet.parse_signature(signature), *text_and_client))
        for key, signature, *text_and_client in checks
    ]
    results: list[Any] = await DeferredList(waiting, consumeErrors=True)
    return [result if good else result.value for good, result in results]


@pytest_twisted.ensureDeferred
async def test_signatures_that_arrive_while_gpg_works_share_the_next_run(
    keys: Keys, tmp_path: Path
) -> None:
    signature = keys.sign(keys.alice, TEXT)
    gpg = Gpg(reactor, time.time, program=write_counting_gpg(tmp_path))
    found = await verify_at_once(gpg, *[(keys.alice.certificate, signature, TEXT)] * (SHARED + 3))
    assert {one.fingerprint for one in found} == {keys.alice.fingerprint}
    assert read_runs(tmp_path) == ["alone", str(SHARED), "2"]


@pytest_twisted.ensureDeferred
async def test_waiting_signatures_of_each_key_share_a_run(keys: Keys, tmp_path: Path) -> None:
    alice, bob = ((key.certificate, keys.sign(key, TEXT), TEXT) for key in (keys.alice, keys.bob))
    gpg = Gpg(
        reactor, time.time, program=write_counting_gpg(tmp_path), limits=Limits(gpg_processes=1)
    )
    found = await verify_at_once(gpg, alice, bob, bob, bob, alice, alice)
    assert [one.fingerprint for one in found] == [
        key.fingerprint for key in (keys.alice, *[keys.bob] * 3, keys.alice, keys.alice)
    ]
    assert read_runs(tmp_path) == ["alone", "3", "2"]


@pytest_twisted.ensureDeferred
async def test_one_client_spoils_no_shared_run_of_another(keys: Keys, tmp_path: Path) -> None:
    key, signature = keys.alice.certificate, keys.sign(keys.alice, TEXT)
    bad, good = (key, signature, b"other", "eve"), (key, signature, TEXT, "alice")
    gpg = Gpg(
        reactor,
        time.time,
        program=write_counting_gpg(tmp_path),
        limits=Limits(gpg_processes=1),
    )
    found = await verify_at_once(gpg, bad, bad, good, bad, good, good)
    assert [isinstance(one, VerifiedSignature) for one in found] == [
        *(False, False, True),
        *(False, True, True),
    ]
    # Eve's first one alone; then by turns: Alice's three, and Eve's two, which fail together
    assert read_runs(tmp_path) == ["alone", "3", "2", "alone", "alone"]


@pytest_twisted.ensureDeferred
async def test_a_flood_of_signatures_is_refused_and_others_are_served(
    keys: Keys, tmp_path: Path
) -> None:
    """The queue is shared between certificates, and for each between clients."""
    signatures = {key.name: keys.sign(key, TEXT) for key in (keys.alice, keys.bob)}
    alice, bob = ((key.certificate, signatures[key.name], TEXT) for key in (keys.alice, keys.bob))
    gpg = Gpg(
        reactor,
        time.time,
        program=write_counting_gpg(tmp_path),
        limits=Limits(gpg_processes=1, waiting_checks=6),
    )
    flood = [(alice[0], alice[1], b"other", "eve")] * 20
    found = await verify_at_once(gpg, *flood, (*alice, "alice"), *[(*bob, "bob")] * 2)
    *flooding, alices, bobs, bobs_second = found
    assert alices.fingerprint == keys.alice.fingerprint
    assert bobs.fingerprint == bobs_second.fingerprint == keys.bob.fingerprint
    refused = [isinstance(one, UnavailableError) for one in flooding]
    assert refused == [False] * 4 + [True] * 16
    # Eve's first one, and then Alice's and Bob's before more of Eve's
    assert read_runs(tmp_path)[:3] == ["alone", "alone", "2"]


@pytest_twisted.ensureDeferred
async def test_a_client_whose_signatures_were_all_refused_starts_no_run(
    keys: Keys, tmp_path: Path
) -> None:
    alice = (keys.alice.certificate, keys.sign(keys.alice, TEXT), TEXT)
    bob = (keys.bob.certificate, keys.sign(keys.bob, TEXT), TEXT, "bob")
    gpg = Gpg(
        reactor,
        time.time,
        program=write_counting_gpg(tmp_path),
        limits=Limits(gpg_processes=1, waiting_checks=2),
    )
    found = await verify_at_once(gpg, *[(*alice, client) for client in "abc"], bob)
    assert [isinstance(one, VerifiedSignature) for one in found] == [True, False, True, True]
    assert read_runs(tmp_path) == ["alone"] * 3


@pytest_twisted.ensureDeferred
async def test_a_cancelled_check_starts_no_run(keys: Keys, tmp_path: Path) -> None:
    alice, bob = (
        (key.certificate, packet.parse_signature(keys.sign(key, TEXT)), TEXT)
        for key in (keys.alice, keys.bob)
    )
    gpg = Gpg(
        reactor, time.time, program=write_counting_gpg(tmp_path), limits=Limits(gpg_processes=1)
    )
    first, cancelled = (Deferred.fromCoroutine(gpg.verify(*one)) for one in (alice, bob))
    cancelled.cancel()
    with pytest.raises(CancelledError):
        await cancelled
    await first
    assert (await gpg.verify(*bob)).fingerprint == keys.bob.fingerprint
    assert read_runs(tmp_path) == ["alone", "alone"]


@pytest_twisted.ensureDeferred
async def test_each_signature_of_a_shared_run_is_checked_with_its_own_text(
    keys: Keys, tmp_path: Path
) -> None:
    key = keys.alice.certificate
    signed = {name: keys.sign(keys.alice, text) for name, text in TEXTS.items()}
    gpg = Gpg(reactor, time.time, program=write_counting_gpg(tmp_path))
    good = [(key, signed[name], text) for name, text in TEXTS.items()]
    found = await verify_at_once(gpg, good[0], *good)
    assert {one.key_fingerprint for one in found} == {keys.alice.fingerprint}
    assert read_runs(tmp_path) == ["alone", str(len(TEXTS))]
    for name, text in TEXTS.items():
        found = await verify_at_once(gpg, *good[:2], (key, signed[name], text + b"\n"), *good[2:])
        assert [isinstance(one, VerifiedSignature) for one in found] == [True] * 2 + [False] + [
            True
        ] * 6
        assert "made over another text" in str(found[2])


@pytest.mark.parametrize("make", GOOD_SIGNATURES.values(), ids=GOOD_SIGNATURES)
@pytest_twisted.ensureDeferred
async def test_a_good_signature_is_good_in_a_shared_run(
    keys: Keys, tmp_path: Path, make: Callable[[Keys], Signed]
) -> None:
    key, signature = make(keys)
    gpg = Gpg(reactor, time.time, program=write_counting_gpg(tmp_path))
    alone, *shared = await verify_at_once(gpg, *[(key, signature, TEXT)] * 4)
    assert isinstance(alone, VerifiedSignature)
    assert shared == [alone] * 3
    assert read_runs(tmp_path) == ["alone", "3"]


@pytest.mark.parametrize(("make", "reason"), BAD_SIGNATURES.values(), ids=BAD_SIGNATURES)
@pytest_twisted.ensureDeferred
async def test_a_bad_signature_is_bad_in_a_shared_run(
    gpg: Gpg, keys: Keys, make: Callable[[Keys], Signed], reason: str
) -> None:
    key, signature = make(keys)
    for one in await verify_at_once(gpg, *[(key, signature, TEXT)] * 4):
        assert isinstance(one, InvalidInputError)
        assert reason in str(one)


@pytest.mark.parametrize("script", [s for s in SCRIPTS.values() if s], ids=[*SCRIPTS][:-1])
@pytest_twisted.ensureDeferred
async def test_a_shared_run_that_fails_is_not_trusted(tmp_path: Path, script: str) -> None:
    text, (signature, *_) = load_vector_text("unix-plain")
    gpg = Gpg(
        reactor,
        time.time,
        program=write_counting_gpg(tmp_path, script),
        limits=Limits(gpg_seconds=2.0),
    )
    found = await verify_at_once(gpg, *[(BOB, signature, text + bytes([n // 3])) for n in range(4)])
    assert not any(isinstance(one, VerifiedSignature) for one in found)
    await gpg.stop()


def format_status(*files: tuple[int, str]) -> str:
    """Return the status lines of a shared run."""
    return "".join(
        f"[GNUPG:] FILE_START 1 -&{number}\\n{lines}[GNUPG:] FILE_DONE\\n"
        for number, lines in files
    )


BOTH = format_status((6, VALID), (7, VALID))
STATUS = {
    "only one of them": format_status((6, VALID)),
    "the first one twice": format_status((6, VALID), (6, VALID)),
    "the wrong order": format_status((7, VALID), (6, VALID)),
    "both in one": format_status((6, VALID + VALID), (7, "")),
    "nothing of the second": format_status((6, VALID), (7, "")),
    "more than was asked": BOTH + format_status((8, VALID)),
    "a line more": f"{BOTH}[GNUPG:] FAILURE gpg-exit 1\\n",
    "a line before": f"[GNUPG:] NEWSIG\\n{BOTH}",
    "no end": BOTH.rsplit("[GNUPG:] FILE_DONE", 1)[0],
    "no frames": VALID + VALID,
    "nothing": "",
    "an expired key": format_status((6, VALID), (7, f"{VALID}[GNUPG:] EXPKEYSIG x\\n")),
    "a revoked key": format_status((6, f"{VALID}[GNUPG:] REVKEYSIG x\\n"), (7, VALID)),
    "bad too": format_status((6, VALID), (7, f"{VALID}[GNUPG:] BADSIG x\\n")),
    "an error too": format_status((6, f"{VALID}[GNUPG:] ERRSIG x\\n"), (7, VALID)),
}


async def verify_two_bad_signatures(tmp_path: Path, status: str, code: int = 0) -> list[Any]:
    """Return the verdicts of two bad signatures when a shared run prints *status*."""
    text, (signature, *_) = load_vector_text("unix-plain")
    gpg = Gpg(
        reactor,
        time.time,
        program=write_counting_gpg(tmp_path, f"printf '{status}' >&3; exit {code}"),
    )
    checks = [(BOB, signature, text), (BOB, signature, b"one"), (BOB, signature, b"other")]
    return (await verify_at_once(gpg, *checks))[1:]


@pytest.mark.parametrize("status", STATUS.values(), ids=STATUS)
@pytest_twisted.ensureDeferred
async def test_a_shared_run_counts_only_when_every_signature_is_good(
    tmp_path: Path, status: str
) -> None:
    for one in await verify_two_bad_signatures(tmp_path, status):
        assert isinstance(one, InvalidInputError)
    assert read_runs(tmp_path) == ["alone", "2", "alone", "alone"]


@pytest_twisted.ensureDeferred
async def test_a_shared_run_of_good_signatures_counts_unless_gpg_failed(tmp_path: Path) -> None:
    """This shows that the table above is about the status, not about the signatures."""
    for one in await verify_two_bad_signatures(tmp_path, BOTH):
        assert isinstance(one, VerifiedSignature)
    for one in await verify_two_bad_signatures(tmp_path, BOTH, code=2):
        assert isinstance(one, InvalidInputError)
    wrong_class = BOTH.replace(" 8 00 ", " 8 01 ")
    for one in await verify_two_bad_signatures(tmp_path, wrong_class):
        assert isinstance(one, InvalidInputError)


class HangingSharedRuns:
    """A gpg whose shared runs never end, and write their process numbers."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "pids"
        self._log.touch()
        text, (signature, *_) = load_vector_text("unix-plain")
        self.text = text
        self.signature: Signature = packet.parse_signature(signature)
        self.gpg = Gpg(
            reactor,
            time.time,
            program=write_counting_gpg(folder, f"echo $$ >> {self._log}; exec sleep 1000"),
        )

    def verify(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.gpg.verify(BOB, self.signature, self.text))

    async def wait_until_started(self) -> Path:
        """Wait for the shared run, and return its folder in /proc."""
        while not self._log.read_text():
            await run_reactor_once()
        return Path("/proc") / self._log.read_text().strip()


@pytest_twisted.ensureDeferred
async def test_a_shared_run_ends_when_the_last_client_has_left(tmp_path: Path) -> None:
    hanging = HangingSharedRuns(tmp_path)
    first, *others = (hanging.verify() for _ in range(4))
    assert (await first).fingerprint == BOB.fingerprint
    process = await hanging.wait_until_started()
    late = hanging.verify()
    for leaving in others:
        assert process.exists()
        leaving.cancel()
        with pytest.raises(CancelledError):
            await leaving
    assert (await late).fingerprint == BOB.fingerprint
    while process.exists():
        await run_reactor_once()


@pytest_twisted.ensureDeferred
async def test_a_stop_ends_running_and_waiting_checks(tmp_path: Path) -> None:
    hanging = HangingSharedRuns(tmp_path)
    waiting = [hanging.verify() for _ in range(3)]
    process = await hanging.wait_until_started()
    waiting.append(hanging.verify())
    stopped = hanging.gpg.stop()
    for one in waiting[1:]:
        with pytest.raises(UnavailableError, match="cannot be checked"):
            await one
    await stopped
    assert not process.exists()
