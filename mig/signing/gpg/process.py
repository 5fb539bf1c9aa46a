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


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a run left; *status* are its status lines."""

    code: int | None
    """The exit code, ``None`` when gpg was killed."""
    output: bytes
    status: bytes
    errors: bytes


class _Process(ProcessProtocol):
    """One gpg."""

    transport: IProcessTransport

    def __init__(self) -> None:
        self._received = {OUTPUT: bytearray(), ERRORS: bytearray(), STATUS: bytearray()}
        self._size = 0
        self._running = True
        self.exited: Deferred[None] = Deferred()
        self.answer: Deferred[Answer] = Deferred(lambda _: self.kill())

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
        ended = reason.value
        code = ended.exitCode if isinstance(ended, ProcessDone | ProcessTerminated) else None
        if not self.answer.called:
            received = {fd: bytes(data) for fd, data in self._received.items()}
            self.answer.callback(
                Answer(
                    code=code,
                    output=received[OUTPUT],
                    status=received[STATUS],
                    errors=received[ERRORS],
                )
            )

    def fail(self, detail: str) -> None:
        """Kill it, and tell who waits why."""
        self.kill()
        if not self.answer.called:
            self.answer.errback(UnavailableError(FAILED, f"gpg was killed: {detail}"))

    def kill(self) -> None:
        if self._running:
            self.transport.signalProcess("KILL")
        for fd in self._received:
            self.transport.closeChildFD(fd)


class Runner:
    """At most as many gpg at once as there may be; a bounded queue waits for them.

    :param program: the name or path of gpg.
    :param limits: ``gpg_processes``, ``waiting_checks``, and ``gpg_seconds``: a run that has no
        answer by then, its waiting counted, is given up.
    """

    def __init__(self, reactor: Reactor, *, program: str, limits: Limits) -> None:
        self._reactor = reactor
        self._program = program
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        self.processes = limits.gpg_processes or len(os.sched_getaffinity(0))
        self.waiting = limits.waiting_checks
        self.seconds = limits.gpg_seconds
        self._turns = DeferredSemaphore(self.processes)
        self._commands: gnupg.GPG | None = None
        self._checks: set[Deferred[Answer]] = set()
        self._processes: set[_Process] = set()
        self._stopped = False

    def stop(self) -> Deferred[None]:
        """Kill what runs and refuse the rest; fires when no gpg is left."""
        self._stopped = True
        for check in list(self._checks):
            check.cancel()
        exits = DeferredList([process.exited for process in self._processes])
        return exits.addCallback(lambda _: None)

    async def run(
        self, arguments: list[str], *, keyring: bytes, feed: Mapping[int, bytes]
    ) -> Answer:
        """What gpg answers to *arguments*, with *keyring* and what it reads by file descriptor.

        :raises UnavailableError: when there is no answer within the deadline.
        """
        if self._stopped or len(self._turns.waiting) >= self.waiting:
            raise crowded()
        check: Deferred[Answer] = Deferred.fromCoroutine(self._in_turn(arguments, keyring, feed))
        self._checks.add(check)
        check.addTimeout(self.seconds, self._reactor, self.too_late)
        try:
            return await check
        except CancelledError:
            if self._stopped:
                raise UnavailableError(FAILED, "the service is stopping") from None
            raise
        finally:
            self._checks.discard(check)

    def too_late(self, _: object, seconds: float) -> Failure:
        return Failure(UnavailableError(FAILED, f"gpg gave no answer within {seconds:g} s"))

    async def _in_turn(
        self, arguments: list[str], keyring: bytes, feed: Mapping[int, bytes]
    ) -> Answer:
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
            raise unreliable(answer)
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
            raise UnavailableError(FAILED, f"gpg cannot be run: {error}") from None

    def _start(self, command: list[str], keyring: bytes, feed: Mapping[int, bytes]) -> _Process:
        process = _Process()
        pipes: dict[int, int | str] = dict.fromkeys((OUTPUT, ERRORS, STATUS), "r")
        try:
            with ExitStack() as stack:
                files: dict[int, int | str] = {
                    fd: stack.enter_context(_in_memory(data))
                    for fd, data in {TEXT: b"", KEYRING: keyring, **feed}.items()
                }
                self._reactor.spawnProcess(
                    process, command[0], command, env=self._environment, childFDs=pipes | files
                )
        except OSError as error:
            raise UnavailableError(FAILED, f"gpg cannot be run: {error}") from None
        self._processes.add(process)
        process.exited.addCallback(lambda _: self._processes.discard(process))
        return process


@contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    """A file descriptor of a nameless file in memory that holds *data*."""
    fd = os.memfd_create("gpg")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def _with_status_pipe(command: list[str]) -> list[str]:
    """python-gnupg has gpg mix its status lines with what it writes for people."""
    at = command.index("--status-fd") + 1
    return [*command[:at], str(STATUS), *command[at + 1 :]]


def crowded() -> UnavailableError:
    """The refusal when too much waits already."""
    return UnavailableError(FAILED, "too many checks wait for gpg")


def unreliable(answer: Answer) -> UnavailableError:
    """The refusal for an answer that says nothing about the signature or key."""
    end = "was killed" if answer.code is None else f"ended with exit code {answer.code}"
    errors = " ".join(ascii(answer.errors[-500:].decode("latin-1"))[1:-1].split())
    return UnavailableError(FAILED, f"gpg {end} and gave no answer to rely on: {errors}")
