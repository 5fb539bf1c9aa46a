"""gpg, asked about one signature or one key at a time.

Each run has a keyring of its own in memory with one certificate, no home, no agent and no network,
and leaves nothing behind. A run costs about 3 ms of a core. python-gnupg builds the command; what
it makes of gpg's answer is not used, because it can be forged by a user id: the verdict comes from
gpg's status lines as bytes, on a pipe of their own, together with its exit code.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import gnupg
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from mig.signing import certificate as certificates
from mig.signing.certificate import Certificate, Key
from mig.signing.packet import HASHES, Signature
from mig.values import InvalidInput, Unavailable

FUTURE_SECONDS: Final = 300
"""How far ahead of our clock a signature may be dated."""
LONGEST_OUTPUT: Final = 4 * 1024 * 1024

TEXT: Final = 0
OUTPUT: Final = 1
ERRORS: Final = 2
STATUS: Final = 3
SIGNATURE: Final = 4
KEYRING: Final = 5

# No --weak-digest: it would also refuse the keys of 2014, whose self-signatures are by SHA-1.
# The digest of the signature itself is checked before gpg and in its verdict.
OPTIONS: Final = [
    *("--no-options", "--batch", "--no-tty", "--no-autostart"),
    *("--homedir", "/dev/null"),
    *("--trust-model", "always", "--no-auto-check-trustdb"),
    *("--no-auto-key-retrieve", "--no-auto-key-import", "--disable-dirmngr"),
    *("--lock-never", "--enable-special-filenames"),
]
ONE_KEYRING: Final = ["--no-default-keyring", "--keyring", f"/dev/fd/{KEYRING}"]

FAILED: Final = "signatures and keys cannot be checked at the moment"

STATUS_PREFIX: Final = b"[GNUPG:] "
ONCE: Final = (b"NEWSIG", b"GOODSIG", b"VALIDSIG")
BAD: Final = {
    b"BADSIG": "the signature is bad: it was made over another text, or has been changed",
    b"EXPSIG": "the signature has expired",
    b"NO_PUBKEY": "the signature is not by this key",
    b"NODATA": "gpg finds no signature in it",
    b"UNEXPECTED": "gpg finds something else than a signature in it",
}
ERRORS_IN_SIGNATURE: Final = {
    b"4": "gpg does not know the algorithm of the signature",
    b"5": "the digest of the signature is weak: SHA-224, SHA-256, SHA-384 or SHA-512 is accepted",
    b"6": "the key that made the signature may not be used for signing: it is not bound to the key",
    b"9": BAD[b"NO_PUBKEY"],
    b"39": "the signature is dated before the key that made it",
    b"125": "the key that made the signature may not be used for signing",
}
UNREADABLE_SIGNATURE: Final = "gpg cannot check the signature: it or its key is damaged"
KEY_STATES: Final = {b"EXPKEYSIG": b"e", b"REVKEYSIG": b"r"}
STATE_NAMES: Final = {b"e": "has expired", b"r": "is revoked", b"i": "is invalid", b"d": "is off"}


class BadSignature(InvalidInput):
    """The signature was made over another text, or has been changed."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A signature that holds."""

    fingerprint: str
    """The signer: the primary key of the certificate."""
    key_fingerprint: str
    """The primary key or subkey that made the signature."""
    created: int
    """Unix seconds."""


@dataclass(frozen=True, kw_only=True)
class _Answer:
    code: int | None
    """The exit code, ``None`` when gpg was killed."""
    output: bytes
    status: bytes
    errors: bytes


class _Process(ProcessProtocol):
    """One gpg; *feed* is what it reads, by file descriptor."""

    transport: Any

    def __init__(self, feed: Mapping[int, bytes]) -> None:
        self._feed = feed
        self._received = {OUTPUT: bytearray(), ERRORS: bytearray(), STATUS: bytearray()}
        self._size = 0
        self._running = True
        self.exited: Deferred[None] = Deferred()
        self.answer: Deferred[_Answer] = Deferred(lambda _: self.kill())

    def connectionMade(self) -> None:
        for fd, data in self._feed.items():
            self.transport.writeToChild(fd, data)
            self.transport.closeChildFD(fd)

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N803
        self._size += len(data)
        if self._size <= LONGEST_OUTPUT:
            self._received[childFD] += data
        else:
            self.fail("its output has no end")

    def processExited(self, reason: Failure) -> None:
        self._running = False
        self.exited.callback(None)

    def processEnded(self, reason: Failure) -> None:
        ended: Any = reason.value
        if not self.answer.called:
            received = {fd: bytes(data) for fd, data in self._received.items()}
            self.answer.callback(
                _Answer(
                    code=ended.exitCode,
                    output=received[OUTPUT],
                    status=received[STATUS],
                    errors=received[ERRORS],
                )
            )

    def fail(self, detail: str) -> None:
        """Kill it, and tell who waits why."""
        self.kill()
        if not self.answer.called:
            self.answer.errback(Unavailable(FAILED, f"gpg was killed: {detail}"))

    def kill(self) -> None:
        if self._running:
            self.transport.signalProcess("KILL")
        for fd in (*self._feed, *self._received):
            self.transport.closeChildFD(fd)


