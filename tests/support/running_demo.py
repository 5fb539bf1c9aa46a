"""``mig-api demo``, started as a user starts it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from tests.support.daemon import BIN, wait_for
from tests.support.json_types import Json
from tests.support.submissions import list_processes


def find_processes(folder: Path, program: bytes = b"") -> list[int]:
    """Return the processes that have the folder, and the program, in their command line."""
    words = (bytes(folder), program)
    return [
        process
        for process, _, command in list_processes()
        if all(word in b" ".join(command) for word in words)
    ]


class RunningDemo:
    """A demo in the foreground, and requests to it."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self.base = f"http://localhost:{port}/api/v1"
        self.output = folder.with_suffix(".log")
        with self.output.open("wb") as log:
            self.process = subprocess.Popen(
                [BIN / "mig-api", "demo", "--folder", str(folder), "--port", str(port)],
                stdout=log,
                stderr=log,
            )
        wait_for(self._is_ready)

    def _is_ready(self) -> bool:
        text = self.output.read_text()
        assert self.process.poll() is None, text
        return "ready at" in text

    def request(self, path: str, fields: dict[str, str] | None = None) -> Json:
        """Return the first record of an answer."""
        data = urlencode(fields).encode() if fields else None
        with urllib.request.urlopen(self.base + path, data, timeout=30) as answer:
            return json.load(answer)["collection"]["items"][0]["data"][0]["value"]

    def find_simulators(self) -> list[int]:
        return find_processes(self._folder, b"mig.demo.simulator")

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait(30)
        wait_for(lambda: not self.find_simulators())


@contextmanager
def make_demo_folder() -> Iterator[Path]:
    """Return a path directly below the temporary folder, which PostgreSQL's account can enter."""
    path = Path(tempfile.gettempdir()) / f"mig-api-demo-{os.getpid()}"
    try:
        yield path
    finally:
        for process in find_processes(path):  # of a test that has failed
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(path, ignore_errors=True)
        path.with_suffix(".log").unlink(missing_ok=True)
