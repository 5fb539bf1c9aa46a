"""On a terminal: tables that fit, colour, bars that follow its size, questions, and Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pyte
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from mig.migctl.exits import ExitStatus
from tests.support.callers import add_investigator
from tests.support.keys import Keys
from tests.support.migctl import ANSWERED, MIGCTL
from tests.support.postgres import TestDatabase
from tests.support.reactor import listen_on, reactor, stop_listening
from tests.support.scripted_server import ScriptedServer

ROWS = 30
DEADLINE_SECONDS = 120
Serve = Callable[..., ScriptedServer]


class Terminal:
    """A command on a terminal, and what the terminal shows."""

    def __init__(self, *arguments: str, columns: int = 100) -> None:
        self.screen = pyte.Screen(columns, ROWS)
        self._stream = pyte.ByteStream(self.screen)
        self.received = b""
        self.child: pexpect.spawn[bytes] = pexpect.spawn(
            MIGCTL[0],
            [*MIGCTL[1:], *arguments],
            dimensions=(ROWS, columns),
            env=make_environment(),
            preexec_fn=heed_interrupts,
        )
        self._deadline = time.monotonic() + DEADLINE_SECONDS

    def wait_until(self, is_so: Callable[[str], object]) -> str:
        """Read until the screen is as described, and return its text."""
        while not is_so(text := self.text):
            self._read()
        return text

    def wait_for_end(self) -> tuple[int | None, str]:
        """Return the exit status, and the text of the screen."""
        while True:
            try:
                self._read()
            except pexpect.EOF:
                break
        self.child.wait()
        return self.child.exitstatus, self.text

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def resize(self, columns: int) -> None:
        """Make the terminal another one, which shows only what is drawn from now on."""
        self.screen.reset()
        self.screen.resize(ROWS, columns)
        self.child.setwinsize(ROWS, columns)

    def _read(self) -> None:
        """Read what there is; a bar that moves for ever is no reason to wait for ever."""
        seconds = self._deadline - time.monotonic()
        assert seconds > 0, self.text
        data = self.child.read_nonblocking(4_096, timeout=seconds)
        self.received += data
        self._stream.feed(data)


def make_environment() -> dict[str, str]:
    """Return the environment without the size of another terminal, which readline puts there."""
    return {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "LINES")}


def heed_interrupts() -> None:
    """Undo what a child of a shell in the background inherits: that interrupts are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def has_colour(data: bytes) -> bool:
    return re.search(rb"\x1b\[[0-9;]*3[0-7]", data) is not None


@pytest_twisted.ensureDeferred
async def test_a_table_fits_the_terminal_and_has_colour(service: TestDatabase) -> None:
    service.execute("update agents set name = repeat('long', 40) where id = 2")

    def run() -> None:
        terminal = Terminal("search", "agents", "--sort", "id", columns=80)
        status, text = terminal.wait_for_end()
        header, *rows = text.splitlines()
        assert status == 0
        assert header.split() == ["id", "name", "os", "version", "status", "heartbeat"]
        assert [row.split()[0] for row in rows] == ["1", "2", "3"]
        assert "longlong" in rows[1] and "…" in rows[1]
        assert has_colour(terminal.received)

    await deferToThread(run)


@pytest_twisted.ensureDeferred
async def test_a_narrow_terminal_has_fewer_columns_and_whole_ids(service: TestDatabase) -> None:
    large = 2**63 + 12_345
    service.execute("update agents set id = %s, name = 'web2.example.net' where id = 2", [large])

    def run() -> None:
        terminal = Terminal("search", "agents", "--agentname", "web2%", columns=60)
        status, text = terminal.wait_for_end()
        header, row = text.splitlines()
        assert status == 0
        assert header.split() == ["id", "name", "os", "version", "status"]
        assert row.split() == [str(large), "web2.exa…", "linux", "1", "heartbeating"]

    await deferToThread(run)


