"""``mig-api check`` finds each fault that keeps a daemon from starting or serving."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_twisted
from psycopg2.extensions import make_dsn, parse_dsn
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mig.account import Account
from mig.actions.spool import Spool
from mig.database.schema.declaration import API_ROLE, SCHEMA_VERSION
from mig.service.check import PART_SECONDS, Finding, Part, Report, ServiceCheck, check_parts
from mig.service.options import Options
from tests.support.certificates import issue_certificate
from tests.support.cli import CLI, run_cli
from tests.support.postgres import NewDatabase, TestDatabase
from tests.support.programs import find_readable_python
from tests.support.reactor import reactor

NOBODY = Account(uid=65534, gid=65534)
DAY = timedelta(days=1)
AS_ROOT = ("--user", "root") if os.geteuid() == 0 else ()
PARTS = ["configuration", "database", "schema", "clock", "spool", "gpg", "certificate"]


class Installation:
    """A configuration with which a daemon works, in a folder that its user can enter."""

    def __init__(self, folder: Path, database: TestDatabase) -> None:
        self.folder = folder
        self.database = database
        self.config = folder / "api.cfg"
        self.spool = folder / "spool"
        self.dsn = make_dsn(database.dsn, user=API_ROLE)
        Spool(self.spool).prepare_folders()
        self.write_config()
        self.write_certificate(end=15 * DAY)

    def write_config(self, more: str = "", *, tls: bool = True) -> None:
        values = {**parse_dsn(self.dsn), "sslmode": "disable"}
        lines = ["[postgres]", *(f'{name} = "{value}"' for name, value in values.items())]
        lines += ["[directories]", f'spool = "{self.spool}"', "[authentication]", "enabled = on"]
        if tls:
            lines += ["[server]", "ip = 192.0.2.11", f'tlscert = "{self.folder}/server.pem"']
            lines += [f'tlskey = "{self.folder}/server.key"']
        self.config.write_text("\n".join([*lines, more, ""]))
        self.config.chmod(0o600)

    def write_certificate(self, *, begin: timedelta = -DAY, end: timedelta) -> None:
        issue_certificate(begin=begin, end=end).write(self.folder)

    def list_files(self) -> list[Path]:
        return sorted(self.folder.rglob("*"))

    def run(self, *arguments: str) -> tuple[int, str, str]:
        return run_cli("check", "--config", str(self.config), *AS_ROOT, *arguments)

    async def check(self, clock_ahead: float = 0, /, **options: str | list[str]) -> Report:
        """Check in this process."""
        parsed = Options()
        parsed.update({"config": str(self.config), **options})
        return await ServiceCheck(reactor, lambda: time.time() + clock_ahead, parsed).run()

    async def find(
        self, part: str, clock_ahead: float = 0, /, **options: str | list[str]
    ) -> tuple[str, str]:
        """Return state and detail of a part; all others must be ok."""
        report = await self.check(clock_ahead, **options)
        found = report.parts.pop(part)
        assert {each.state for each in report.parts.values()} == {"ok"}, report
        assert report.status == found.state
        return found.state, found.detail.replace(str(self.folder), "")


@pytest.fixture
def installation(database: TestDatabase, tmp_path: Path) -> Installation:
    return Installation(tmp_path, database)


def test_a_line_and_the_exit_status_tell_the_state_of_each_part(
    installation: Installation,
) -> None:
    """Nothing is made or left behind: no file, and no connection."""
    before = installation.list_files()
    status, output, errors = installation.run()
    lines = output.splitlines()
    assert (status, errors) == (0, "")
    assert [line.partition(":")[0] for line in lines] == [f"ok {name}" for name in PARTS]
    assert lines[1] == f"ok database: {API_ROLE} may do all that the service does"
    assert lines[2] == f"ok schema: version {SCHEMA_VERSION}"
    assert lines[6].startswith(f"ok certificate: {installation.folder}/server.pem is valid until ")
    assert installation.list_files() == before
    sessions = "select count(*) from pg_stat_activity where usename = %s and datname = %s"
    name = parse_dsn(installation.dsn)["dbname"]
    assert installation.database.execute(sessions, (API_ROLE, name)) == [(0,)]

    installation.write_certificate(end=14 * DAY)
    status, output, errors = installation.run("--format", "json")
    report = json.loads(output)
    assert (status, errors, report["status"]) == (1, "", "warning")
    assert list(report["parts"]) == PARTS
    assert report["parts"]["certificate"]["state"] == "warning"
    assert report["parts"]["certificate"]["detail"].endswith(", 13 more days")

    installation.write_config("nonsense = 1")
    status, output, errors = installation.run()
    assert (status, errors) == (2, "")
    assert "failed configuration: " in output and "[server] nonsense is not a key" in output
    assert output.count("\nok ") == 5 and output.count("\nwarning ") == 1


@pytest_twisted.ensureDeferred
async def test_what_is_wrong_with_the_database_is_named(installation: Installation) -> None:
    database, find = installation.database, installation.find
    database.execute(f"revoke update (status) on investigators from {API_ROLE}")
    state, detail = await find("database")
    assert state == "failed"
    assert detail.startswith(
        f"{API_ROLE} lacks privileges that this service needs: update (status) on investigators;"
        " `mig-api migrate` grants them"
    )
    database.execute(f"grant update (status) on investigators to {API_ROLE}")

    state, detail = await find("clock", -4.6)
    assert state == "warning" and detail.endswith(
        " s behind the database's: is NTP running on both hosts?"
    )
    assert (await find("clock", 90))[0] == "failed"

    database.execute("revoke select on agents from migreadonly")
    assert await find("schema") == (
        "warning",
        f"version {SCHEMA_VERSION}; to do for `mig-api migrate`: grant select on agents to"
        " migreadonly (for searches with target=)",
    )
    database.execute("grant select on agents to migreadonly")
    [[month]] = database.execute(
        "select 'audit' || to_char(now() at time zone 'UTC' + interval '2 months', '_YYYY_MM')"
    )
    database.execute(f"drop table {month}")
    assert (await find("schema"))[1].endswith(": create the months of audit")
    database.execute("insert into mig_schema values (99)")
    state, detail = await find("schema")
    assert state == "failed" and "made by a newer mig-api" in detail

    nobody = await installation.check(database="postgresql://x@127.0.0.1:1/x")
    states = {name: found.state for name, found in nobody.parts.items()}
    assert states == dict.fromkeys(PARTS, "ok") | dict.fromkeys(PARTS[1:4], "failed")
    assert {nobody.parts[name].detail for name in PARTS[1:4]} == {
        "the database cannot be reached: Connection refused Is the server running on that host and"
        " accepting TCP/IP connections?"
    }


@pytest_twisted.ensureDeferred
async def test_an_empty_database_stays_empty(
    installation: Installation, new_database: NewDatabase
) -> None:
    empty = new_database("template0")
    report = await installation.check(database=empty.dsn)
    assert "to do: set up an empty database" in report.parts["schema"].detail
    assert empty.execute("select count(*) from pg_tables where schemaname = 'public'") == [(0,)]


@pytest_twisted.ensureDeferred
async def test_what_is_wrong_with_the_spool_is_named(installation: Installation) -> None:
    spool, find = installation.spool, installation.find
    shutil.rmtree(spool / "command")
    state, detail = await find("spool")
    assert (state, detail) == (
        "warning",
        "/spool/command is missing; the daemon makes it when it starts",
    )
    assert not (spool / "command").exists()
    (spool / "command").write_text("")
    assert (await find("spool"))[0] == "failed"
    (spool / "command").unlink()
    Spool(spool).prepare_folders()
    (spool / "action" / "new").chmod(0o777)
    assert await find("spool") == (
        "failed",
        "everybody can write to the spool folder /spool/action/new: chmod o-w",
    )
    (spool / "action" / "new").chmod(0o750)
    installation.write_config('[scheduler]\nhandoff = "none"')
    assert (await find("spool"))[1] == "[scheduler] handoff is none: no action is accepted"


@pytest_twisted.ensureDeferred
async def test_what_is_wrong_with_a_certificate_is_named(installation: Installation) -> None:
    find, folder = installation.find, installation.folder
    installation.write_certificate(begin=-2 * DAY, end=-DAY)
    state, detail = await find("certificate")
    assert state == "failed" and "is of no use: it expired at " in detail
    installation.write_certificate(end=90 * DAY)
    (folder / "server.key").write_text(issue_certificate().key_pem)
    assert await find("certificate") == (
        "failed",
        "the key in /server.key does not belong to the first certificate in /server.pem",
    )
    (folder / "server.key").unlink()
    state, detail = await find("certificate")
    assert state == "failed"
    assert detail.endswith("cannot read /server.key: No such file or directory")
    # as the unit has it: a shared socket with TLS
    installation.write_config(tls=False)
    installation.write_certificate(end=DAY)
    listener = f"systemd:domain=INET:index=0:certKey={folder}/server.pem"
    listener += f":privateKey={folder}/server.key"
    state, detail = await find("certificate", listen=[listener])
    assert (state, detail[-13:]) == ("warning", ", 0 more days")


@pytest_twisted.ensureDeferred
async def test_what_is_wrong_with_gpg_is_named(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_ = installation.folder / "bin"
    bin_.mkdir()
    monkeypatch.setenv("PATH", str(bin_))
    state, detail = await installation.find("gpg")
    assert state == "failed" and detail.startswith("gpg is not in PATH")
    (bin_ / "gpg").write_text("#!/bin/sh\necho 'gpg: no memory' >&2\nexit 2\n")
    (bin_ / "gpg").chmod(0o755)
    state, detail = await installation.find("gpg")
    assert state == "failed" and "gpg: no memory" in detail


def test_a_part_that_hangs_keeps_no_other_from_its_answer() -> None:
    clock, hangs = Clock(), Deferred[Finding](lambda _: None)

    async def wait() -> Finding:
        return await hangs

    async def answer() -> Finding:
        return Finding("ok", "two\nlines")

    checking = Deferred.fromCoroutine(
        check_parts(clock, [Part(name="a", check=wait), Part(name="b", check=answer)])
    )
    clock.advance(PART_SECONDS)
    found: list[dict[str, Finding]] = []
    checking.addCallback(found.append)
    assert found == [
        {
            "a": Finding("failed", f"no answer within {PART_SECONDS:g} s"),
            "b": Finding("ok", "two\\nlines"),
        }
    ]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that every user can enter, unlike one of pytest."""
    with tempfile.TemporaryDirectory(prefix="mig-api-check-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can check as another user")
