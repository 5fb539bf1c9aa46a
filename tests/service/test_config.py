"""``api.cfg`` accepts existing files and the sample, and reports every fault at once."""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest
from psycopg2.extensions import parse_dsn

from mig.errors import ConfigError
from mig.service.config_file import (
    SECTIONS,
    Admin,
    Authentication,
    Config,
    Directories,
    Logging,
    Maxmind,
    Postgres,
    Scheduler,
    Server,
    parse_config,
    read_config_file,
)
from mig.service.endpoints import parse_endpoint

SAMPLE = Path(__file__).parents[2] / "etc" / "api.cfg"

OF_2014 = """\
; as MIG's first sample
[server]
    ip = "127.0.0.1"
\tport = 12345
        host = "http://localhost:12345"
    baseroute = "/api/v1/"
[pgp]
    pubring = "/var/cache/mig/.gnupg/pubring.gpg"
[directories]
    spool = "/var/cache/mig/"
    tmp = "/var/tmp/"
[postgres]
    dbname = "mig"
    user = mig-scheduler
    password = "12;34#56\\"%(x)s"
    sslmode = "disable"
    maxconn = 10
[logging]
    mode = "stdout" ; stdout | file | syslog
    level = "notice"
; for file logging
;   file = "mig_scheduler.log"
"""


def collect_faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as told:
        parse_config(text)
    assert "\n" not in str(told.value)
    return str(told.value).split("; ")


def test_the_sample_holds_every_key_with_its_default() -> None:
    """A key without a default has an example."""
    assert parse_config(SAMPLE.read_text()) == Config(
        server=Server(ip="127.0.0.1", port=1664, host="http://localhost:1664"),
        postgres=Postgres(
            host="127.0.0.1",
            port=5432,
            dbname="mig",
            user="migapi",
            password="123456",
            sslmode="disable",
        ),
        directories=Directories(spool=Path("/var/cache/mig")),
        scheduler=Scheduler(handoff="spool"),
        logging=Logging(file=Path("/var/log/mig-api/api.log")),
        authentication=Authentication(enabled=True),
        admin=Admin(listen="tcp:1665:interface=127.0.0.1"),
        maxmind=Maxmind(path=Path("/var/lib/mig/GeoLite2-City.mmdb")),
        ineffective_keys=(
            "[manifest] requiredsignatures",
            "[maxmind] path",
        ),
    )


def test_the_sample_has_examples_for_the_keys_of_tls() -> None:
    """They are comments, so that the sample needs no files."""
    sample = SAMPLE.read_text()
    config = parse_config(re.sub(r"^    ;(\w+ = )", r"\1", sample, flags=re.MULTILINE))
    assert (config.server.tlscert, config.server.tlskey) == (
        Path("/etc/mig/tls.pem"),
        Path("/etc/mig/tls.key"),
    )
    assert (config.postgres.sslrootcert, config.postgres.sslcert, config.postgres.sslkey) == (
        "/etc/mig/postgres-ca.pem",
        Path("/etc/mig/migapi.pem"),
        Path("/etc/mig/migapi.key"),
    )
    for name, section in SECTIONS.items():
        for key in fields(section):
            if name == "limits" and key.name not in ("rate", "burst", "streams", "loopback"):
                continue  # docs/limits.md has all of them
            assert re.search(rf"^    ;?{key.name} = ", sample, re.MULTILINE), key.name


def test_an_existing_2014_file_is_accepted_unchanged() -> None:
    """Keys may be indented and quoted, and there may be comments and keys that are ignored."""
    config = parse_config(OF_2014.replace("\n", "\r\n"))
    assert config.server.endpoint == "tcp:12345:interface=127.0.0.1"
    assert (config.server.host, config.server.baseroute) == ("http://localhost:12345", "/api/v1")
    assert config.postgres.dsn is not None
    assert parse_dsn(config.postgres.dsn) == {
        "dbname": "mig",
        "user": "mig-scheduler",
        "password": '12;34#56"%(x)s',
        "sslmode": "disable",
    }
    assert config.logging == Logging(level="info")
    assert config.ineffective_keys == (
        "[pgp] pubring",
        "[directories] tmp",
        "[postgres] maxconn",
    )


