"""``mig-api demo`` answers, goes on after any end, and leaves nothing running."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.support.cluster import find_free_port
from tests.support.daemon import BIN, run_program, wait_for
from tests.support.json_types import Json
from tests.support.keys import Keys
from tests.support.submissions import build_text, list_processes, make_action


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
        self._base = f"http://localhost:{port}/api/v1"
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
        with urllib.request.urlopen(self._base + path, data, timeout=30) as answer:
            return json.load(answer)["collection"]["items"][0]["data"][0]["value"]

    def find_simulators(self) -> list[int]:
        return find_processes(self._folder, b"mig.demo.simulator")

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait(30)
        wait_for(lambda: not self.find_simulators())


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a path directly below the temporary folder, which PostgreSQL's account can enter."""
    path = Path(tempfile.gettempdir()) / f"mig-api-demo-{os.getpid()}"
    yield path
    for process in find_processes(path):  # of a test that has failed
        os.kill(process, signal.SIGKILL)
    shutil.rmtree(path, ignore_errors=True)
    path.with_suffix(".log").unlink(missing_ok=True)


def test_an_action_is_answered_also_when_the_demo_is_killed_and_started_again(
    folder: Path, keys: Keys
) -> None:
    port = find_free_port()
    demo = RunningDemo(folder, port)
    try:
        assert f"  {BIN}/migctl search agents --agentname 'web%'" in demo.output.read_text()
        assert f"psql 'host={folder}/run dbname=mig" in demo.output.read_text()
        alice = {"name": "Alice", "publickey": keys.alice.armored}
        demo.request("/investigator/create/", alice)
        action = make_action(target="name LIKE 'web%'")
        signature = keys.sign(keys.alice, build_text(action))
        text = json.dumps({**action, "pgpsignatures": [signature]})
        posted = demo.request("/action/create/", {"action": text})
        path = f"/action?actionid={posted['id']}"
        wait_for(lambda: demo.request(path)["status"] in ("inflight", "completed"))
        assert len(demo.find_simulators()) == 1
        demo.end(signal.SIGKILL)

        demo = RunningDemo(folder, port)
        wait_for(lambda: demo.request(path)["status"] == "completed")
        assert demo.request(path)["counters"]["done"] == 100
        wait_for((folder / f"spool/action/done/{posted['id']}.json").exists)
    finally:
        demo.end(signal.SIGTERM)
    assert find_processes(folder) == []
    assert "Traceback" not in demo.output.read_text()


def test_a_port_in_use_is_named_before_anything_is_made(folder: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        status, output = run_program(
            "demo", "--folder", str(folder), "--port", str(port), program="mig-api"
        )
    assert status == 1
    assert f"port {port}: Address already in use" in output
    assert not folder.exists()
