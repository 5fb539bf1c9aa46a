"""``mig-api VERB``, run as an administrator runs it."""

from __future__ import annotations

import os
import subprocess
import sys

CLI = [sys.executable, "-P", "-m", "mig.cli"]


def run_cli(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run the command, and return its status, output and error output."""
    done = subprocess.run(
        [*CLI, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr
