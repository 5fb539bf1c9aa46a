"""A gpg process: what it is given, what it answers, and how long it may take.

Each run has a keyring of its own in memory with one certificate, no home, no agent and no network,
and leaves nothing behind. python-gnupg builds the command; what it would make of gpg's answer is
not used, because a user id can forge it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import gnupg
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.interfaces import (
    IProcessTransport,
)
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from mig.errors import UnavailableError
from mig.limits import Limits
from mig.reactor import Reactor

MAX_OUTPUT_BYTES: Final = 4 * 1024 * 1024

TEXT_FD: Final = 0
OUTPUT_FD: Final = 1
ERRORS_FD: Final = 2
STATUS_FD: Final = 3
SIGNATURE_FD: Final = 4
KEYRING_FD: Final = 5

# No --weak-digest: it would also refuse the keys of 2014, whose self-signatures are by SHA-1.
# The digest of the signature itself is checked before gpg and in its verdict.
GPG_OPTIONS: Final = [
    *("--no-options", "--batch", "--no-tty", "--no-autostart"),
    *("--homedir", "/dev/null"),
    *("--trust-model", "always", "--no-auto-check-trustdb"),
    *("--no-auto-key-retrieve", "--no-auto-key-import", "--disable-dirmngr"),
    *("--lock-never", "--enable-special-filenames"),
]
KEYRING_OPTIONS: Final = ["--no-default-keyring", "--keyring", f"/dev/fd/{KEYRING_FD}"]

UNAVAILABLE_MESSAGE: Final = "signatures and keys cannot be checked at the moment"


@dataclass(frozen=True, kw_only=True)
class GpgResult:
    """What a run left; *status* are its status lines."""

    code: int | None
    """The exit code, ``None`` when gpg was killed."""
    output: bytes
    status: bytes
    errors: bytes


class _GpgProcess(ProcessProtocol):
    """One gpg."""

    transport: IProcessTransport

    def __init__(self) -> None:
        self._received = {OUTPUT_FD: bytearray(), ERRORS_FD: bytearray(), STATUS_FD: bytearray()}
        self._size = 0
        self._is_running = True
        self.exited: Deferred[None] = Deferred()
        self.answer: Deferred[GpgResult] = Deferred(lambda _: self.kill())

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N803
        self._size += len(data)
        if self._size <= MAX_OUTPUT_BYTES:
            self._received[childFD] += data
        else:
            self.abort("its output has no end")

    def processExited(self, reason: Failure) -> None:
        self._is_running = False
        self.exited.callback(None)

    def processEnded(self, reason: Failure) -> None:
        ended = reason.value
        code = ended.exitCode if isinstance(ended, ProcessDone | ProcessTerminated) else None
        if not self.answer.called:
            received = {fd: bytes(data) for fd, data in self._received.items()}
            self.answer.callback(
                GpgResult(
                    code=code,
                    output=received[OUTPUT_FD],
                    status=received[STATUS_FD],
                    errors=received[ERRORS_FD],
                )
            )

    def abort(self, detail: str) -> None:
        """Kill it, and tell who waits why."""
        self.kill()
        if not self.answer.called:
            self.answer.errback(UnavailableError(UNAVAILABLE_MESSAGE, f"gpg was killed: {detail}"))

    def kill(self) -> None:
        if self._is_running:
            self.transport.signalProcess("KILL")
        for fd in self._received:
            self.transport.closeChildFD(fd)


class GpgRunner:
    """At most as many gpg at once as there may be; a bounded queue waits for them.

    :param program: the name or path of gpg.
    :param limits: ``gpg_processes``, ``waiting_checks``, and ``gpg_seconds``: a run that has no
        answer by then, its waiting counted, is given up.
    """

    def __init__(self, reactor: Reactor, *, program: str, limits: Limits) -> None:
        self._reactor = reactor
        self._program = program
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        self.max_processes = limits.gpg_processes or len(os.sched_getaffinity(0))
        self.max_waiting = limits.waiting_checks
        self.timeout_seconds = limits.gpg_seconds
        self._slots = DeferredSemaphore(self.max_processes)
        self._commands: gnupg.GPG | None = None
        self._runs: set[Deferred[GpgResult]] = set()
        self._processes: set[_GpgProcess] = set()
        self._is_stopped = False

    def stop(self) -> Deferred[None]:
        """Kill what runs and refuse the rest; fires when no gpg is left."""
        self._is_stopped = True
        for check in list(self._runs):
            check.cancel()
        exits = DeferredList([process.exited for process in self._processes])
        return exits.addCallback(lambda _: None)

    async def run(
        self, arguments: list[str], *, keyring: bytes, inputs: Mapping[int, bytes]
    ) -> GpgResult:
        """What gpg answers to *arguments*, with *keyring* and what it reads by file descriptor.

        :raises UnavailableError: when there is no answer within the deadline.
        """
        if self._is_stopped or len(self._slots.waiting) >= self.max_waiting:
            raise make_overload_error()
        check: Deferred[GpgResult] = Deferred.fromCoroutine(
            self._run_in_queue(arguments, keyring, inputs)
        )
        self._runs.add(check)
        check.addTimeout(self.timeout_seconds, self._reactor, self.make_timeout_failure)
        try:
            return await check
        except CancelledError:
            if self._is_stopped:
                raise UnavailableError(UNAVAILABLE_MESSAGE, "the service is stopping") from None
            raise
        finally:
            self._runs.discard(check)

    def make_timeout_failure(self, _: object, seconds: float) -> Failure:
        return Failure(
            UnavailableError(UNAVAILABLE_MESSAGE, f"gpg gave no answer within {seconds:g} s")
        )

    async def _run_in_queue(
        self, arguments: list[str], keyring: bytes, inputs: Mapping[int, bytes]
    ) -> GpgResult:
        await self._slots.acquire()
        process = None
        try:
            if self._commands is None:
                await self._prepare_commands()
            assert self._commands is not None
            command = self._commands.make_args([*KEYRING_OPTIONS, *arguments], False)
            process = self._start_process(_redirect_status(command), keyring, inputs)
            return await process.answer
        finally:
            if process is None:
                self._slots.release()
            else:
                process.exited.addCallback(lambda _: self._slots.release())

    async def _prepare_commands(self) -> None:
        """Make python-gnupg's object: it runs gpg and blocks, so that gpg is tried before."""
        process = self._start_process([self._program, "--version"], b"", {})
        answer = await process.answer
        if answer.code != 0:
            raise make_unreliable_error(answer)
        logging.getLogger("gnupg").setLevel(logging.WARNING)
        try:
            self._commands = await deferToThreadPool(
                self._reactor,
                self._reactor.getThreadPool(),
                gnupg.GPG,
                self._program,
                options=GPG_OPTIONS,
                env=self._environment,
            )
        except (OSError, ValueError) as error:
            raise UnavailableError(UNAVAILABLE_MESSAGE, f"gpg cannot be run: {error}") from None

    def _start_process(
        self, command: list[str], keyring: bytes, inputs: Mapping[int, bytes]
    ) -> _GpgProcess:
        process = _GpgProcess()
        pipes: dict[int, int | str] = dict.fromkeys((OUTPUT_FD, ERRORS_FD, STATUS_FD), "r")
        try:
            with ExitStack() as stack:
                files: dict[int, int | str] = {
                    fd: stack.enter_context(_open_memory_file(data))
                    for fd, data in {TEXT_FD: b"", KEYRING_FD: keyring, **inputs}.items()
                }
                self._reactor.spawnProcess(
                    process, command[0], command, env=self._environment, childFDs=pipes | files
                )
        except OSError as error:
            raise UnavailableError(UNAVAILABLE_MESSAGE, f"gpg cannot be run: {error}") from None
        self._processes.add(process)
        process.exited.addCallback(lambda _: self._processes.discard(process))
        return process


@contextmanager
def _open_memory_file(data: bytes) -> Iterator[int]:
    """A file descriptor of a nameless file in memory that holds *data*."""
    fd = os.memfd_create("gpg")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def _redirect_status(command: list[str]) -> list[str]:
    """python-gnupg has gpg mix its status lines with what it writes for people."""
    at = command.index("--status-fd") + 1
    return [*command[:at], str(STATUS_FD), *command[at + 1 :]]


def make_overload_error() -> UnavailableError:
    """The refusal when too much waits already."""
    return UnavailableError(UNAVAILABLE_MESSAGE, "too many checks wait for gpg")


def make_unreliable_error(answer: GpgResult) -> UnavailableError:
    """The refusal for an answer that says nothing about the signature or key."""
    end = "was killed" if answer.code is None else f"ended with exit code {answer.code}"
    errors = " ".join(ascii(answer.errors[-500:].decode("latin-1"))[1:-1].split())
    return UnavailableError(
        UNAVAILABLE_MESSAGE, f"gpg {end} and gave no answer to rely on: {errors}"
    )
