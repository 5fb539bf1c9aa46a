"""A Debian machine of its own, on which a test may install and remove anything."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.daemon import wait_for
from tests.support.programs import find_program

MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "systemd-firstboot.service",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-networkd-wait-online.service",
    "pg_receivewal@.service",
    "haproxy.service",
    "nginx.service",
    "pgbouncer.service",
)
"""Units of this host that the machine does without."""

DEADLINE_SECONDS = 300
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "PIP_CONFIG_FILE": "/dev/null",
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "/wheels",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}


class Machine:
    """The programs of this host, but files, users, processes and ports of its own; no network.

    What is changed is written to *folder*: this host is only read. systemd is its first process.
    """

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.root = folder / "root"
        self._changes = folder / "changes"
        self._console = folder / "console"
        self._process: subprocess.Popen[bytes] | None = None
        self._shell: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._blocks = 0
        for name in ("root", "changes", "work"):
            (folder / name).mkdir()
        if os.geteuid() != 0:
            pytest.skip("only root can make a machine")
        nspawn = find_program("systemd-nspawn")
        layers = f"lowerdir=/,upperdir={folder}/changes,workdir={folder}/work"
        mounted = subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", layers, str(self.root)],
            capture_output=True,
            text=True,
        )
        if mounted.returncode:
            pytest.skip(f"no file system for a machine: {mounted.stderr.strip()}")
        try:
            self._prepare_files(wheels)
            self._start(nspawn)
        except BaseException:
            self.stop()
            raise

    def _prepare_files(self, wheels: Path) -> None:
        (self.root / "etc/machine-id").unlink(missing_ok=True)
        for unit in MASKED:
            link = self.root / "etc/systemd/system" / unit
            link.unlink(missing_ok=True)
            link.symlink_to("/dev/null")
        shutil.copytree(wheels, self.root / "wheels")
        (self.root / "blocks").mkdir()

    def _start(self, nspawn: str) -> None:
        options = ["--quiet", "--register=no", "--keep-unit", "--private-network", "--boot"]
        # the machine ends with this process, however that ends
        command = ["setpriv", "--pdeathsig", "KILL", nspawn, *options, "--console=pipe"]
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                [*command, "-D", str(self.root), f"--machine=mig-api-test-{os.getpid()}"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        wait_for(self._is_up)
        self._shell = subprocess.Popen(
            [*self._enter(), "bash", "-eu", "-o", "pipefail"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def _enter(self) -> list[str]:
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid"]
        variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        return ["nsenter", "--target", str(self._leader), *spaces, "env", "-i", *variables]

    def _is_up(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            pytest.skip(f"no machine can run here: {self._console.read_text()}")
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            return False
        self._leader = int(children[-1])
        asked = subprocess.run(
            [*self._enter(), "systemctl", "is-system-running"], capture_output=True, text=True
        )
        return asked.stdout.strip() in ("running", "degraded")

    def run(self, lines: str) -> str:
        """Run lines in the one shell of the machine, which ends at an error; return the output."""
        assert self._shell and self._shell.stdin and self._shell.stdout
        self._blocks += 1
        name = f"blocks/{self._blocks}.sh"
        (self.root / name).write_text(lines)
        self._shell.stdin.write(f". /{name} </dev/null; printf '\\0'\n".encode())
        self._shell.stdin.flush()
        output = bytearray()
        while not output.endswith(b"\0"):
            ready, _, _ = select.select([self._shell.stdout], [], [], DEADLINE_SECONDS)
            read = os.read(self._shell.stdout.fileno(), 65536) if ready else b""
            output += read
            assert read, f"{lines}\n{output.decode(errors='replace')}"
        return output[:-1].decode()

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a program beside the shell."""
        return subprocess.Popen(
            [*self._enter(), *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def list_changes(self) -> list[Path]:
        """Return the paths of everything that was made or changed, and not deleted again."""
        return [
            Path("/") / path.relative_to(self._changes)
            for path in self._changes.rglob("*")
            if not path.is_char_device()  # what stands for a deleted file of this host
        ]

    def stop(self) -> None:
        """End all processes of the machine, and unmount its files."""
        if self._leader:
            with suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGKILL)
        if self._process:
            if not self._leader:
                self._process.kill()
            self._process.wait()
        if self._shell:
            self._shell.communicate()
        subprocess.run(["umount", str(self.root)], check=True)


def has_python_of_this_run() -> bool:
    """Return whether the wheels of this Python fit the one of the system."""
    version = [find_program("python3"), "-c", "import sys; print(sys.version_info[:2])"]
    asked = subprocess.run(version, capture_output=True, text=True, env=ENVIRONMENT, check=True)
    return asked.stdout.strip() == str(sys.version_info[:2])