class Gpg:
    """At most *processes* gpg at once; a bounded queue waits for them.

    :param program: the name or path of gpg.
    :param seconds: a check that has no answer by then, its waiting counted, is given up.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        program: str = "gpg",
        processes: int = os.cpu_count() or 1,
        waiting: int = 256,
        seconds: float = 10.0,
    ) -> None:
        self._reactor = reactor
        self._program = program
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        self._turns = DeferredSemaphore(processes)
        self._waiting = waiting
        self._seconds = seconds
        self._commands: gnupg.GPG | None = None
        self._checks: set[Deferred[_Answer]] = set()
        self._processes: set[_Process] = set()
        self._stopped = False

    async def verify(self, certificate: Certificate, signature: Signature, text: bytes) -> Verified:
        """That *signature* over *text* holds and was made by a good key of *certificate*.

        :raises InvalidInput: when it does not, with the reason.
        :raises Unavailable: when gpg gave no answer that can be relied on.
        """
        _refuse_future(certificate, "the key that made the signature")
        answer = await self._run(
            ["--verify", "--", f"-&{SIGNATURE}", "-"],
            keyring=certificate.packets,
            feed={TEXT: text, SIGNATURE: signature.raw},
        )
        lines = _status(answer)
        words = Counter(line[0] for line in lines)
        for word, state in KEY_STATES.items():
            if words[word]:
                raise InvalidInput(await self._why_not(certificate, state))
        _refuse(lines)
        if answer.code != 0:
            raise _unreliable(answer)
        if any(words[word] != 1 for word in ONCE):
            raise InvalidInput("gpg does not report exactly one good signature")
        valid = next(line for line in lines if line[0] == b"VALIDSIG")
        return self._verdict(certificate, _fields(answer, valid))

    def _verdict(self, certificate: Certificate, valid: _Valid) -> Verified:
        if valid.primary != certificate.fingerprint:
            raise InvalidInput(BAD[b"NO_PUBKEY"])
        key = certificate.key(valid.key)
        if key is None:
            raise InvalidInput(BAD[b"NO_PUBKEY"])
        if valid.kind != b"00":
            raise InvalidInput("the signature's class is not 0x00, of a binary document")
        if valid.hash_algorithm not in HASHES:
            raise InvalidInput(ERRORS_IN_SIGNATURE[b"5"])
        if valid.created > self._reactor.seconds() + FUTURE_SECONDS:
            raise InvalidInput("the signature is dated in the future: is the signer's clock right?")
        weak = certificates.weakness(key)
        if weak:
            raise InvalidInput(f"the key that made the signature is too weak: {weak}")
        return Verified(fingerprint=valid.primary, key_fingerprint=valid.key, created=valid.created)

    async def _why_not(self, certificate: Certificate, state: bytes) -> str:
        """Whether it is the primary key or a subkey that has expired or is revoked."""
        primary = (await self._list(certificate)).keys[0]
        which = "the signer's key" if primary.state == state else "the subkey that signed"
        return f"{which} {STATE_NAMES[state]}"

    async def minimal(self, certificate: Certificate) -> tuple[Certificate, str]:
        """An uploaded key as it is stored, and the armored text of it: reduced to what its owner
        signed, without expired or superseded self-signatures.

        :raises InvalidInput: for a key that cannot sign, or is too weak for it.
        :raises Unavailable: when gpg gave no answer that can be relied on.
        """
        _refuse_weak(certificate.keys[0])
        _refuse_future(certificate, "the key")
        answer = await self._run(
            ["--import-options", "import-export,import-minimal,self-sigs-only", "--import"],
            keyring=b"",
            feed={TEXT: certificate.packets},
        )
        lines = _status(answer)
        if not answer.output:
            if answer.code is not None and any(line[0] == b"IMPORT_RES" for line in lines):
                raise InvalidInput("the key has no user id that is signed by the key itself")
            raise _unreliable(answer)
        if answer.code != 0:
            raise _unreliable(answer)
        reduced = certificates.parse(answer.output)
        if reduced.fingerprint != certificate.fingerprint:
            raise _unreliable(answer)
        _refuse_unusable(reduced, await self._list(reduced))
        return reduced, certificates.armor(reduced.packets)

    async def _list(self, certificate: Certificate) -> _Listing:
        answer = await self._run(
            ["--list-keys", "--with-subkey-fingerprint"], keyring=certificate.packets, feed={}
        )
        listing = _listing(answer.output)
        if answer.code != 0 or not listing.keys:
            raise _unreliable(answer)
        return listing

    def stop(self) -> Deferred[Any]:
        """Kill what runs and refuse the rest; fires when no gpg is left."""
        self._stopped = True
        for check in list(self._checks):
            check.cancel()
        return DeferredList([process.exited for process in self._processes])

    async def _run(
        self, arguments: list[str], *, keyring: bytes, feed: Mapping[int, bytes]
    ) -> _Answer:
        """What gpg answers, within the deadline."""
        if self._stopped or len(self._turns.waiting) >= self._waiting:
            raise Unavailable(FAILED, "too many checks wait for gpg")
        check: Deferred[_Answer] = Deferred.fromCoroutine(
            self._in_turn(arguments, keyring, {TEXT: b""} | dict(feed))
        )
        self._checks.add(check)
        check.addTimeout(self._seconds, self._reactor, self._too_late)
        try:
            return await check
        except CancelledError:
            if self._stopped:
                raise Unavailable(FAILED, "the service is stopping") from None
            raise
        finally:
            self._checks.discard(check)

    def _too_late(self, _: object, seconds: float) -> Failure:
        return Failure(Unavailable(FAILED, f"gpg gave no answer within {seconds:g} s"))

    async def _in_turn(
        self, arguments: list[str], keyring: bytes, feed: Mapping[int, bytes]
    ) -> _Answer:
        await self._turns.acquire()
        process = None
        try:
            if self._commands is None:
                await self._prepare()
            assert self._commands is not None
            command = self._commands.make_args([*ONE_KEYRING, *arguments], False)
            process = self._start(_with_status_pipe(command), keyring, feed)
            return await process.answer
        finally:
            if process is None:
                self._turns.release()
            else:
                process.exited.addCallback(lambda _: self._turns.release())

    async def _prepare(self) -> None:
        """Make python-gnupg's object: it runs gpg and blocks, so that gpg is tried before."""
        process = self._start([self._program, "--version"], b"", {})
        answer = await process.answer
        if answer.code != 0:
            raise _unreliable(answer)
        logging.getLogger("gnupg").setLevel(logging.WARNING)
        try:
            self._commands = await deferToThreadPool(
                self._reactor,
                self._reactor.getThreadPool(),
                gnupg.GPG,
                self._program,
                options=OPTIONS,
                env=self._environment,
            )
        except (OSError, ValueError) as error:
            raise Unavailable(FAILED, f"gpg cannot be run: {error}") from None

    def _start(self, command: list[str], keyring: bytes, feed: Mapping[int, bytes]) -> _Process:
        process = _Process(feed)
        pipes: dict[int, int | str] = dict.fromkeys((OUTPUT, ERRORS, STATUS), "r")
        pipes |= dict.fromkeys(feed, "w")
        try:
            with _in_memory(keyring) as fd:
                self._reactor.spawnProcess(
                    process,
                    command[0],
                    command,
                    env=self._environment,
                    childFDs=pipes | {KEYRING: fd},
                )
        except OSError as error:
            raise Unavailable(FAILED, f"gpg cannot be run: {error}") from None
        self._processes.add(process)
        process.exited.addCallback(lambda _: self._processes.discard(process))
        return process


@contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    """A file descriptor of a nameless file in memory that holds *data*."""
    fd = os.memfd_create("keyring")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        yield fd
    finally:
        os.close(fd)


def _with_status_pipe(command: list[str]) -> list[str]:
    """python-gnupg has gpg mix its status lines with what it writes for people."""
    at = command.index("--status-fd") + 1
    return [*command[:at], str(STATUS), *command[at + 1 :]]


def _unreliable(answer: _Answer) -> Unavailable:
    end = "was killed" if answer.code is None else f"ended with exit code {answer.code}"
    errors = " ".join(ascii(answer.errors[-500:].decode("latin-1"))[1:-1].split())
    return Unavailable(FAILED, f"gpg {end} and gave no answer to rely on: {errors}")


def _status(answer: _Answer) -> list[list[bytes]]:
    """The words of each status line.

    :raises Unavailable: when gpg was killed, or its status is garbled.
    """
    *lines, rest = answer.status.split(b"\n")
    if answer.code is None or rest or any(not line.startswith(STATUS_PREFIX) for line in lines):
        raise _unreliable(answer)
    return [line.removeprefix(STATUS_PREFIX).split(b" ") for line in lines]


def _refuse(lines: list[list[bytes]]) -> None:
    """The reason in gpg's own words why a signature does not hold, if there is one.

    :raises InvalidInput: with that reason.
    """
    for line in lines:
        if line[0] == b"ERRSIG":
            code = line[6] if len(line) > 6 else b""
            raise InvalidInput(ERRORS_IN_SIGNATURE.get(code, UNREADABLE_SIGNATURE))
    for line in lines:
        if line[0] in BAD:
            kind = BadSignature if line[0] == b"BADSIG" else InvalidInput
            raise kind(BAD[line[0]])


