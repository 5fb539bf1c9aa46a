"""The blocks of docs/guide.md print what it shows, against the demo."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.support.cluster import find_free_port
from tests.support.json_types import JsonObject
from tests.support.programs import PATH, find_program
from tests.support.running_demo import RunningDemo, make_demo_folder
from tests.support.transcript import Shell, list_files, list_steps, make_pattern

GUIDE = (Path(__file__).parent.parent / "docs" / "guide.md").read_text()


class Events(HTTPServer):
    """What takes the place of MozDef: a server that keeps the events that it gets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), EventHandler)
        self.events: list[JsonObject] = []


class EventHandler(BaseHTTPRequestHandler):
    """An answer of 200 to each event."""

    server: Events

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.events.append(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - a name of http.server
        """Log nothing."""


@pytest.fixture
def mozdef() -> Iterator[Events]:
    with Events() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def demo() -> Iterator[RunningDemo]:
    with make_demo_folder() as folder:
        running = RunningDemo(folder, find_free_port())
        yield running
        running.end(signal.SIGTERM)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    for program in ("jq", "duckdb", "gpg", "curl"):
        find_program(program)
    home = tmp_path / "h"
    home.mkdir(mode=0o700)
    environment = {"HOME": str(home), "PATH": PATH, "LC_ALL": "C.UTF-8", "TMPDIR": str(tmp_path)}
    with Shell(tmp_path, environment) as running:
        yield running
        running.run("gpgconf --kill all")


def test_the_blocks_of_the_guide_print_what_it_shows(
    demo: RunningDemo, mozdef: Events, shell: Shell, tmp_path: Path
) -> None:
    page = GUIDE.replace("http://localhost:1664/api/v1", demo.base)
    page = page.replace("mozdef.example.net:8080", f"127.0.0.1:{mozdef.server_port}")
    for name, text in list_files(page):
        (tmp_path / name).write_text(text)
    steps = list(list_steps(page))
    assert len(steps) > 25
    for step in steps:
        output, status = shell.run(step.command)
        assert make_pattern(step.expected).fullmatch(output), f"{step}\nprinted\n{output}"
        assert status == 0, step
    high = [event for event in mozdef.events if event["category"] == "complianceitems"]
    assert high and len(high) == len(mozdef.events)
    assert {event["details"]["compliance"] for event in high} == {False}
