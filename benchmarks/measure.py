"""Measuring: the floor, a daemon from outside, and an answer as a client sees it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_READY = re.compile(r"ready at (http://\S+)/")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer: seconds until it was whole and until its first byte, and its size."""

    status: int
    seconds: float
    first_byte: float
    bytes: int


def get(url: str) -> Answer:
    """Read an answer with curl, to the end, and throw it away."""
    form = '{"status":%{http_code},"seconds":%{time_total},"first_byte":%{time_starttransfer},'
    form += '"bytes":%{size_download}}'
    done = subprocess.run(
        ["curl", "-sS", "-o", "/dev/null", "-w", form, url],
        check=True,
        capture_output=True,
        text=True,
    )
    return Answer(**json.loads(done.stdout))


def count_items(url: str, name: str) -> int:
    """How many items of a data name an answer has; each stands on a line of its own."""
    curl = subprocess.Popen(["curl", "-sSf", url], stdout=subprocess.PIPE)
    count = subprocess.run(
        ["grep", "-c", f'"data":\\[{{"name":"{name}"'], stdin=curl.stdout, stdout=subprocess.PIPE
    )
    if curl.wait() != 0:
        raise RuntimeError(f"curl ended with {curl.returncode} for {url}")
    return int(count.stdout)


def floor(psql: Path, dsn: str) -> float:
    """Seconds that PostgreSQL and psql need to hand over all results, unordered, as text."""
    began = time.perf_counter()
    copy = r"\copy (select results from commands) to /dev/null"
    subprocess.run([psql, "-qX", "-d", dsn, "-c", copy], check=True)
    return time.perf_counter() - began


class Daemon:
    """``twistd -n mig-api`` as a process of its own."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def __enter__(self) -> Self:
        twistd = Path(sys.executable).parent / "twistd"
        self._log = Path(tempfile.mkdtemp(prefix="mig-api-bench-")) / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [twistd, "-n", "mig-api", "--listen", "tcp:0", "--database", self._dsn],
                stdout=log,
                stderr=log,
                cwd=self._log.parent,
            )
        for _ in range(200):
            if ready := _READY.search(self._log.read_text()):
                self.base = ready[1]
                return self
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"the daemon did not start:\n{self._log.read_text()}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(30)
        shutil.rmtree(self._log.parent)

    def reset_peak(self) -> None:
        """Let the peak of memory start from now."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def peak_megabytes(self) -> float:
        """The most resident memory since the last reset."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        [kilobytes] = re.findall(r"VmHWM:\s+([0-9]+) kB", status)
        return int(kilobytes) / 1000

    def cpu_seconds(self) -> float:
        """Processor time that the daemon used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
