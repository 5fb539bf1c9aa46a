"""The processes that a benchmark starts: none outlives it, however it ends."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from typing import Any, Final

STOP_SECONDS: Final = 20.0


class InterruptedRunError(Exception):
    """The benchmark was told to stop."""


class ChildFailedError(Exception):
    """A process ended with a failure; the message has its error output."""


class ChildProcesses:
    """The running processes, each in its own session, so that Ctrl-C reaches only the benchmark.

    Another thread than the one that waits for a process may stop them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[Any]] = []
        self.is_stopped = False

    def start(self, command: Sequence[Any], **options: Any) -> subprocess.Popen[Any]:
        """Start a process.

        :raises InterruptedRunError: after :meth:`stop`.
        """
        with self._lock:
            if self.is_stopped:
                raise InterruptedRunError
            self._running = [child for child in self._running if child.poll() is None]
            child = subprocess.Popen([*map(str, command)], start_new_session=True, **options)
            self._running.append(child)
        return child

    def run(self, command: Sequence[Any], text: str = "", **options: Any) -> str:
        """Run a process to its end and return its standard output.

        :raises ChildFailedError: when it ends with a failure.
        :raises InterruptedRunError: when the benchmark is stopped while it waits.
        """
        return self.wait(self.start(command, **PIPES | options), text)

    def wait(self, child: subprocess.Popen[Any], text: str = "") -> str:
        """Wait for a process that was started with :data:`PIPES`; return its standard output.

        :raises ChildFailedError: as :meth:`run`.
        :raises InterruptedRunError: as :meth:`run`.
        """
        output, errors = child.communicate(text)
        if self.is_stopped:
            raise InterruptedRunError
        if child.returncode:
            raise ChildFailedError(f"{child.args!r} ended with {child.returncode}:\n{errors}")
        return str(output)

    def terminate(self, child: subprocess.Popen[Any]) -> None:
        """Ask a process to end, and wait for it."""
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def stop(self) -> None:
        """End all processes, and let no other one start."""
        with self._lock:
            self.is_stopped = True
            running, self._running = self._running, []
        for child in running:
            child.terminate()
        for child in running:
            self.terminate(child)


PIPES: Final[dict[str, Any]] = {
    "stdin": subprocess.PIPE,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    "text": True,
}