def test_root_checks_with_the_rights_of_the_daemons_user(
    database: TestDatabase, open_folder: Path
) -> None:
    Installation(open_folder, database).config.chmod(0o644)
    python, environment = find_readable_python(NOBODY)
    done = subprocess.run(
        [python, "-P", "-m", "mig.cli", "check", "--config", "api.cfg", "--user", NOBODY.name],
        cwd=open_folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (2, "")
    lines = done.stdout.replace(str(open_folder), "").splitlines()
    assert lines[0] == f"ok configuration: /api.cfg, read by {NOBODY.name}"
    assert lines[1].startswith("failed database: the database cannot be reached: ")
    assert lines[4].startswith(
        f"failed spool: the spool /spool cannot be used: the user {NOBODY.name} cannot "
    )
    assert lines[6] == (
        f"failed certificate: the user {NOBODY.name} cannot read /server.key: Permission denied"
    )


def test_a_report_that_cannot_be_written_is_not_a_success(installation: Installation) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*CLI, "check", "--config", str(installation.config), *AS_ROOT],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (
        2,
        "mig-api: the report cannot be written: No space left on device\n",
    )


def test_a_user_that_does_not_exist_is_a_usage_error() -> None:
    status, output, errors = run_cli("check", "--user", "no-such-user")
    assert (status, output) == (2, "")
    assert "There is no such user or group" in errors