@pytest_twisted.ensureDeferred
async def test_a_name_is_printed_in_any_encoding(
    service: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.execute("update agents set name = 'Jörg' where id = 2")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    status, text = await deferToThread(lambda: Terminal("search", "agents").wait_for_end())
    assert (status, r"J\xf6rg" in text) == (0, True), text


@pytest.mark.parametrize(
    "command",
    [
        ("search", "agents"),
        ("search", "agents", "--format", "csv"),
        ("search", "agents", "--format", "json"),
        ("search", "agents", "--format", "ndjson"),
        ("agent", "show", "1"),
        ("agent", "show", "1", "--format", "json"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_name_does_not_control_the_terminal(
    service: TestDatabase, command: tuple[str, ...]
) -> None:
    """Not by escape sequences, the control characters of C1, or the direction of text."""
    hostile = "\x1b]0;title\x07\x9b31m\u202e"
    service.execute("update agents set name = %s || '\U0001f600' where id = 1", [hostile])

    def run() -> None:
        terminal = Terminal(*command, columns=200)
        status, _ = terminal.wait_for_end()
        text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.received.decode())
        assert status == 0
        assert "title" in text and "\U0001f600" in text and terminal.screen.title == ""
        assert {c for c in text if not c.isprintable()} == {"\r", "\n"}

    await deferToThread(run)


@pytest_twisted.ensureDeferred
async def test_a_search_that_finds_nothing_says_what_may_help(service: TestDatabase) -> None:
    def run() -> None:
        terminal = Terminal("search", "agents", "--agentname", "web")
        status, text = terminal.wait_for_end()
        assert status == 0
        assert "migctl: no agents were found\nhint: without --after, a search goes back" in text
        found, text = Terminal("search", "agents", "--agentname", "web%").wait_for_end()
        assert found == 0 and "hint" not in text

    await deferToThread(run)


@pytest_twisted.ensureDeferred
async def test_an_action_is_asked_for_followed_and_interrupted(
    service: TestDatabase, keys: Keys
) -> None:
    """The bar moves to the new size of the terminal, and goes when the command ends."""
    add_investigator(service, "Alice", keys.alice)
    options = ("--key", keys.alice.fingerprint, "--gpg-home", str(keys.home))
    run = ("run", "--module", "ping", "--target", "name <> 'web2'", "--name", "who is there")

    def run_commands() -> None:
        refused = Terminal(*run, *options)
        refused.wait_until(lambda text: "Sign and submit it? [y/N]:" in text)
        refused.child.sendline("n")
        status, text = refused.wait_for_end()
        assert (status, text.splitlines()[-1]) == (ExitStatus.FAILED, "migctl: not submitted")
        assert service.execute("select from actions") == []

        followed = Terminal(*run, *options)
        shown = followed.wait_until(lambda text: "Sign and submit it? [y/N]:" in text)
        assert "agents   2: web" in shown
        followed.child.sendline("y")
        # a longer line than the terminal has columns would go on in the next one
        bar = re.compile(r"^who is there (━+) +0/2 agents \w+ \d:\d\d:\d\d$", re.MULTILINE)
        followed.wait_until(bar.search)
        followed.resize(50)
        followed.wait_until(bar.search)
        assert has_colour(followed.received)
        followed.child.sendintr()
        status, text = followed.wait_for_end()
        [[action_id]] = service.execute("select id::bigint from actions")
        assert status == ExitStatus.INTERRUPTED
        assert text.splitlines()[-2:] == [
            "migctl: interrupted; the action goes on",
            f"hint: migctl action follow {action_id}",
        ]
        assert followed.received.count(b"\x1b[?25l") == followed.received.count(b"\x1b[?25h")

    await deferToThread(run_commands)


@pytest_twisted.ensureDeferred
async def test_a_search_ends_with_ctrl_c_while_it_waits() -> None:
    arrived: Deferred[None] = Deferred()

    class Stalled(Protocol):
        def dataReceived(self, data: bytes) -> None:
            assert self.transport
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
                b'Content-Length: 999\r\n\r\n{"id":1,"name":"web1"}\n'
            )
            arrived.callback(None)

    listener = listen_on("tcp:0")
    url = f"http://localhost:{listener.port}/api/v1"
    port = listener.start_accepting(reactor, Factory.forProtocol(Stalled))
    try:
        terminal = Terminal("search", "agents", "--url", url)
        await arrived
        terminal.child.sendintr()
        status, text = await deferToThread(terminal.wait_for_end)
    finally:
        await stop_listening(port)
    assert status == ExitStatus.INTERRUPTED
    assert text.splitlines()[-1] == "migctl: interrupted", text


@pytest_twisted.ensureDeferred
async def test_a_report_to_a_file_shows_its_progress(service: TestDatabase, tmp_path: Path) -> None:
    service.execute(ANSWERED.replace("STATUS", "success"))
    service.execute(
        "insert into actions (id, name, target, description, threat, operations, validfrom,"
        " expireafter, status, pgpsignatures, syntaxversion) values (5, 'a', 'true', '{}', '{}',"
        """ '[{"module": "file"}]', now(), now(), 'init', '[]', 2)"""
    )
    file = tmp_path / "report.json"

    def report(*options: str) -> str:
        terminal = Terminal("compliance", "--output", str(file), *options)
        status, text = terminal.wait_for_end()
        assert (status, text) == (0, ""), text
        return re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", terminal.received).decode()

    def run() -> None:
        shown = report()
        assert re.search(r"report ━+ 2/2 commands 2 items [\d,]+/s 0:00:00", shown), shown
        shown = report("--latest")  # how many commands that reads is not known before
        assert re.search(r"report .+ 2/\? commands 2 items [\d,]+/s", shown), shown

    await deferToThread(run)
    assert len(json.loads(file.read_text())) == 2


@pytest_twisted.ensureDeferred
async def test_a_summary_has_bars(service: TestDatabase) -> None:
    service.execute(
        "insert into actions (id, name, target, description, threat, operations, validfrom,"
        " expireafter, status, pgpsignatures, syntaxversion) values (5, 'a', 'true', '{}',"
        """ '{"type": "system"}', '[{"module": "file"}]', now(), now(), 'init', '[]', 2)"""
    )
    service.execute(
        "insert into commands (id, actionid, agentid, status, results, starttime, finishtime)"
        """ values (1, 5, 1, 'success', '[{"elements": {"s": [{"file": "/etc/a"}]}}]', now(),"""
        " now())"
    )

    def run() -> None:
        terminal = Terminal("compliance", "--summary", columns=60)
        status, text = terminal.wait_for_end()
        assert status == 0
        header, line, totals = text.splitlines()
        titles = ["policy", "check", "rate", "pass", "fail", "not asked"]
        assert re.split(r" {2,}", header) == titles
        assert re.fullmatch(r"system +s +33.3 % +1 +0 +2 +█{4}·{8}", line), line
        assert totals.split()[:3] == ["all", "33.3", "%"]
        assert b"\x1b[32m" in terminal.received and b"\x1b[90m" in terminal.received

    await deferToThread(run)


@pytest_twisted.ensureDeferred
async def test_a_configuration_is_asked_for(home: Path) -> None:
    def run() -> None:
        terminal = Terminal("config", "init")
        terminal.wait_until(lambda text: "URL of the API:" in text)
        terminal.child.sendline("https://mig.example.com/api/v1")
        terminal.wait_until(lambda text: "(empty: none):" in text)
        terminal.child.sendline("bob@example.net")
        terminal.wait_until(lambda text: "API key, not shown" in text)
        terminal.child.sendline("secret")
        status, text = terminal.wait_for_end()
        assert status == 0
        assert "secret" not in text

    await deferToThread(run)
    written = (home / ".config" / "mig" / "config.toml").read_text()
    assert written == (
        '[api]\nurl = "https://mig.example.com/api/v1"\napikey = "secret"\n\n'
        '[gpg]\nkeyid = "bob@example.net"\n'
    )
