"""Signatures that wait for gpg at the same time share a run (docs/decisions/0028).

Most of the cost of a run is the start of gpg. So signatures by one certificate from one client that
arrive while gpg runs for it are checked together by the next run. That run counts only if it says
that all of them are good; otherwise each gets a run of its own, as does a signature that comes
alone. So one client's bad signatures cost another client no shared run (docs/decisions/0051).

gpg accepts several detached signatures only as signed messages (``--verify-files``). The messages
are built here, from the one signature packet that was parsed before and the text that it should
cover; no message of a client ever reaches gpg.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mig.errors import UnavailableError
from mig.fair_queue import FairQueue, Flow
from mig.openpgp.certificate import Certificate
from mig.openpgp.packet import Signature
from mig.signing.gpg.process import (
    KEYRING_FD,
    SIGNATURE_FD,
    TEXT_FD,
    GpgResult,
    GpgRun,
    GpgRunner,
    make_overload_error,
)
from mig.signing.gpg.status import (
    ValidSignature,
    find_valid_signature,
    parse_status_lines,
    split_by_file,
)

_ONE_PASS_SIGNATURE: Final = 4
_LITERAL: Final = 11
_FIRST_FILE: Final = KEYRING_FD + 1


@dataclass(eq=False, kw_only=True)
class _Check:
    """A signature to check; the result is ``None`` when the shared run does not decide it."""

    signature: Signature
    text: bytes
    flow: Flow
    answer: Deferred[ValidSignature | None]

    def resolve(self, result: ValidSignature | Failure | None) -> None:
        if not self.answer.called:
            self.answer.callback(result)


@dataclass(eq=False, kw_only=True)
class _FlowState:
    """The run of a flow that waits for its turn or is in progress.

    ``batch`` are the checks that it took when its turn came; somebody still waits for those in
    ``running``.
    """

    run: Deferred[None] | None = None
    batch: Sequence[_Check] = ()
    running: list[_Check] = field(default_factory=list)


VerdictReader = Callable[[Certificate, GpgResult, Flow], Awaitable[ValidSignature]]


class BatchVerifier:
    """Checks signatures, with at most one run at a time for each certificate and client.

    A run takes the signatures that wait when it starts, not when it is queued. So the busier gpg
    is, the more signatures share a run.

    :param read_verdict: reads the result of a run for one signature.
    :param max_size: how many signatures one run checks.
    """

    def __init__(self, runner: GpgRunner, read_verdict: VerdictReader, *, max_size: int) -> None:
        self._runner = runner
        self._read_verdict = read_verdict
        self._max_size = max_size
        self._waiting: FairQueue[_Check] = FairQueue(runner.max_waiting)
        self._flows: dict[Flow, _FlowState] = {}

    async def verify(
        self, certificate: Certificate, signature: Signature, text: bytes, client: str
    ) -> ValidSignature:
        """Return what a run for this signature alone says about it.

        :raises InvalidInputError: when the signature is bad.
        :raises UnavailableError: when too many signatures wait, or gpg gave no reliable answer.
        """
        flow = (certificate.packets, client)
        check = _Check(
            signature=signature,
            text=text,
            flow=flow,
            answer=Deferred(lambda _: self._remove_check(check)),
        )
        dropped = self._waiting.push(check, flow)
        if dropped is not None:
            dropped.resolve(Failure(make_overload_error()))
            self._cancel_empty_run(dropped.flow)
        if check in self._waiting and flow not in self._flows:
            Deferred.fromCoroutine(self._serve_flow(certificate, flow))
        try:
            found = await check.answer
            return found or await self._verify_single(certificate, check)
        finally:
            check.text = b""  # it can be large, and a check and its answer refer to each other

    def _remove_check(self, check: _Check) -> None:
        """Forget a check that nobody waits for."""
        if check in self._waiting:
            self._waiting.remove(check)
            self._cancel_empty_run(check.flow)
        else:
            state = self._flows[check.flow]
            state.running.remove(check)
            if not state.running and state.run is not None:
                state.run.cancel()

    def _cancel_empty_run(self, flow: Flow) -> None:
        """Give up the turn of a flow in which nothing waits any more."""
        state = self._flows.get(flow)
        if state is None or state.run is None or state.running:
            return
        if not self._waiting.count_flow(flow):
            state.run.cancel()

    async def _serve_flow(self, certificate: Certificate, flow: Flow) -> None:
        """Run gpg for a flow until none of its checks waits."""
        state = self._flows[flow] = _FlowState()
        while self._waiting.count_flow(flow):
            state.run = Deferred.fromCoroutine(self._run_batch(certificate, flow, state))
            await state.run
        del self._flows[flow]

    async def _run_batch(self, certificate: Certificate, flow: Flow, state: _FlowState) -> None:
        """Give every check of the next batch a result, whatever happens."""
        results: Sequence[ValidSignature | None]
        state.batch, state.running = (), []
        try:
            results = await self._check_batch(certificate, flow, state)
        except Exception:
            if not state.batch:  # its turn did not come
                state.batch = self._waiting.pop_flow(flow, self._runner.max_waiting)
            # no variable here may hold it: it refers to this function's, and so to large texts
            _resolve_checks(state.batch, [Failure()] * len(state.batch))
        else:
            _resolve_checks(state.batch, results)

    async def _check_batch(
        self, certificate: Certificate, flow: Flow, state: _FlowState
    ) -> Sequence[ValidSignature | None]:
        """Return the verdicts on the checks of a batch, or ``None`` for each of them."""

        def take_batch() -> GpgRun:
            state.batch = self._waiting.pop_flow(flow, self._max_size)
            state.running = list(state.batch)
            return _make_run(certificate, state.batch)

        try:
            answer = await self._runner.run_late(take_batch, flow)
        except UnavailableError:
            if len(state.batch) < 2:
                raise
            return [None] * len(state.batch)
        if len(state.batch) == 1:
            return [await self._read_verdict(certificate, answer, flow)]
        return _read_shared_verdicts(answer, len(state.batch))

    async def _verify_single(self, certificate: Certificate, check: _Check) -> ValidSignature:
        answer = await self._runner.run(_make_run(certificate, [check]), check.flow)
        return await self._read_verdict(certificate, answer, check.flow)


def _make_run(certificate: Certificate, checks: Sequence[_Check]) -> GpgRun:
    """Return the run that verifies one signature, or several as signed messages."""
    if len(checks) == 1:
        [check] = checks
        return GpgRun(
            arguments=["--verify", "--", f"-&{SIGNATURE_FD}", "-"],
            keyring=certificate.packets,
            inputs={TEXT_FD: check.text, SIGNATURE_FD: check.signature.raw},
        )
    messages = {
        fd: _build_message(check.signature, check.text)
        for fd, check in enumerate(checks, _FIRST_FILE)
    }
    return GpgRun(
        arguments=["--verify-files", "--", *(f"-&{fd}" for fd in messages)],
        keyring=certificate.packets,
        inputs=messages,
    )


def _read_shared_verdicts(answer: GpgResult, count: int) -> Sequence[ValidSignature | None]:
    """Return the verdicts of a shared run on its ``count`` signatures, or only ``None``."""
    found: list[ValidSignature | None] = []
    names = [f"-&{fd}".encode() for fd in range(_FIRST_FILE, _FIRST_FILE + count)]
    if answer.code == 0:
        with suppress(UnavailableError, ValueError):
            about = split_by_file(parse_status_lines(answer), names)
            found = [find_valid_signature(answer, lines) for lines in about]
    return found if found and None not in found else [None] * count


def _resolve_checks(
    checks: Sequence[_Check], results: Sequence[ValidSignature | Failure | None]
) -> None:
    for check, result in zip(checks, results, strict=True):
        check.resolve(result)


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
