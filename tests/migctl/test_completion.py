"""The shell completes the words of migctl."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mig.migctl.completion import SHELLS
from tests.support.migctl import call_migctl

BIN = Path(sys.executable).parent
SCRIPT = """
eval "$(migctl completion bash)"
COMP_WORDS=(migctl search agents --agentn) COMP_CWORD=3
_migctl_completion migctl
echo "${COMPREPLY[@]}"
"""


def test_bash_completes_the_options_of_a_search() -> None:
    done = subprocess.run(
        ["bash", "-c", SCRIPT],
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("--agentname\n", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_a_script(shell: str) -> None:
    ended = call_migctl("completion", shell)
    assert ended.status == 0
    assert f"_MIGCTL_COMPLETE={shell}_complete" in ended.output
