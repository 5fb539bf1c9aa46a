"""How long it takes from a fresh clone to the first answer of ``make demo``.

It needs only Python and git: ``make demo-time``.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing
from pathlib import Path

DEADLINE_SECONDS = 600
POLL_SECONDS = 0.1


def _find_free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return int(probe.getsockname()[1])


def _has_answer(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return b'"active agents"' in answer.read()
    except OSError:
        return False


def _main() -> None:
    # PostgreSQL's account must be able to enter the folder of the demo, but not the other one
    folder = Path(tempfile.gettempdir()) / f"mig-api-first-answer-{os.getpid()}"
    port = _find_free_port()
    with tempfile.TemporaryDirectory() as clone:
        started = time.monotonic()
        subprocess.run(["git", "clone", "-q", ".", clone], check=True)
        options = f"DEMO=--folder {folder} --port {port}"
        demo = subprocess.Popen(
            ["make", "-C", clone, "demo", f"PYTHON={sys.executable}", options],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            while not _has_answer(f"http://127.0.0.1:{port}/api/v1/dashboard"):
                if demo.poll() is not None:
                    raise SystemExit("make demo has failed")
                if time.monotonic() - started > DEADLINE_SECONDS:
                    raise SystemExit(f"there was no answer within {DEADLINE_SECONDS} s")
                time.sleep(POLL_SECONDS)
            print(f"from a fresh clone to the first answer: {time.monotonic() - started:.0f} s")
        finally:
            if demo.poll() is None:
                os.killpg(demo.pid, signal.SIGTERM)
                demo.wait()
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _main()
