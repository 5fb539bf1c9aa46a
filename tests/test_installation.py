"""Every line of docs/installation.md works on a machine that has nothing of it yet."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mig import __version__
from mig.database.schema.declaration import load_schema
from tests.support import fleet
from tests.support.daemon import wait_for
from tests.support.keys import Keys
from tests.support.machine import Machine, has_python_of_this_run

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/installation.md").read_text()
WHEELS = ROOT / ".venv/wheels"
SOURCE = f"usr/local/src/mig_api-{__version__}"
LOCAL = "http://localhost:1664/api/v1"
BASE = "https://mig.example.net/api/v1"
CURL = "curl -sS --resolve mig.example.net:443:127.0.0.1 --cacert /etc/mig/tls.pem"
REPORT = f"{BASE}/search?type=command&report=complianceitems&limit=100000&{fleet.ANY_TIME}"
COMMANDS = 500
OF_MIG = {
    *("agents", "actions", "commands", "investigators", "signatures", "manifests", "manifestsig"),
    *("modules", "agtmodreq", "invagtmodperm", "agents_stats", "loaders"),
}

# stands for a mirror of Debian: what the page installs must be on this host
APT = """#!/bin/sh
[ "$1" = install ] || exit 0
shift 2
for package; do
    dpkg-query --show --showformat '${Status}' "$package" | grep --quiet '^install ok installed'
done
"""
FLEET = f"""
runuser -u migadmin -- psql --quiet mig <<END
insert into agents (id, name, queueloc, version, pid, starttime, heartbeattime)
select n, 'agent' || n, 'linux.' || n, 'v', 1, now(), now() from generate_series(1, 10) n;
insert into actions (id, name, target, threat, operations, validfrom, expireafter)
values (1, 'policy', 'all', '{{"family": "compliance"}}', '[{{"module": "file"}}]', now(), now());
insert into commands select n, 1, 1 + n % 10, 'success',
    '[{{"elements": {{"policy": [{{"file": "/etc/passwd", "search": {{}}}}]}}}}]', now(), now()
from generate_series(1, {COMMANDS}) n;
END
"""
CERTIFICATE = """
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=mig \\
    -addext subjectAltName=DNS:mig.example.net -keyout mig.key -out mig.pem 2>/dev/null
"""
WATCHDOG = """
mkdir /etc/systemd/system/mig-api@2.service.d
printf '[Service]\\nWatchdogSec=3\\n' > /etc/systemd/system/mig-api@2.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart mig-api@2
kill -STOP $(systemctl show --property MainPID --value mig-api@2)
"""
ASK_ALL_THE_TIME = f"""
while [ ! -e /stop ]; do
    {CURL} -o /dev/null -w '%{{http_code}}\\n' {BASE}/heartbeat || true
    sleep 0.02
