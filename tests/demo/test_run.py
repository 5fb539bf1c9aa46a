"""``mig-api demo`` answers, goes on after any end, and leaves nothing running."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.cluster import find_free_port
from tests.support.daemon import BIN, run_program, wait_for
from tests.support.keys import Keys
from tests.support.running_demo import RunningDemo, find_processes, make_demo_folder
from tests.support.submissions import build_text, make_action


@pytest.fixture
def folder() -> Iterator[Path]:
    with make_demo_folder() as path:
        yield path


def test_an_action_is_answered_also_when_the_demo_is_killed_and_started_again(
    folder: Path, keys: Keys
) -> None:
    port = find_free_port()
    demo = RunningDemo(folder, port)
    try:
        assert f" PATH={BIN}:$PATH\n  migctl status" in demo.output.read_text()
        assert "&status=done&report=complianceitems&limit=10' |" in demo.output.read_text()
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
