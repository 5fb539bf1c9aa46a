"""How a command ends: its exit status, and what it says on standard error."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from mig.migctl.exits import MEANINGS, ExitStatus
from tests.support.certificates import issue_certificate
from tests.support.migctl import MIGCTL, run_migctl
from tests.support.postgres import TestDatabase
from tests.support.scripted_server import (
    NDJSON,
    ScriptedAnswer,
    ScriptedServer,
    make_document,
    make_error,
)

Serve = Callable[..., ScriptedServer]
PAGE = (Path(__file__).parents[2] / "docs" / "migctl.md").read_text()


def test_every_exit_status_has_a_meaning() -> None:
    assert set(MEANINGS) == set(ExitStatus)
    for status, meaning in MEANINGS.items():
        assert f"| {status.value} | {meaning} |\n" in PAGE


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (make_error(401, "no credentials"), ExitStatus.REFUSED, "hint: set MIG_API_KEY"),
        (make_error(403, "you may not"), ExitStatus.REFUSED, "403: you may not (operation 4711)"),
        (make_error(404, "nothing here"), ExitStatus.REFUSED, "404: nothing here"),
        (make_error(500, "it broke"), ExitStatus.REFUSED, "500: it broke"),
        (
            make_error(429, "too many", "Retry-After: 3600"),
            ExitStatus.UNREACHABLE,
            "hint: try again later",
        ),
        (ScriptedAnswer(b"<p>", media_type="text/html"), ExitStatus.UNREACHABLE, "text/html"),
        (ScriptedAnswer(b'{"id":1}\n', media_type=NDJSON), ExitStatus.UNREACHABLE, "hint: what"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_error_of_the_service_has_a_status_and_a_line(
    serve: Serve, answer: ScriptedAnswer, status: ExitStatus, says: str
) -> None:
    ended = await run_migctl("search", "agents", MIG_URL=serve(answer).url)
    assert ended.status == status, ended.errors
    assert ended.errors.startswith("migctl: ")
    assert says in ended.errors


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["search", "agents", "--agentnam", "x"], "No such option"),
        (["search", "agents", "--actionid", "0"], "it must be a whole number from 1 to 184467"),
        (["search", "agents", "--url", "http://mig.example.com/api/v1"], "only over TLS"),
        (["agent", "show", "-5"], "No such option"),
        (["status", "--url", "mig.example.com"], "hint: for example https://mig.example.com/api"),
        (["status", "--url", "http://mig:99999/"], "is not a URL that begins with https://"),
        (
            ["status", "--url", "http://a b/"],
            "'http://a b/' is not a URL that begins with https://",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_wrong_usage_is_2(arguments: list[str], says: str) -> None:
    ended = await run_migctl(*arguments, MIG_API_KEY="key")
    assert (ended.status, ended.output) == (ExitStatus.USAGE, "")
    assert says in ended.errors


@pytest_twisted.ensureDeferred
async def test_any_certificate_is_accepted_only_on_request_and_with_a_warning(
    serve: Serve, home: Path
) -> None:
    dashboard = ScriptedAnswer(make_document())
    server = serve(dashboard, dashboard, certificate=issue_certificate())
    refused = await run_migctl("status", MIG_URL=server.url)
    assert refused.status == ExitStatus.UNREACHABLE
    assert "certificate verify failed" in refused.errors
    assert "hint: is the URL right, and the service running?" in refused.errors
    warning = "migctl: the certificate of the service is not checked: skipverifycert\n"
    accepted = await run_migctl("status", "--skip-verify-cert", MIG_URL=server.url)
    assert (accepted.status, accepted.errors) == (0, warning)
    (home / ".migrc").write_text(f'[api]\nurl = "{server.url}/"\nskipverifycert = on\n')
    configured = await run_migctl("status")
    assert (configured.status, configured.errors) == (0, warning)


@pytest_twisted.ensureDeferred
async def test_a_url_without_its_path_is_suspected(service: TestDatabase) -> None:
    host = os.environ["MIG_URL"].removesuffix("/api/v1")
    ended = await run_migctl("status", MIG_URL=host)
    assert ended.status == ExitStatus.REFUSED
    assert "hint: is the URL right? It has a path" in ended.errors
    missing = await run_migctl("action", "show", "4711")
    assert missing.status == ExitStatus.REFUSED and "hint" not in missing.errors


@pytest_twisted.ensureDeferred
async def test_somebody_who_waits_is_told_why(serve: Serve) -> None:
    server = serve(make_error(503, "it starts"), ScriptedAnswer(make_document()))
    ended = await run_migctl("status", MIG_URL=server.url)
    assert ended.status == 0
    assert re.fullmatch(
        r"migctl: 503: it starts \(operation 4711\); trying again in \d s\n", ended.errors
    )


@pytest_twisted.ensureDeferred
async def test_records_that_cannot_be_read_are_reported_at_the_end(service: TestDatabase) -> None:
    service.execute("update agents set starttime = 'infinity' where id = 2")
    ended = await run_migctl("search", "agents")
    assert ended.status == ExitStatus.FAILED
    assert len(ended.output.splitlines()) == 2
    assert "1 of the records found cannot be read" in ended.errors


async def run_process(*program: str) -> subprocess.CompletedProcess[str]:
    """Run a program while the reactor serves the API."""
    done: subprocess.CompletedProcess[str] = await deferToThread(
        subprocess.run, program, capture_output=True, text=True, timeout=60
    )
    return done


@pytest_twisted.ensureDeferred
async def test_a_reader_that_leaves_is_not_reported(service: TestDatabase) -> None:
    command = f"{' '.join(MIGCTL)} search agents | true; echo ${{PIPESTATUS[0]}}"
    done = await run_process("bash", "-c", command)
    assert (done.stdout, done.stderr) == (f"{ExitStatus.FAILED}\n", "")


@pytest.mark.parametrize(
    ("redirection", "status"),
    [("<&-", 0), (">&-", 0), ("2>&-", 0), (">/dev/full", 1), ("<&- >&- 2>&-", 0)],
)
@pytest_twisted.ensureDeferred
async def test_closed_and_full_streams_are_no_surprise(
    service: TestDatabase, redirection: str, status: int
) -> None:
    for command in ("status", "search agents"):
        line = f"{' '.join(MIGCTL)} {command} {redirection}"
        done = await run_process("bash", "-c", line)
        assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr


@pytest_twisted.ensureDeferred
async def test_a_file_that_is_not_text_is_named_as_such(
    service: TestDatabase, tmp_path: Path
) -> None:
    file = tmp_path / "key.gpg"
    file.write_bytes(b"\x99\x01")
    for command in (("investigator", "add", "Alice"), ("action", "check")):
        ended = await run_migctl(*command, str(file))
        assert ended.status == ExitStatus.FAILED
        assert ended.errors.startswith("migctl: the file is not text: ")


def test_an_interrupt_while_modules_are_imported_has_no_traceback() -> None:
    text = """
