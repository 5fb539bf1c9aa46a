"""A process that parses large actions: its input, its output, and its deadline."""

from __future__ import annotations

import os
import sys
from io import BytesIO
from typing import Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.protocols.basic import FileSender
from twisted.python.failure import Failure

from mig.actions.parser_worker import (
    DROP,
    LENGTH_BYTES,
    Answer,
    decode_answer,
    frame,
)
from mig.errors import InvalidInputError, UnavailableError
from mig.reactor import Reactor

FAILURE_MESSAGE: Final = "the action cannot be parsed at the moment"
GROWING_BYTES: Final = 1_048_576
"""A process that has parsed a longer body is not used again: Python keeps much of the memory."""

MAX_ERROR_BYTES: Final = 1_000
"""How much of the process's standard error is kept for the log."""

_INPUT_FD, _OUTPUT_FD, _ERRORS_FD = 0, 1, 2


class ParserProcess(ProcessProtocol):
    """A running :mod:`mig.actions.parser_worker`, which handles one action at a time.

    ``exited`` fires when it has been reaped.

    :param seconds: how long an answer may take.
    :raises UnavailableError: when no process can be started.
    """

    log = Logger()
    transport: IProcessTransport

    def __init__(self, reactor: Reactor, seconds: float) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._answer: Deferred[Answer] | None = None
        self._received = bytearray()
        self._errors = b""
        self._has_value = False
        self._may_have_grown = False
        self._is_closed = False
        self.is_running = True
        self.exited: Deferred[None] = Deferred()
        # it finds the modules of the service where the service has found them
        environment = {"LC_ALL": "C", "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-P", "-m", "mig.actions.parser_worker"]
        pipes: dict[int, int | str] = {_INPUT_FD: "w", _OUTPUT_FD: "r", _ERRORS_FD: "r"}
        try:
            reactor.spawnProcess(self, command[0], command, env=environment, childFDs=pipes)
        except OSError as error:
            detail = f"no process can be started: {error}"
            raise UnavailableError(FAILURE_MESSAGE, detail) from None

    @property
    def is_reusable(self) -> bool:
        """Whether another action may be sent: it is idle and small."""
        is_idle = self.is_running and self._answer is None
        return is_idle and not (self._may_have_grown or self._is_closed)

    async def ask(self, message: bytes, content: BytesIO | None = None) -> Answer:
        """Send a message, with a body behind it, and return the answer.

        :raises InvalidInputError: when the answer is a refusal.
        :raises UnavailableError: when there is no answer in time, or the process has ended.
        """
        if not self.is_running:
            raise UnavailableError(FAILURE_MESSAGE, "its process has ended")
        answer: Deferred[Answer] = Deferred()
        self._answer = answer
        answer.addTimeout(self._seconds, self._reactor, self._make_timeout_failure)
        self.transport.write(frame(message))
        if content is not None:
            self._may_have_grown = len(content.getbuffer()) > GROWING_BYTES
            content.seek(0)
            # piece by piece: a body is large enough to be in memory only once
            sending = FileSender().beginFileTransfer(content, self.transport)
            sending.addErrback(lambda _: None)  # the process has ended, which fails the answer
        received = await answer
        self._answer = None
        self._has_value = received.signatures is not None
        if received.refusal is not None:
            raise InvalidInputError(received.refusal.message, received.refusal.where)
        return received

    def drop_value(self) -> None:
        """Let the process forget an action that nobody needs any more."""
        if self._has_value and self.is_reusable:
            self._has_value = False
            self.transport.write(frame(DROP))

    def close(self) -> None:
        """End the process if it is idle, and kill it if it is busy."""
        self._is_closed = True
        if self._answer is not None:
            self.kill()
        elif self.is_running:
            self.transport.closeStdin()

    def kill(self) -> None:
        """Kill the process."""
        self._is_closed = True
        if self.is_running:
            self.transport.signalProcess("KILL")

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N803
        """Take an answer, or what the process writes about its failure."""
        if childFD == _ERRORS_FD:
            self._errors = (self._errors + data)[-MAX_ERROR_BYTES:]
            return
        self._received += data
        end = LENGTH_BYTES + int.from_bytes(self._received[:LENGTH_BYTES])
        if len(self._received) >= end:
            received, self._received = self._received, bytearray()
            try:
                self._deliver(decode_answer(memoryview(received)[LENGTH_BYTES:end]))
            except msgspec.MsgspecError as error:
                self._deliver(self._make_failure(f"its answer cannot be read: {error}"))

    def processExited(self, reason: Failure) -> None:
        """Note that the process is gone."""
        self.is_running = False
        self.exited.callback(None)

    def processEnded(self, reason: Failure) -> None:
        """Log the end of a process that was not told to end; its action cannot be parsed."""
        if not isinstance(reason.value, ProcessDone) and not self._is_closed:
            errors = " ".join(ascii(self._errors.decode("latin-1"))[1:-1].split())
            self.log.error(
                "the process that parses large actions has failed: {reason} {errors}",
                reason=reason.getErrorMessage(),
                errors=errors,
            )
        self._deliver(self._make_failure("its process has ended"))

    def _deliver(self, answer: Answer | Failure) -> None:
        if self._answer is not None and not self._answer.called:
            self._answer.callback(answer)

    def _make_timeout_failure(self, _: object, seconds: float) -> Failure:
        return self._make_failure(f"it took longer than {seconds:g} s")

    def _make_failure(self, detail: str) -> Failure:
        return Failure(UnavailableError(FAILURE_MESSAGE, detail))
