"""Programs of the system that some tests run."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
"""Where programs are, of this environment and of the system."""


def find_program(name: str) -> str:
    """Return the path of a program, or skip the test."""
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found
