"""Systemd and the proxies accept the files in etc/, where those programs are installed."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from configparser import RawConfigParser
from pathlib import Path

import pytest

from mig.cli.check import DAEMON_USER
from mig.limits import Limits
from mig.service.descriptors import count_needed_descriptors
from mig.service.endpoints import parse_endpoint
from mig.service.options import Options
from mig.service.stop import count_stop_seconds
from tests.support import fleet
from tests.support.callers import add_api_key, add_investigator, make_token
from tests.support.certificates import issue_certificate
from tests.support.cluster import find_free_port
from tests.support.daemon import BIN, Daemon, wait_for
from tests.support.keys import Keys
from tests.support.postgres import MANY_COMMANDS, TestDatabase
from tests.support.programs import find_program

ETC = Path(__file__).parent.parent / "etc"
PROXIES = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}
REPORT = f"search?type=command&report=complianceitems&limit=100000&{fleet.ANY_TIME}"


class Unit(RawConfigParser):
    """A unit file; a name that occurs several times has its last value."""

    def __init__(self, name: str) -> None:
        super().__init__(strict=False)
        self.read_string((ETC / name).read_text())

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for unit in [*ETC.glob("*.service"), *ETC.glob("*.socket"), *ETC.glob("*.timer")]:
        text = unit.read_text().replace("/opt/mig-api/bin", str(BIN))
        (tmp_path / unit.name).write_text(text)
    verify = [find_program("systemd-analyze"), "verify", *map(str, tmp_path.iterdir())]
    done = subprocess.run(verify, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_service_has_few_rights(tmp_path: Path) -> None:
    """The exposure that systemd computes, from 0.0 to 10.0, is under 2.0."""
    analyze = [find_program("systemd-analyze"), "security", "--offline=true", "--threshold=19"]
    for unit in ETC.glob("*.service"):
        done = subprocess.run(
            [*analyze, str(unit)], capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout


def test_the_unit_has_descriptors_for_every_connection() -> None:
    """The unit allows more than are needed with a gpg for each of 256 cores."""
    limits = Limits(gpg_processes=256)
    needed = limits.connections + count_needed_descriptors(limits, listener_count=4)
    assert int(Unit("mig-api@.service")["Service"]["LimitNOFILE"]) >= needed


def test_root_checks_as_the_user_of_the_unit() -> None:
    assert Unit("mig-api@.service")["Service"]["User"] == DAEMON_USER


def test_the_unit_lets_answers_go_on_when_the_daemon_stops() -> None:
    seconds = int(Unit("mig-api@.service")["Service"]["TimeoutStopSec"])
    assert seconds >= count_stop_seconds(Limits())


def test_the_daemons_share_the_socket_of_the_unit() -> None:
    unit, shared = Unit("mig-api@.service")["Service"], Unit("mig-api.socket")["Socket"]
    assert unit["Sockets"] == "mig-api.socket"
    assert (shared["Accept"], shared["Service"]) == ("no", "mig-api@1.service")
    _, _, arguments = unit["ExecStart"].partition(" mig-api ")
    options = Options()
    options.parseOptions(arguments.split())
    [endpoint] = map(parse_endpoint, options["listen"])
    assert (endpoint.kind, endpoint.arguments) == ("systemd", {"domain": "INET", "index": "0"})


class Daemons:
    """Daemons of one database, killed at the end."""

    def __init__(self, database: TestDatabase, folder: Path) -> None:
        self._database = database.dsn
        self._folder = folder
        self.running: list[Daemon] = []

    def start_behind(self, proxy: str) -> int:
        """Start a daemon with the api.cfg that the file of a proxy describes; return its port."""
        port = find_free_port()
        lines = [line[4:] for line in (ETC / proxy).read_text().splitlines() if line[:4] == "#   "]
        text = "\n".join(lines)
        for old, new in (
            ("192.0.2.11", "127.0.0.1"),
            ("1664", str(port)),
            ("/etc/mig", str(self._folder)),
            ("192.0.2.10", "127.0.0.1"),
        ):
            assert old in text, old
            text = text.replace(old, new)
        self._start("--config", self._write(f"api-{port}.cfg", text))
        return port

    def _write(self, name: str, text: str) -> str:
        (self._folder / name).write_text(text)
        return str(self._folder / name)

    def read_log(self) -> str:
        """Return what all daemons that still run have logged."""
        return "".join(daemon.log.read_text() for daemon in self.running)

    def start(self, listener: str, inherited: Sequence[int] = ()) -> Daemon:
        return self._start("--listen", listener, inherited=inherited)

    def _start(self, *options: str, inherited: Sequence[int] = ()) -> Daemon:
        folder = self._folder / f"daemon{len(self.running)}"
        folder.mkdir()
        arguments = ("--database", self._database, *options)
        self.running.append(Daemon(*arguments, cwd=folder, inherited=inherited))
        return self.running[-1]

    def stop_first(self) -> subprocess.Popen[bytes]:
        """Let the first daemon that is running stop, and return its process."""
        process = self.running.pop(0).process
        process.terminate()
        return process

    def kill_first(self) -> None:
        """Kill the first daemon that is running."""
        process = self.running.pop(0).process
        process.kill()
        process.wait()


@pytest.fixture
def daemons(database: TestDatabase, tmp_path: Path) -> Iterator[Daemons]:
    daemons = Daemons(database, tmp_path)
    yield daemons
    while daemons.running:
        daemons.kill_first()


def test_other_daemons_accept_the_connections_of_a_killed_one(daemons: Daemons) -> None:
    with socket.create_server(("127.0.0.1", 0)) as shared:
        fd = shared.fileno()
        bases = [daemons.start(f"fd:{fd}", [fd]).base for _ in range(2)]
    assert len(set(bases)) == 1
    heartbeat = f"{bases[0]}heartbeat"
    assert {fetch_status(heartbeat) for _ in range(20)} == {200}
    daemons.kill_first()
    assert {fetch_status(heartbeat) for _ in range(20)} == {200}


def fetch_status(url: str, *options: str) -> int:
    """Return the status of an answer, or 0 when there is none."""
    form = ["-so", os.devnull, "-w", "%{http_code}"]
    return int(subprocess.run(["curl", *form, *options, url], stdout=subprocess.PIPE).stdout)


class Proxy:
    """A proxy in front of daemons, configured by the file in etc/."""

    STATUS = "status"  # relative to its folder: the path of a socket must be short

    def __init__(self, name: str, folder: Path, api_key: str) -> None:
        self._options = ("-k", "-H", f"X-MIGAPIKEY: {api_key}")
        self._checks = name == "haproxy"
        self._folder = folder
        self._port = find_free_port()
        self.base = f"https://127.0.0.1:{self._port}/api/v1"
        self._write_certificates()

    def _write_certificates(self) -> None:
        """Write the certificates of the proxy and of the daemons."""
        own, authority = issue_certificate("mig.example.net"), issue_certificate("authority")
        own.write(self._folder, "proxy")
        (self._folder / "both").write_text(own.key_pem + own.pem)
        issue_certificate("mig.example.net", authority).write(self._folder, "tls")
        authority.write(self._folder, "mig-ca")

    def _write_configuration(self, name: str, changes: dict[str, str]) -> str:
        """Write the file with this machine's ports and paths, and return its path."""
        text = (ETC / name).read_text()
        for old, new in changes.items():
            assert old in text, old
            text = text.replace(old, new)
        (self._folder / name).write_text(text)
        return str(self._folder / name)

    def _configure_nginx(self, ports: Sequence[int]) -> list[str]:
        folder = self._folder
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        own = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in kinds)
        changes = {
            "server 192.0.2.11:1664": f"server 127.0.0.1:{ports[0]}",
            "server 192.0.2.12:1664": f"server 127.0.0.1:{ports[1]}",
            "listen 443 ssl": f"listen 127.0.0.1:{self._port} ssl",
            "/etc/ssl/certs/mig.example.net.pem": f"{folder}/proxy.pem",
            "/etc/ssl/private/mig.example.net.key": f"{folder}/proxy.key",
            "/etc/nginx/mig-ca.pem": f"{folder}/mig-ca.pem",
            "http {": f"http {{ access_log off; {own}",
        }
        main = f"daemon off; pid {folder}/pid;" + (" user root;" if os.geteuid() == 0 else "")
        file = self._write_configuration("nginx.conf", changes)
        return [find_program("nginx"), "-e", "stderr", "-c", file, "-p", str(folder), "-g", main]

    def _configure_haproxy(self, ports: Sequence[int]) -> list[str]:
        changes = {
            "server api1 192.0.2.11:1664": f"server api1 127.0.0.1:{ports[0]}",
            "server api2 192.0.2.12:1664": f"server api2 127.0.0.1:{ports[1]}",
            "bind :443": f"bind 127.0.0.1:{self._port}",
            "/etc/haproxy/mig.example.net.pem": f"{self._folder}/both",
            "/etc/haproxy/mig-ca.pem": f"{self._folder}/mig-ca.pem",
            "maxconn 1024": f"maxconn 1024\n    stats socket unix@{self.STATUS}",
        }
        return [
            find_program("haproxy"),
            "-db",
            "-f",
            self._write_configuration("haproxy.cfg", changes),
        ]

    def _check_configuration(self) -> None:
        """Let the program check the file."""
        test = "-t" if "nginx" in self._command[0] else "-c"
        done = subprocess.run(
            [*self._command, test], cwd=self._folder, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert "warn" not in done.stderr.lower()

    def start(self, ports: Sequence[int]) -> None:
        """Start it, and return when it forwards to both daemons."""
        configure = self._configure_haproxy if self._checks else self._configure_nginx
        self._command = configure(ports)
        self._check_configuration()
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, stdout=log, stderr=log
            )
        wait_for(lambda: fetch_status(self.base, "-k") == 200)
        if self._checks:
            wait_for(lambda: self._read_health_checks() == ["L7OK", "L7OK"])
        wait_for(lambda: self.fetch_status("heartbeat") == 200)

    def _read_health_checks(self) -> list[str]:
        """Return the last result of each daemon's health check, as HAProxy names it."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(os.path.relpath(self._folder / self.STATUS))
            asking.sendall(b"show stat\n")
            lines = asking.makefile().read().removeprefix("# ").splitlines()
        rows = csv.DictReader(lines)
        return [
            row["check_status"].removeprefix("* ")
            for row in rows
            if row["svname"].startswith("api")
        ]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def fetch_status(self, path: str) -> int:
        return fetch_status(f"{self.base}/{path}", *self._options)

    def fetch(self, path: str, *options: str) -> str:
        """Return the answer to a request with other credentials, or none."""
        command = ["curl", "-ski", "--http1.1", *options, f"{self.base}/{path}"]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60).stdout

    def start_reading(self, path: str) -> subprocess.Popen[bytes]:
        """Start a client that reads as long as the test reads from it."""
        url = f"{self.base}/{path}"
        return subprocess.Popen(["curl", "-sN", *self._options, url], stdout=subprocess.PIPE)


@pytest.fixture
def api_key(database: TestDatabase) -> str:
    return add_api_key(database, add_investigator(database))


@pytest.fixture(params=PROXIES)
def proxy(
    request: pytest.FixtureRequest, daemons: Daemons, api_key: str, tmp_path: Path
) -> Iterator[Proxy]:
    """Run a proxy in front of two daemons."""
    proxy = Proxy(request.param, tmp_path, api_key)
    proxy.start([daemons.start_behind(PROXIES[request.param]) for _ in range(2)])
    yield proxy
    proxy.stop()


def read_some(client: subprocess.Popen[bytes]) -> bytes:
    """Return the beginning of what a client gets."""
    assert client.stdout
    return client.stdout.read(300_000)


def read_rest(client: subprocess.Popen[bytes]) -> bytes:
    """Return the rest; ``communicate`` would lose what is buffered already."""
    assert client.stdout
    with client.stdout:
        return client.stdout.read()


def test_a_proxy_forwards_and_never_makes_a_cut_report_look_complete(
    large_database: TestDatabase, daemons: Daemons, proxy: Proxy
) -> None:
    """When a daemon stops, no request is lost; when it is killed, a client sees it."""
    assert {proxy.fetch_status("heartbeat") for _ in range(4)} == {200}
    # one for each daemon, of which the first one stops meanwhile
    clients = [proxy.start_reading(REPORT) for _ in range(2)]
    begins = [read_some(client) for client in clients]
    stopping = daemons.stop_first()
    assert {proxy.fetch_status("heartbeat") for _ in range(10)} == {200}
    for begin, client in zip(begins, clients, strict=True):
        whole = begin + read_rest(client)
        assert client.wait(60) == 0
        assert whole.count(b'"name":"compliance item"') == MANY_COMMANDS * 5
        assert whole.endswith(b"]}}\n")
    assert stopping.wait(60) == -signal.SIGTERM
    assert {proxy.fetch_status("heartbeat") for _ in range(4)} == {200}
    reading = proxy.start_reading(REPORT)
    read_some(reading)
    daemons.kill_first()
    read_rest(reading)
    assert reading.wait(60) != 0
    assert proxy.fetch_status("heartbeat") in (502, 503)


def test_credentials_pass_a_proxy_and_a_client_cannot_choose_its_address(
    database: TestDatabase, keys: Keys, daemons: Daemons, proxy: Proxy, api_key: str
) -> None:
    """A request without credentials gets the answer of the daemon."""
    bob = add_investigator(database, "Bob", keys.bob)
    answer = proxy.fetch("search?type=agent")
    assert answer.startswith("HTTP/1.1 401 ")
    assert 'www-authenticate: bearer realm="mig-api"' in answer.lower()
    assert answer.lower().count("strict-transport-security: max-age=31536000") == 1
    for number, (credential, caller) in enumerate(
        (
            (f"X-PGPAUTHORIZATION: {make_token(keys, keys.bob)}", f"Bob/{bob}"),
            (f"X-MIGAPIKEY: {api_key}", "automation/"),
            (f"Authorization: Bearer {api_key}", "automation/"),
        )
    ):
        path = f"search?type=agent&limit={number + 1}"
        forged = ("-H", "X-Forwarded-For: 203.0.113.9", "--interface", "127.0.0.5")
        answer = proxy.fetch(path, "-H", credential, *forged)
        assert answer.startswith("HTTP/1.1 200 "), answer
        [line] = [line for line in daemons.read_log().splitlines() if path in line]
        assert f" 127.0.0.5 {caller}" in line and " 200 " in line
    assert "203.0.113.9" not in daemons.read_log()
