"""Signatures that wait for gpg at the same time share a run of it.

Most of what a run costs is gpg's start. So those by one certificate that come while gpg is at work
for it are checked together by the next run, of which nothing but "all of them are good" is
believed: else each is checked by a run of its own, as one that comes alone always is.

gpg takes several detached signatures only as signed messages (``--verify-files``). The messages
are put together here, of the one signature packet that was taken apart before and the text that
it should be over; nothing that a client calls a message ever gets to gpg.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.python.failure import Failure

from mig.errors import UnavailableError
from mig.openpgp.certificate import Certificate
from mig.openpgp.packet import Signature
from mig.signing.gpg.process import KEYRING, Runner, crowded
from mig.signing.gpg.status import Valid, by_file, status, valid

MOST: Final = 16
"""How many signatures a run checks; more would spare little and hold gpg for long."""

_ONE_PASS_SIGNATURE: Final = 4
_LITERAL: Final = 11
_FIRST_FILE: Final = KEYRING + 1


@dataclass(eq=False, kw_only=True)
class _Check:
    """``answer`` is ``None`` when the run says nothing of it."""

    signature: Signature
    text: bytes
    answer: Deferred[Valid | None]

    def settle(self, result: Valid | Failure | None) -> None:
        if not self.answer.called:
            self.answer.callback(result)


@dataclass(eq=False, kw_only=True)
class _Line:
    """The checks by one certificate: those of the present run, and those that wait for the next."""

    waiting: list[_Check] = field(default_factory=list)
    running: list[_Check] = field(default_factory=list)
    run: Deferred[None] | None = None
    at_work: bool = False

    def leave(self, check: _Check) -> None:
        if check in self.waiting:
            self.waiting.remove(check)
        elif check in self.running:
            self.running.remove(check)
            if not self.running and self.run is not None:
                self.run.cancel()


Alone = Callable[[Certificate, Signature, bytes], Awaitable[Valid]]


class Together:
    """Checks signatures, in one run for each certificate at a time.

    Whom a run checks is decided when its turn comes, so that the busier gpg is, the more share.

    :param alone: checks one signature by a run of its own.
    """

    def __init__(self, runner: Runner, alone: Alone) -> None:
        self._runner = runner
        self._alone = alone
        self._lines: dict[bytes, _Line] = {}
        self._turns = DeferredSemaphore(runner.processes)

    async def verify(self, certificate: Certificate, signature: Signature, text: bytes) -> Valid:
        """What *alone* would answer.

        :raises UnavailableError: when too many wait.
        """
        if sum(len(line.waiting) for line in self._lines.values()) >= self._runner.waiting:
            raise crowded()
        line = self._lines.setdefault(certificate.packets, _Line())
        check = _Check(signature=signature, text=text, answer=Deferred(lambda _: line.leave(check)))
        line.waiting.append(check)
        if not line.at_work:
            Deferred.fromCoroutine(self._work(certificate, line))
        found = await check.answer
        return found or await self._alone(certificate, signature, text)

    async def _work(self, certificate: Certificate, line: _Line) -> None:
        """Run gpg for the line until nobody waits in it."""
        line.at_work = True
        while line.waiting:
            await self._turns.acquire()
            line.running, line.waiting = line.waiting[:MOST], line.waiting[MOST:]
            if line.running:
                line.run = Deferred.fromCoroutine(self._run(certificate, list(line.running)))
                await line.run
            self._turns.release()
        del self._lines[certificate.packets]

    async def _run(self, certificate: Certificate, checks: Sequence[_Check]) -> None:
        """Settle the checks, whatever happens."""
        results: Sequence[Valid | Failure | None]
        try:
            if len(checks) == 1:
                [check] = checks
                results = [await self._alone(certificate, check.signature, check.text)]
            else:
                results = await self._all_good(certificate, checks)
        except Exception:
            results = [Failure()] * len(checks)
        for check, result in zip(checks, results, strict=True):
            check.settle(result)

    async def _all_good(
        self, certificate: Certificate, checks: Sequence[_Check]
    ) -> Sequence[Valid | None]:
        messages = {
            fd: _message(check.signature, check.text)
            for fd, check in enumerate(checks, _FIRST_FILE)
        }
        names = [f"-&{fd}" for fd in messages]
        found: list[Valid | None] = []
        try:
            answer = await self._runner.run(
                ["--verify-files", "--", *names], keyring=certificate.packets, feed=messages
            )
            if answer.code == 0:
                about = by_file(status(answer), [name.encode() for name in names])
                found = [valid(answer, lines) for lines in about]
        except (UnavailableError, ValueError):
            found = []
        return found if found and None not in found else [None] * len(checks)


def _message(signature: Signature, text: bytes) -> bytes:
    """A signed message (RFC 4880, 11.3) whose *text* is binary, without a name or a date."""
    key_id = bytes.fromhex(signature.issuers[0][-16:])
    algorithms = bytes([signature.hash_algorithm, signature.key_algorithm])
    announced = b"\x03\x00" + algorithms + key_id + b"\x01"
    literal = b"b\x00" + bytes(4) + text
    return _packet(_ONE_PASS_SIGNATURE, announced) + _packet(_LITERAL, literal) + signature.raw


def _packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4) + body
