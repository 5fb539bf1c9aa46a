"""A gpg process: its input, its output, and its deadline (docs/decisions/0024).

Each run has a keyring in memory with one certificate, no home, no agent and no network, and leaves
nothing behind. python-gnupg builds the command line. Its parser of gpg's answer is not used: a user
id can forge what it looks for.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import gnupg
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from mig.errors import UnavailableError
from mig.fair_queue import FairSemaphore, Flow
from mig.limits import Limits
from mig.reactor import Reactor

MAX_OUTPUT_BYTES: Final = 4 * 1024 * 1024
"""Of all pipes of one run. The largest answer, an exported certificate, is far smaller."""

TEXT_FD: Final = 0
OUTPUT_FD: Final = 1
ERRORS_FD: Final = 2
STATUS_FD: Final = 3
SIGNATURE_FD: Final = 4
KEYRING_FD: Final = 5

# No --weak-digest, which would also refuse old keys: docs/decisions/0025.
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
class GpgRun:
    """What a run of gpg does: its arguments, its keyring, and its inputs by file descriptor."""

    arguments: list[str]
    keyring: bytes
    inputs: Mapping[int, bytes]


@dataclass(frozen=True, kw_only=True)
class GpgResult:
    """The result of a run; ``status`` holds its status lines."""

    code: int | None
    """The exit code, or ``None`` when gpg was killed."""
    output: bytes
    status: bytes
    errors: bytes


class _GpgProcess(ProcessProtocol):
    """One gpg process: ``exited`` fires when it has been reaped, ``answer`` after its output."""

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
            self.abort(f"its output has more than {MAX_OUTPUT_BYTES} bytes")

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
        """Kill the process, and fail ``answer`` with the reason."""
        self.kill()
        if not self.answer.called:
            self.answer.errback(UnavailableError(UNAVAILABLE_MESSAGE, f"gpg was killed: {detail}"))

    def kill(self) -> None:
        """Kill the process, and close our ends of its pipes."""
        if self._is_running:
            self.transport.signalProcess("KILL")
        # a child that gpg leaves behind could hold the pipes open: docs/decisions/0027
        for fd in self._received:
            self.transport.closeChildFD(fd)


class GpgRunner:
    """A bounded number of gpg processes, and a bounded queue of runs that wait for one.

    The queue is fair: flows take turns, and the newest run of the flow that has most is refused
    when it is full (docs/decisions/0051).

    :param program: the name or path of gpg.
    :param limits: ``gpg_processes``, ``waiting_checks``, and ``gpg_seconds``, after which a run is
        given up; this includes its time in the queue.
    """

    def __init__(self, reactor: Reactor, *, program: str, limits: Limits) -> None:
        self._reactor = reactor
        self._program = program
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        self.max_waiting = limits.waiting_checks
        self.timeout_seconds = limits.gpg_seconds
        self._slots = FairSemaphore(
            count_processes(limits),
            max_waiting=self.max_waiting,
            make_overload_error=make_overload_error,
        )
        self._commands: gnupg.GPG | None = None
        self._runs: set[Deferred[GpgResult]] = set()
        self._processes: set[_GpgProcess] = set()
        self._is_stopped = False
        self.on_run: Callable[[float], None] | None = None
        """Called with the seconds that a run has taken."""

    @property
    def waiting_count(self) -> int:
        """How many runs wait for a process."""
        return self._slots.waiting_count

    def is_installed(self) -> bool:
        """Return whether the program is found now."""
        return shutil.which(self._program, path=self._environment["PATH"]) is not None

    def stop(self) -> Deferred[None]:
        """Kill every process and refuse new runs; the result fires when no process is left."""
        self._is_stopped = True
        for check in list(self._runs):
            check.cancel()
        exits = DeferredList([process.exited for process in self._processes])
        return exits.addCallback(lambda _: None)

    async def run(self, run: GpgRun, flow: Flow) -> GpgResult:
        """Run gpg when it is the turn of ``flow``.

        :raises UnavailableError: when too many runs wait, when there is no answer before the
            deadline, when gpg cannot be started, and when the service is stopping.
        """
        return await self.run_late(lambda: run, flow)

    async def run_late(self, make_run: Callable[[], GpgRun], flow: Flow) -> GpgResult:
        """Run gpg as :meth:`run` does; what it does is decided when its turn has come.

        :raises UnavailableError: as :meth:`run` does.
        """
        if self._is_stopped:
            raise make_overload_error()
        check: Deferred[GpgResult] = Deferred.fromCoroutine(self._run_in_turn(make_run, flow))
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
        """Return the failure of a run or check that took longer than ``seconds``."""
        return Failure(
            UnavailableError(UNAVAILABLE_MESSAGE, f"gpg gave no answer within {seconds:g} s")
        )

    async def _run_in_turn(self, make_run: Callable[[], GpgRun], flow: Flow) -> GpgResult:
        await self._slots.acquire(flow)
        process = None
        try:
            run = make_run()
            if self._commands is None:
                await self._prepare_commands()
            assert self._commands is not None
            command = self._commands.make_args([*KEYRING_OPTIONS, *run.arguments], False)
            started = self._reactor.seconds()
            process = self._start_process(_redirect_status(command), run.keyring, run.inputs)
            answer = await process.answer
            if self.on_run is not None:
                self.on_run(self._reactor.seconds() - started)
            return answer
        finally:
            if process is None:
                self._slots.release()
            else:  # a killed gpg keeps its slot until it has been reaped: docs/decisions/0027
                process.exited.addCallback(lambda _: self._slots.release())

    async def _prepare_commands(self) -> None:
        """Create python-gnupg's object in a thread, because its constructor runs gpg and blocks.

        A run under our own deadline comes first, so that a gpg that hangs does not occupy a thread.
        """
        process = self._start_process([self._program, "--version"], b"", {})
        answer = await process.answer
        if answer.code != 0:
            raise make_unreliable_error(answer)
        logging.getLogger("gnupg").setLevel(logging.WARNING)  # at DEBUG it logs command lines
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


def count_processes(limits: Limits) -> int:
    """Return how many gpg processes may run at the same time."""
    return limits.gpg_processes or len(os.sched_getaffinity(0))


@contextmanager
def _open_memory_file(data: bytes) -> Iterator[int]:
    """Yield the descriptor of a nameless file in memory that contains ``data``."""
    fd = os.memfd_create("gpg")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def _redirect_status(command: list[str]) -> list[str]:
    """Return ``command`` with the status lines on a descriptor of their own.

    python-gnupg sends them to standard error, where gpg's messages for people go, too.
    """
    at = command.index("--status-fd") + 1
    return [*command[:at], str(STATUS_FD), *command[at + 1 :]]


def make_overload_error() -> UnavailableError:
    """Return the error for a check or run that finds the queue full."""
    return UnavailableError(UNAVAILABLE_MESSAGE, "too many checks wait for gpg")


def make_unreliable_error(answer: GpgResult) -> UnavailableError:
    """Return the error for an answer that says nothing about the signature or key."""
    end = "was killed" if answer.code is None else f"exited with code {answer.code}"
    # one line of ASCII for the log; the end says why gpg failed, and [1:-1] removes the quotes
    errors = " ".join(ascii(answer.errors[-500:].decode("latin-1"))[1:-1].split())
    return UnavailableError(UNAVAILABLE_MESSAGE, f"gpg {end} and gave no reliable answer: {errors}")
