"""Signatures that wait for gpg at the same time share a run (docs/decisions/0028).

Most of the cost of a run is the start of gpg. So signatures by one certificate that arrive while
gpg runs for it are checked together by the next run. That run counts only if it says that all of
them are good; otherwise each gets a run of its own, as does a signature that comes alone.

gpg accepts several detached signatures only as signed messages (``--verify-files``). The messages
are built here, from the one signature packet that was parsed before and the text that it should
cover; no message of a client ever reaches gpg.
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
from mig.signing.gpg.process import KEYRING_FD, GpgRunner, make_overload_error
from mig.signing.gpg.status import (
    ValidSignature,
    find_valid_signature,
    parse_status_lines,
    split_by_file,
)

MAX_BATCH_SIZE: Final = 16
"""Signatures that one run checks. More would save little and occupy gpg for long."""

_ONE_PASS_SIGNATURE: Final = 4
_LITERAL: Final = 11
_FIRST_FILE: Final = KEYRING_FD + 1


@dataclass(eq=False, kw_only=True)
class _Check:
    """A signature to check; the result is ``None`` when the shared run does not decide it."""

    signature: Signature
    text: bytes
    answer: Deferred[ValidSignature | None]

    def resolve(self, result: ValidSignature | Failure | None) -> None:
        if not self.answer.called:
            self.answer.callback(result)


@dataclass(eq=False, kw_only=True)
class _CertificateQueue:
    """The checks for one certificate: those of the current run, and those that wait."""

    waiting: list[_Check] = field(default_factory=list)
    running: list[_Check] = field(default_factory=list)
    run: Deferred[None] | None = None
    is_draining: bool = False

    def remove_check(self, check: _Check) -> None:
        if check in self.waiting:
            self.waiting.remove(check)
        elif check in self.running:
            self.running.remove(check)
            if not self.running and self.run is not None:
                self.run.cancel()


SingleVerifier = Callable[[Certificate, Signature, bytes], Awaitable[ValidSignature]]


class BatchVerifier:
    """Checks signatures, with at most one run at a time for each certificate.

    A run takes the signatures that wait when it starts, not when it is queued. So the busier gpg
    is, the more signatures share a run.

    :param verify_single: checks one signature by a run of its own.
    """

    def __init__(self, runner: GpgRunner, verify_single: SingleVerifier) -> None:
        self._runner = runner
        self._verify_single = verify_single
        self._queues: dict[bytes, _CertificateQueue] = {}
        self._slots = DeferredSemaphore(runner.max_processes)

    async def verify(
        self, certificate: Certificate, signature: Signature, text: bytes
    ) -> ValidSignature:
        """Return what ``verify_single`` would return.

        :raises InvalidInputError: when the signature is bad.
        :raises UnavailableError: when too many signatures wait, or gpg gave no reliable answer.
        """
        if sum(len(queue.waiting) for queue in self._queues.values()) >= self._runner.max_waiting:
            raise make_overload_error()
        queue = self._queues.setdefault(certificate.packets, _CertificateQueue())
        check = _Check(
            signature=signature, text=text, answer=Deferred(lambda _: queue.remove_check(check))
        )
        queue.waiting.append(check)
        if not queue.is_draining:
            Deferred.fromCoroutine(self._drain_queue(certificate, queue))
        found = await check.answer
        return found or await self._verify_single(certificate, signature, text)

    async def _drain_queue(self, certificate: Certificate, queue: _CertificateQueue) -> None:
        """Run gpg for the queue until it is empty."""
        queue.is_draining = True
        while queue.waiting:
            await self._slots.acquire()
            queue.running, queue.waiting = (
                queue.waiting[:MAX_BATCH_SIZE],
                queue.waiting[MAX_BATCH_SIZE:],
            )
            if queue.running:  # all that waited may have been cancelled
                queue.run = Deferred.fromCoroutine(
                    self._run_batch(certificate, list(queue.running))
                )
                await queue.run
            self._slots.release()
        del self._queues[certificate.packets]

    async def _run_batch(self, certificate: Certificate, checks: Sequence[_Check]) -> None:
        """Give every check a result, whatever happens."""
        results: Sequence[ValidSignature | Failure | None]
        try:
            if len(checks) == 1:
                [check] = checks
                results = [await self._verify_single(certificate, check.signature, check.text)]
            else:
                results = await self._verify_batch(certificate, checks)
        except Exception:
            results = [Failure()] * len(checks)
        for check, result in zip(checks, results, strict=True):
            check.resolve(result)

    async def _verify_batch(
        self, certificate: Certificate, checks: Sequence[_Check]
    ) -> Sequence[ValidSignature | None]:
        """Return the verdicts on all ``checks``, or ``None`` for each of them."""
        messages = {
            fd: _build_message(check.signature, check.text)
            for fd, check in enumerate(checks, _FIRST_FILE)
        }
        names = [f"-&{fd}" for fd in messages]
        found: list[ValidSignature | None] = []
        try:
            answer = await self._runner.run(
                ["--verify-files", "--", *names], keyring=certificate.packets, inputs=messages
            )
            if answer.code == 0:
                about = split_by_file(parse_status_lines(answer), [name.encode() for name in names])
                found = [find_valid_signature(answer, lines) for lines in about]
        except (UnavailableError, ValueError):
            found = []
        return found if found and None not in found else [None] * len(checks)


def _build_message(signature: Signature, text: bytes) -> bytes:
    """Return a signed message (RFC 4880, 11.3) over ``text``: binary, without name or date."""
    key_id = bytes.fromhex(signature.issuers[0][-16:])  # the last 8 octets of a fingerprint
    algorithms = bytes([signature.hash_algorithm, signature.key_algorithm])
    # RFC 4880, 5.4: version 3, class 0x00, the algorithms, the key id, and no further signature
    one_pass = b"\x03\x00" + algorithms + key_id + b"\x01"
    # RFC 4880, 5.9: binary, a name of length 0, and the date 0
    literal = b"b\x00" + bytes(4) + text
    return (
        _encode_packet(_ONE_PASS_SIGNATURE, one_pass)
        + _encode_packet(_LITERAL, literal)
        + signature.raw
    )


def _encode_packet(tag: int, body: bytes) -> bytes:
    # RFC 4880, 4.2.2.3: the new format, with a length of five octets for every size
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4) + body
