"""The installed daemon, started as an operator starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

BIN = Path(sys.executable).parent
TWISTD = (BIN / "twistd",)


def run_program(*arguments: str, cwd: Path | str = "/", program: str = "twistd") -> tuple[int, str]:
    """Return exit status and output of a start that must end by itself."""
    done = subprocess.run(
        [BIN / program, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def wait_for(condition: Callable[[], Result | None]) -> Result:
    """Return what *condition* returns as soon as it is true, within a minute."""
    for _ in range(1200):
        answer = condition()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError("the condition never became true")


class Daemon:
    """A daemon in the foreground whose log is read until it says that it is ready."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        log: Path | None = None,
        inherited: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        program: Sequence[Path | str] = TWISTD,
    ) -> None:
        self.output = cwd / "output"
        self.log = log or self.output
        self.process = subprocess.Popen(
            [*program, "-n", "mig-api", *arguments],
            cwd=cwd,
            stdout=self.output.open("wb"),
            stderr=subprocess.STDOUT,
            pass_fds=inherited,
            env={**os.environ, **(environment or {})},
        )
        self.base = wait_for(self._find_base_url)

    def _find_base_url(self) -> str | None:
        text = self.log.read_text() if self.log.exists() else ""
        assert self.process.poll() is None, text + self.output.read_text()
        if "ready at " not in text:
            return None
        return text.partition("ready at ")[2].split()[0].split('"')[0]  # a text in JSON ends so

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def kill(self) -> None:
        """End the daemon without waiting for what it does."""
        self.process.kill()
        self.process.wait()
