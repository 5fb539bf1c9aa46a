"""``make demo`` refuses what cannot work before it installs anything."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make_demo(venv: Path, *arguments: str) -> tuple[int, str]:
    """Return exit status and output of ``make demo`` with its installation in ``venv``."""
    done = subprocess.run(
        ["make", *arguments, "demo", f"VENV={venv}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_another_python_is_refused_and_does_not_hinder_the_next_one(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit\nexit 1\n')
    old.chmod(0o755)
    status, output = make_demo(venv, f"PYTHON={old}")
    assert status != 0
    assert f"mig-api needs Python 3.11 to 3.13, and {old} is Python 3.9.2" in output
    assert not venv.exists()
    _, steps = make_demo(venv, "--dry-run", f"PYTHON={sys.executable}")
    assert f"{sys.executable} -m venv --clear {venv}/demo-{Path(sys.executable).name}" in steps


def test_a_port_in_use_is_refused_before_anything_is_installed(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        options = (f"PYTHON={sys.executable}", f"DEMO=--folder {tmp_path}/demo --port {port}")
        status, output = make_demo(venv, *options)
    assert status != 0
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in output
    assert not venv.exists()


def test_the_demo_installs_its_own_extras_alone(tmp_path: Path) -> None:
    _, steps = make_demo(tmp_path / "venv", "--dry-run", f"PYTHON={sys.executable}")
    assert "pip install -q --disable-pip-version-check '.[demo,client]'" in steps
