"""A process starts without collections of garbage, and collects from then on."""

from __future__ import annotations

import subprocess
import sys

import pytest

MIN_FROZEN_OBJECTS = 10_000
PROGRAM = """
import gc
import {entry}
print(gc.isenabled(), gc.get_freeze_count())
"""


@pytest.mark.parametrize("entry", ["mig.cli", "mig.service.tap"])
def test_what_a_program_imports_is_never_collected(entry: str) -> None:
    program = [sys.executable, "-P", "-c", PROGRAM.format(entry=entry)]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60)
    is_enabled, frozen = done.stdout.split()
    assert is_enabled == "True"
    assert int(frozen) > MIN_FROZEN_OBJECTS
