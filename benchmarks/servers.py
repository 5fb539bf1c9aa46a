"""The measured servers: ordinary daemons on one socket, and the bare server."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from benchmarks import procfs
from benchmarks.child_processes import ChildFailedError, ChildProcesses

READY: Final = re.compile(r"ready at (http://[^\s\"]+?)/?[\"}]*$", re.MULTILINE)
START_SECONDS: Final = 30.0
BACKLOG: Final = 1024

CONFIGURATION: Final = """\
[directories]
spool = "{folder}/spool"
tmp = "{folder}/tmp"
[logging]
format = {format}
"""
SPOOL: Final = (
    *(f"spool/action/{name}" for name in ("new", "inflight", "done", "invalid")),
    *(f"spool/command/{name}" for name in ("ready", "inflight", "returned", "done")),
    "tmp",
)


@dataclass(frozen=True, kw_only=True)
class ResourceUsage:
    """What the servers and PostgreSQL used; the peak is that of the largest server."""

    daemon_cpu_s: float
    postgres_cpu_s: float
    peak_mb: float


class Servers:
    """Server processes that accept from one listening socket.

    :param logs: the folder for a file with the output of each.
    """

    def __init__(self, children: ChildProcesses, logs: Path) -> None:
        self._children = children
        self._logs = logs
        self._processes: list[subprocess.Popen[Any]] = []
        self.base = ""

    @classmethod
    def start_daemons(
        cls,
        children: ChildProcesses,
        folder: Path,
        twistd: Path,
        dsn: str,
        count: int,
        *,
        authentication: bool = False,
        admin_socket: Path | None = None,
    ) -> Self:
        """Start ``twistd -n mig-api`` ``count`` times, each as it would run alone.

        :param admin_socket: where a daemon that logs in JSON serves its metrics.
        """
        for name in SPOOL:
            (folder / name).mkdir(parents=True, exist_ok=True)
        format_ = "json" if admin_socket else "text"
        configuration = folder / f"{format_}.cfg"
        configuration.write_text(CONFIGURATION.format(folder=folder, format=format_))
        command = [twistd, "-n", "mig-api", "--config", configuration, "--database", dsn]
        command += ["--authentication", "on" if authentication else "off", "--listen", "fd:{fd}"]
        command += ["--admin", f"unix:{admin_socket}"] if admin_socket else []
        return cls(children, folder)._start_processes(command, count, folder)

    @classmethod
    def start_baseline(cls, children: ChildProcesses, folder: Path, dsn: str) -> Self:
        """Start the bare server of :mod:`benchmarks.baseline_server`."""
        command = [sys.executable, "-m", "benchmarks.baseline_server", dsn, "{fd}"]
        return cls(children, folder)._start_processes(command, 1)

    def _start_processes(self, command: list[Any], count: int, folder: Path | None = None) -> Self:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen(BACKLOG)
            number = listening.fileno()
            command = [str(word).replace("{fd}", str(number)) for word in command]
            name = f"{Path(command[0]).name}-{listening.getsockname()[1]}"
            logs = [self._logs / f"{name}-{n}.log" for n in range(count)]
            for path in logs:
                with path.open("wb") as log:
                    self._processes.append(
                        self._children.start(
                            command, stdout=log, stderr=log, cwd=folder, pass_fds=[number]
                        )
                    )
        for process, path in zip(self._processes, logs, strict=True):
            self.base = _wait_until_ready(process, path)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            self._children.terminate(process)

    @property
    def count(self) -> int:
        """The number of processes."""
        return len(self._processes)

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes."""
        return [process.pid for process in self._processes]

    def start_meter(self, postmaster: int) -> UsageMeter:
        """Return a meter of what these servers and PostgreSQL use from now on."""
        return UsageMeter(self.pids, postmaster)


class UsageMeter:
    """A meter of processor time and memory, which starts when it is made."""

    def __init__(self, pids: list[int], postmaster: int) -> None:
        self._pids = pids
        self._postmaster = postmaster
        for pid in pids:
            procfs.reset_peak(pid)
        self._daemons, self._postgres = self._read_seconds()

    def read_usage(self) -> ResourceUsage:
        """Return the usage so far."""
        daemons, postgres = self._read_seconds()
        return ResourceUsage(
            daemon_cpu_s=daemons - self._daemons,
            postgres_cpu_s=postgres - self._postgres,
            peak_mb=max(map(procfs.read_peak_megabytes, self._pids)),
        )

    def _read_seconds(self) -> tuple[float, float]:
        return sum(map(procfs.read_seconds, self._pids)), procfs.read_seconds_with_children(
            self._postmaster
        )


def _wait_until_ready(process: subprocess.Popen[Any], log: Path) -> str:
    """Wait until a server logs that it is ready, and return its base URL.

    :raises ChildFailedError: when it ends or takes too long.
    """
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if match := READY.search(log.read_text()):
            return match[1]
        time.sleep(0.05)
    raise ChildFailedError(f"a server did not start:\n{log.read_text()}")