def test_an_empty_file_is_enough() -> None:
    assert parse_config("") == Config()
    assert parse_config("[postgres]\n[Server]\n") == Config()
    assert Config().postgres.dsn is None and Config().server.endpoint is None


@pytest.mark.parametrize("mode", [0o644, 0o640])
@pytest.mark.parametrize("text", ["[postgres]\npassword = hunter2\n", "[postgres]\nport = 1\n"])
def test_a_password_that_everyone_can_read_is_noticed(mode: int, text: str, tmp_path: Path) -> None:
    file = tmp_path / "api.cfg"
    file.write_text(text)
    file.chmod(mode)
    assert read_config_file(file).exposes_password == ("hunter2" in text and mode == 0o644)


def test_files_of_postgres_are_passed_to_libpq_as_absolute_paths() -> None:
    """The word system is libpq's own, for the certificates of the host."""
    config = parse_config("[postgres]\nsslrootcert = ca.pem\nsslcert = c.pem\nsslkey = /k")
    assert config.postgres.dsn is not None
    assert parse_dsn(config.postgres.dsn) == {
        "sslrootcert": str(Path("ca.pem").absolute()),
        "sslcert": str(Path("c.pem").absolute()),
        "sslkey": "/k",
    }
    config = parse_config("[postgres]\nsslrootcert = system")
    assert config.postgres.dsn == "sslrootcert=system"


def test_a_password_is_never_shown() -> None:
    config = parse_config("[postgres]\nuser = u\npassword = hunter2")
    assert "hunter2" not in repr(config)
    assert "hunter2" not in str(collect_faults("[postgres]\npassword = hunter2\nport = hunter2"))
    assert "hunter2" not in str(collect_faults("[postgres]\npassword hunter2"))
    assert "hunter2" not in str(collect_faults('[postgres]\npassword = "hunter2'))