done
"""
NO_WATCHDOG = """
rm -r /etc/systemd/system/mig-api@2.service.d
systemctl daemon-reload
systemctl restart mig-api@2
"""


def read_sections() -> dict[str, list[str]]:
    """Return the blocks of lines below each heading of the page."""
    sections = {}
    for section in PAGE.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        found = re.findall(r"(?:^ {4}.*\n)+", text, re.MULTILINE)
        sections[title] = [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in found]
    return sections


def build_sdist(folder: Path) -> Path:
    """Build the source distribution from a copy of the checkout, without the network."""
    tools, copy = folder / "tools", folder / "checkout"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "-f", str(WHEELS)]
    subprocess.run([*install, "--target", str(tools), "setuptools"], check=True)
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    build = f"import setuptools.build_meta as b; print(b.build_sdist({str(folder)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", build],
        cwd=copy,
        env={"PYTHONPATH": str(tools)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if not has_python_of_this_run():
        pytest.skip("the Python of the system is another version")
    made = Machine(tmp_path, WHEELS)
    yield made
    made.stop()


class Operator:
    """Someone who follows the page, and looks whether it holds."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.run = machine.run
        self._report = ""
        self._asking: subprocess.Popen[bytes] | None = None
        self._checks: dict[tuple[str, int], Callable[[str], None]] = {
            ("Program", 0): self._check_program,
            ("Database", 0): self._check_database,
            ("Check", 0): self._check_the_check,
            ("Units", 0): self._check_units,
            ("Units", 1): self._check_retention,
            ("First administrator, first key", 1): self._check_key,
            ("TLS", 0): self._check_tls,
            ("TLS", 1): self._check_renewal,
            ("Upgrade", 0): self._check_upgrade,
            ("Backup", 0): self._lose_everything,
            ("Restore", 2): self._check_report,
            ("Uninstall", 1): self._check_tables_of_mig,
            ("Uninstall", 2): self._check_nothing_is_left,
        }

    def follow_page(self) -> None:
        for title, blocks in read_sections().items():
            for number, block in enumerate(blocks):
                check = self._checks.pop((title, number), None)
                output = self.run(block)
                if check:
                    check(output)
        assert not self._checks

    def fetch(self, url: str) -> str:
        return self.run(
            f"""{CURL} -f -H "Authorization: Bearer $(cat /root/mig-api.key)" '{url}'"""
        )

    def _check_program(self, output: str) -> None:
        assert output.splitlines()[-1] == f"mig-api {__version__}"

    def _check_database(self, output: str) -> None:
        assert output.splitlines()[-1] == "the database is up to date"
        assert self.run("runuser -u migadmin -- mig-api migrate --database postgresql:///mig") == (
            "nothing to do\n"
        )

    def _check_the_check(self, output: str) -> None:
        assert "ok configuration: /etc/mig/api.cfg, read by mig-api" in output
        assert "ok spool: mig-api can hand over through /var/cache/mig\n" in output
        assert {line.partition(" ")[0] for line in output.splitlines()} == {"ok"}

    def _check_units(self, output: str) -> None:
        assert '"gatorz say hi"' in output
        assert '"status": "ok"' in output or '"status":"ok"' in output
        assert self.run("systemctl is-active mig-api@1 mig-api@2") == "active\nactive\n"
        assert set(self.run("ps --no-headers -C twistd -o user,group").split("\n")) == {
            "mig-api  mig",
            "",
        }
        self.run(f"logrotate --force /etc/logrotate.d/mig-api; curl -fsS {LOCAL}/ >/dev/null")
        assert self.run("ls /var/log/mig-api").split() == ["api.log", "api.log.1"]
        wait_for(lambda: "GET" in self.run("cat /var/log/mig-api/api.log"))
        self.run(WATCHDOG)
        wait_for(
            lambda: self.run("systemctl show --property NRestarts mig-api@2") != "NRestarts=0\n"
        )
        wait_for(lambda: self.run("systemctl is-active mig-api@2 || true") == "active\n")
        self.run(NO_WATCHDOG)

    def _check_retention(self, _: str) -> None:
        self.run("systemctl start mig-api-prune.service; journalctl --sync")
        said = self.run("journalctl --unit mig-api-prune.service --output cat")
        assert "deleted 0 commands and 0 actions, detached no month of the audit" in said

    def _check_key(self, output: str) -> None:
        assert '"name":"dashboard"' in output or '"collection"' in output
        assert self.run("stat --format %a /root/mig-api.key") == "600\n"
        self.run(CERTIFICATE)

    def _check_tls(self, output: str) -> None:
        assert '"gatorz say hi"' in output
        self.run(FLEET)
        self._report = self.fetch(REPORT)
        assert self._report.count('"name":"compliance item"') == COMMANDS
        self.run(CERTIFICATE)

    def _check_renewal(self, _: str) -> None:
        loaded = "the certificate in /etc/mig/tls.pem was loaded"
        wait_for(lambda: self.run(f"grep -c '{loaded}' /var/log/mig-api/api.log || true") == "2\n")
        self._asking = self._machine.start("bash", "-c", ASK_ALL_THE_TIME)

    def _check_upgrade(self, output: str) -> None:
        assert "nothing to do" in output
        assert self._asking
        self.run("touch /stop")
        statuses, _ = self._asking.communicate(timeout=60)
        assert set(statuses.split()) == {b"200"}  # at both restarts no request is lost
        assert self.fetch(REPORT) == self._report
        # as a newer version would leave it
        self.run("runuser -u migadmin -- psql mig --command 'insert into mig_schema values (99)'")

    def _lose_everything(self, output: str) -> None:
        assert self.fetch(REPORT) == self._report
        self.run(
            "runuser -u migadmin -- psql mig --command 'truncate actions, submissions cascade'"
        )

    def _check_report(self, output: str) -> None:
        assert self.fetch(REPORT) == self._report

    def _check_tables_of_mig(self, output: str) -> None:
        tables = "select tablename from pg_tables where schemaname = 'public'"
        asked = f'runuser -u migadmin -- psql --no-align --tuples-only --command "{tables}" mig'
        assert set(self.run(asked).split()) == OF_MIG
        # as it is for those who choose the next block instead of this one
        self.run("runuser -u postgres -- psql --command 'create role migapi'")

    def _check_nothing_is_left(self, output: str) -> None:
        kept = (Path(f"/{SOURCE}"), Path("/wheels"), Path("/root"))
        left = [
            path
            for path in self._machine.list_changes()
            if "mig-api" in path.name and not any(path.is_relative_to(one) for one in kept)
        ]
        assert not left
        assert self.run("getent group mig || getent passwd mig-api migadmin || true") == ""
        databases = "select datname from pg_database union select rolname from pg_roles"
        asked = f'runuser -u postgres -- psql --no-align --tuples-only --command "{databases}"'
        assert not [name for name in self.run(asked).split() if name.startswith("mig")]


def test_every_line_of_the_page_works(machine: Machine, keys: Keys, tmp_path: Path) -> None:
    """From the source distribution to an empty machine again, with a backup that is restored."""
    with tarfile.open(build_sdist(tmp_path)) as sdist:
        sdist.extractall(machine.root / "usr/local/src", filter="data")
    apt = machine.root / "usr/local/sbin/apt-get"
    apt.write_text(APT)
    apt.chmod(0o755)
    (machine.root / SOURCE / "alice.asc").write_text(keys.alice.armored)
    machine.run(f"cd /{SOURCE}")
    Operator(machine).follow_page()


def test_the_unit_with_tls_differs_in_its_listener_alone() -> None:
    files = ":certKey=/etc/mig/tls.pem:privateKey=/etc/mig/tls.key"
    unit = (ROOT / "etc/mig-api@.service").read_text()
    [with_tls] = re.findall(r"^ +(ExecStart=.+)$", PAGE, re.MULTILINE)
    assert files in with_tls
    assert with_tls.replace(files, "") in unit.splitlines()


def test_the_page_says_whose_each_table_is() -> None:
    rows = [line for line in PAGE.split("\n## Backup")[1].splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])]
    declared = {table.name for table in load_schema().tables} - {"audit_default"}
    assert sorted(named) == sorted(declared)


def test_the_page_names_every_file_of_etc_that_is_installed() -> None:
    installed = {
        "api.cfg",
        "mig-api.logrotate",
        *(file.name for file in (ROOT / "etc").glob("mig-api*")),
    }
    assert not [name for name in installed if f"etc/{name}" not in PAGE]