import sys
class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            raise KeyboardInterrupt
from mig.migctl import main
sys.meta_path.insert(0, Interrupt())
main()
"""
    for module in ("mig.migctl.exits", "mig.migctl.options", "click.types"):
        program = [sys.executable, "-P", "-c", text, module]
        done = subprocess.run(program, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (ExitStatus.INTERRUPTED, "")


@pytest.mark.parametrize("package", ["click", "rich", "treq"])
def test_without_the_extra_it_says_how_to_get_it(package: str) -> None:
    text = f"import sys; sys.modules['{package}'] = None; from mig.migctl import main; main()"
    done = subprocess.run([sys.executable, "-P", "-c", text], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (ExitStatus.USAGE, "")
    assert done.stderr == (f"migctl needs {package}: pip install 'mig-api[client]'\n")


@pytest_twisted.ensureDeferred
async def test_a_pipe_does_not_import_rich(service: TestDatabase) -> None:
    text = (
        "import sys; from mig.migctl.program import call\n"
        "call(['compliance', '--summary']); call(['search', 'agents'])\n"
        "print('rich' in sys.modules)"
    )

    done = await run_process(sys.executable, "-P", "-c", text)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_completion_imports_neither_twisted_nor_rich() -> None:
    text = (
        "import sys; from mig.migctl.program import call\n"
        "call(['search', 'agents', '--help'])\n"
        "print([name for name in ('twisted', 'treq', 'rich', 'msgspec', 'gnupg')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", text], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