def test_all_faults_are_reported_at_once() -> None:
    text = """
[server]
ip = example.net
prot = 80
port = 99999
host = http://mig.example.net/api
baseroute = api
clientpublicip = header
[sever]
port = 1
[postgres]
port = 0
sslmode = on
[logging]
mode = file
level = loud
[authentication]
enabled = maybe
tokenduration = 10
[manifest]
requiredsignatures = 0
no sense
[maxmind]
path = "open
"""
    assert collect_faults(text) == [
        'line 24 has an unclosed " or ends with a backslash',
        "line 22 is neither [section] nor key = value",
        "[server] ip must be an IP address, for example 127.0.0.1 or ::1",
        "[server] prot is not a key: did you mean port?",
        "[server] port must be a whole number from 1 to 65535",
        "[server] host must be http://NAME or https://NAME, with or without :PORT, and no path",
        "[server] baseroute must be a path such as /api/v1, made of letters, digits and . _ ~ -",
        "[server] clientpublicip must be peer or x-forwarded-for:NUMBER",
        "[sever] is not a section: did you mean server?",
        "[postgres] port must be a whole number from 1 to 65535",
        "[postgres] sslmode must be disable, allow, prefer, require, verify-ca or verify-full",
        "[logging] level must be debug, info, warning, error or critical",
        "[authentication] enabled must be on or off",
        "[authentication] tokenduration must be a duration such as 10m, 90d or 1h30m",
        "[manifest] requiredsignatures must be a whole number from 1 to 1000",
        "[logging] file must be set when mode is file",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("port = 1", "line 1 comes before the first [section]"),
        ("[server\nport = 1\n[server]", "line 1 comes before the first [section]"),
        ("[DEFAULT]\nport = 1", "[DEFAULT] is not a section: it must be server, "),
        ("[pgp]\nkey = 1", "[pgp] key is not a key: it must be pubring"),
        ("[logging]\nfile = a\\b", "[logging] file must be written with \\\\ for a backslash"),
        ("[logging]\nfile =", "[logging] file must be one line of text, not empty"),
        ("[logging]\nmode = syslog\nprotocol = tcp", "[logging] protocol must be udp or unix"),
        ("[server]\nport = ٣", "[server] port must be"),
        ("[server]\nbaseroute = /a/../b", "[server] baseroute must be"),
        ("[server]\ntlskey = /k", "[server] tlscert must be set when tlskey is"),
        ("[postgres]\nsslkey =", "[postgres] sslkey must be one line of text, not empty"),
        ("[server]\nbaseroute = //", ""),
    ],
)
def test_a_fault_names_its_place_and_what_is_accepted(text: str, fault: str) -> None:
    if fault:
        assert collect_faults(text)[0].startswith(fault)
    else:
        assert parse_config(text).server.baseroute == ""


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:1664",
        "https://mig.example.net",
        "http://10.0.0.1:80",
        "https://[2001:db8::1]:8443",
        "http://mig_api",
    ],
)
def test_a_public_url_is_read_without_its_trailing_slash(url: str) -> None:
    assert parse_config(f'[server]\nhost = "{url}/"').server.host == url


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:1664", "ftp://x", "HTTP://x", "http://", "http://a..b", "http://x:0"),
        *("http://x:65536", "http://u:p@x", "http://x/api", "http://x//", "http://x?y"),
        *("http://x y", "http://x'", 'http://x\\"', "http://[1.2.3.4]", "http://[::1", "http://ä"),
    ],
)
def test_a_malformed_public_url_is_refused(url: str) -> None:
    [told] = collect_faults(f'[server]\nhost = "{url}"')
    assert told.startswith("[server] host must be http://NAME or https://NAME")


@pytest.mark.parametrize(
    ("keys", "listener"),
    [
        ("ip = 127.0.0.9", "tcp:1664:interface=127.0.0.9"),
        ("port = 80", "tcp:80:interface=127.0.0.1"),
        ("ip = localhost", "tcp:1664:interface=127.0.0.1"),
        ('ip = "::1"\nport = 80', "tcp6:80:interface=\\:\\:1"),
        ('ip = "[::1]"', "tcp6:1664:interface=\\:\\:1"),
        ("tlscert = /c", "ssl:1664:interface=127.0.0.1:certKey=/c:privateKey=/c"),
        (
            'ip = ::1\ntlscert = "/a:\\\\b"\ntlskey = /k',
            "ssl:1664:interface=\\:\\:1:certKey=/a\\:\\\\b:privateKey=/k",
        ),
    ],
)
def test_ip_and_port_make_a_listener(keys: str, listener: str) -> None:
    server = parse_config(f"[server]\n{keys}").server
    assert server.endpoint == listener
    files = parse_endpoint(listener).certificate_files
    assert (files and files.certificate) == server.tlscert


@pytest.mark.parametrize(
    ("text", "seconds"), [("10m", 600), ("600s", 600), ("1h", 3600), ("1h30m5s", 5405)]
)
def test_a_duration_is_read_in_hours_minutes_and_seconds(text: str, seconds: int) -> None:
    config = parse_config(f"[authentication]\nenabled = OFF\ntokenduration = {text}")
    assert config.authentication.tokenduration == timedelta(seconds=seconds)


def test_an_unreadable_file_is_reported_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "api.cfg"
    with pytest.raises(ConfigError, match=f"^cannot read {file}: No such file or directory$"):
        read_config_file(file)
    file.write_bytes(b"[server]\nhost = \xff")
    with pytest.raises(ConfigError, match=r"the file is not UTF-8$"):
        read_config_file(file)
    file.write_bytes(b"\xef\xbb\xbf[server]\nport = 1")
    assert read_config_file(file).server.port == 1
