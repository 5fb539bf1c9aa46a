"""The daemon connects to a real PostgreSQL by TLS, with the files of [postgres]."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from mig.account import find_user_name
from mig.database.schema.declaration import API_ROLE
from tests.support.certificates import Certificate, issue_certificate
from tests.support.cluster import ACCOUNT, Cluster, Server, make_cluster
from tests.support.daemon import Daemon, run_program, wait_for

AUTHORITY = issue_certificate("authority", is_authority=True)
OTHER = issue_certificate("other authority", is_authority=True)
PASSWORD = "correct-horse"
USER = find_user_name(os.geteuid())


def write_server_file(server: Server, name: str, text: str) -> None:
    """Write a file that PostgreSQL reads, and that nobody else may."""
    path = server.data / name
    path.write_text(text)
    path.chmod(0o600)
    os.chown(path, ACCOUNT.pw_uid, ACCOUNT.pw_gid)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with make_cluster() as made:
        yield made


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Server:
    """Return a server that admits migapi only by TLS and with a certificate of its own."""
    server = cluster.start_primary()
    certificate = issue_certificate("localhost", AUTHORITY)
    write_server_file(server, "server.crt", certificate.pem)
    write_server_file(server, "server.key", certificate.key_pem)
    write_server_file(server, "clients.crt", AUTHORITY.pem)
    hba = (server.data / "pg_hba.conf").read_text()
    rule = f"hostssl mig {API_ROLE} 127.0.0.1/32 cert\nhostnossl all all 127.0.0.1/32 reject\n"
    write_server_file(server, "pg_hba.conf", rule + hba)
    server.database.execute("alter system set ssl_ca_file = 'clients.crt'")
    try:
        server.database.execute("alter system set ssl = on")
    except psycopg2.Error:
        pytest.skip("this PostgreSQL was built without TLS")
    server.database.execute("select pg_reload_conf()")
    wait_for(lambda: server.database.execute("show ssl") == [("on",)])
    return server


class Client:
    """The configuration of a daemon that is a client of the server."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._server = server
        self.folder = folder
        self.write("ca.pem", AUTHORITY.pem)
        self.write_certificate(issue_certificate(API_ROLE, AUTHORITY))
        self.keys = {
            "host": "localhost",
            "port": str(server.port),
            "dbname": "mig",
            "user": API_ROLE,
            "password": PASSWORD,
            "sslmode": "verify-full",
            "sslrootcert": "ca.pem",
            "sslcert": "client.pem",
            "sslkey": "client.key",
        }

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)

    def write_certificate(self, certificate: Certificate) -> None:
        self.write("client.pem", certificate.pem)
        self.write("client.key", certificate.key_pem)

    @property
    def arguments(self) -> list[str]:
        lines = [f"{key} = {value}" for key, value in self.keys.items() if value]
        self.write("api.cfg", "\n".join(["[postgres]", *lines]))
        return ["--config", "api.cfg", "--listen", "tcp:0"]

    def fail_to_start(self) -> str:
        """Return the line that says why the daemon cannot start."""
        status, output = run_program("-n", "mig-api", *self.arguments, cwd=self.folder)
        assert status == 1 and "Traceback" not in output and PASSWORD not in output
        [line] = [line for line in output.splitlines() if "#critical" in line]
        return line.partition("mig-api: ")[2]


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Client:
    return Client(server, tmp_path)


def test_a_daemon_proves_who_it_is_and_checks_the_server(client: Client, server: Server) -> None:
    """Every connection is one of TLS with the certificate of the client."""
    daemon = Daemon(*client.arguments, cwd=client.folder)
    with urllib.request.urlopen(f"{daemon.base}search?type=agent") as answer:
        assert answer.status == 200
    found = server.database.execute(
        "select distinct ssl, version, client_dn from pg_stat_ssl join pg_stat_activity using (pid)"
        f" where usename = '{API_ROLE}'"
    )
    assert found == [(True, "TLSv1.3", f"/CN={API_ROLE}")]
    daemon.stop()


FAULTS: dict[str, tuple[dict[str, str], str]] = {
    "root certificate of another authority": (
        {"sslrootcert": "other.pem"},
        "certificate verify failed",
    ),
    "another name of the server": (
        {"host": "127.0.0.1"},
        'does not match host name "127.0.0.1"',
    ),
    "no certificate": (
        {"sslcert": "", "sslkey": ""},
        "connection requires a valid client certificate",
    ),
    "key that others can read": (
        {"sslkey": "open.key"},
        'private key file "FOLDER/open.key" has group or world access',
    ),
    "no TLS": ({"sslmode": "disable"}, "pg_hba.conf rejects connection"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_start_without_a_good_connection_says_why(client: Client, fault: str) -> None:
    changes, reason = FAULTS[fault]
    client.write("other.pem", OTHER.pem)
    client.write("open.key", (client.folder / "client.key").read_text())
    (client.folder / "open.key").chmod(0o644)
    client.keys |= changes
    line = client.fail_to_start()
    assert line.startswith("the database cannot be reached: ")
    assert reason.replace("FOLDER", str(client.folder)) in line


@pytest.mark.parametrize("key", ["sslrootcert", "sslcert", "sslkey"])
def test_a_file_that_is_missing_is_named_before_the_daemon_runs(client: Client, key: str) -> None:
    client.keys[key] = "missing.pem"
    status, output = run_program("mig-api", *client.arguments, cwd=client.folder)
    assert (status, output) == (
        1,
        f"mig-api: [postgres] {key}: the user {USER} cannot read {client.folder}/missing.pem:"
        " No such file or directory\n",
    )


def test_a_certificate_of_another_role_is_refused(client: Client) -> None:
    client.write_certificate(issue_certificate("postgres", AUTHORITY))
    assert f'certificate authentication failed for user "{API_ROLE}"' in client.fail_to_start()
