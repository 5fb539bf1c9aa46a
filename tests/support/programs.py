"""Programs of the system that some tests run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

from mig.account import Account

PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
"""Where programs are, of this environment and of the system."""


def find_program(name: str) -> str:
    """Return the path of a program, or skip the test."""
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def find_readable_python(account: Account) -> tuple[Path, Mapping[str, str]]:
    """Return an interpreter of this version that the account can read, and its environment."""
    with account.act():
        if os.access(os.__file__, os.R_OK, effective_ids=True):
            return Path(sys.executable), {}
    system = Path("/usr/bin/python3")
    ask = [str(system), "-c", "import sys; print(sys.version_info[:2])"]
    found = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
    if found != str(sys.version_info[:2]):
        pytest.skip(f"{account.name} cannot read the standard library of this interpreter")
    return system, {"PYTHONPATH": sysconfig.get_path("purelib")}