@dataclass(frozen=True, kw_only=True)
class _Valid:
    """What a VALIDSIG line says."""

    key: str
    created: int
    hash_algorithm: int
    kind: bytes
    primary: str


def _fields(answer: _Answer, line: list[bytes]) -> _Valid:
    try:
        _, key, _, created, _, _, _, _, hash_algorithm, kind, primary = line
        return _Valid(
            key=key.decode("ascii"),
            created=int(created),
            hash_algorithm=int(hash_algorithm),
            kind=kind,
            primary=primary.decode("ascii"),
        )
    except ValueError:
        raise _unreliable(answer) from None


@dataclass(frozen=True, kw_only=True)
class _ListedKey:
    """What gpg says of a key: its state, a letter, and what it may be used for, letters."""

    fingerprint: str
    state: bytes
    uses: bytes

    @property
    def signs(self) -> bool:
        return b"s" in self.uses


@dataclass(frozen=True, kw_only=True)
class _Listing:
    keys: list[_ListedKey]
    """The primary key, then the subkeys."""
    user_states: list[bytes]


def _listing(output: bytes) -> _Listing:
    keys: list[_ListedKey] = []
    user_states = []
    state = uses = b""
    for line in output.split(b"\n"):
        fields = line.split(b":")
        if fields[0] in (b"pub", b"sub") and len(fields) > 11:
            state, uses = fields[1], fields[11]
        elif fields[0] == b"fpr" and len(fields) > 9:
            fingerprint = fields[9].decode("ascii", "replace")
            keys.append(_ListedKey(fingerprint=fingerprint, state=state, uses=uses))
        elif fields[0] == b"uid" and len(fields) > 1:
            user_states.append(fields[1])
    return _Listing(keys=keys, user_states=user_states)


def _refuse_future(certificate: Certificate, which: str) -> None:
    """gpg does not use a key before its date, by the system's clock, and gives other reasons.

    :raises InvalidInput: for such a key.
    """
    if certificate.keys[0].created > time.time():
        raise InvalidInput(f"{which} is dated in the future: is its owner's clock right?")


def _refuse_weak(key: Key) -> None:
    """:raises InvalidInput: when the key is too weak to sign."""
    weak = certificates.weakness(key)
    if weak:
        which = "key" if key.primary else f"signing subkey {key.fingerprint}"
        raise InvalidInput(f"the {which} is too weak: {weak}")


def _refuse_unusable(certificate: Certificate, listing: _Listing) -> None:
    """:raises InvalidInput: when the key cannot sign, or is too weak for it."""
    primary = listing.keys[0]
    if primary.state in (b"e", b"r"):
        raise InvalidInput(f"the key {STATE_NAMES[primary.state]}")
    if not any(state not in STATE_NAMES for state in listing.user_states):
        raise InvalidInput("the key has no user id that is valid")
    signing = [key for key in listing.keys if key.signs]
    for listed in signing:
        key = certificate.key(listed.fingerprint)
        if key is not None:
            _refuse_weak(key)
    if not signing:
        raise InvalidInput("the key cannot sign: it has no key or subkey for signing")
    if all(key.state in STATE_NAMES for key in signing):
        raise InvalidInput(
            f"the key cannot sign: its signing subkey {STATE_NAMES[signing[0].state]}"
        )
