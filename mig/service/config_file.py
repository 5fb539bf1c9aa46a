"""The configuration file of the API, the ``api.cfg`` that MIG has always had.

Each dataclass is a section and each field a key, whose metadata names the function of
:mod:`mig.service.config_values` that parses its text. Those of limits are parsed by
:mod:`mig.service.limit_values`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from configparser import ConfigParser, ParsingError
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from psycopg2.extensions import make_dsn

from mig.access.clientaddress import TrustedProxies, parse_trusted_proxies
from mig.errors import ConfigError
from mig.limits import Limits
from mig.service.config_values import (
    DEFAULT_IP,
    join_choices,
    make_choice_parser,
    make_integer_parser,
    parse_base_route,
    parse_boolean,
    parse_client_ip_source,
    parse_ip,
    parse_level,
    parse_path,
    parse_public_url,
    parse_root_certificate,
    parse_secret,
    parse_text,
)
from mig.service.endpoints import quote_argument
from mig.service.limit_values import LIMITS_SECTION, parse_limit
from mig.values import parse_duration, suggest_name

DEFAULT_PORT: Final = 1664
DEFAULT_BASEROUTE: Final = "/api/v1"

_BEFORE_COMMENT = re.compile(r'(?:"(?:\\.|[^"\\])*"|\\.|[^"\\;#])*')
_SECTION_HEADER = re.compile(r"\[.+\]")
_QUOTE_OR_ESCAPE = re.compile(r'\\([\\"])|"')
_KNOWN_ESCAPES = re.compile(r'(?:\\[\\"]|[^\\])*')
_OBSOLETE_KEYS: Final = {
    ("pgp", "pubring"),
    ("postgres", "maxconn"),
    ("logging", "maxfilesize"),
    ("logging", "facility"),
    ("directories", "tmp"),
}
"""Keys of older files that this program accepts and ignores."""
_RESERVED_KEYS: Final = {
    ("manifest", "requiredsignatures"),
    ("maxmind", "path"),
}
"""Keys that are checked, but belong to a part that does not exist yet."""
_LIMITS_ELSEWHERE: Final = {
    ("server", "actionsize"): "action_body_bytes",
    ("server", "keysize"): "key_body_bytes",
    ("server", "grace"): "grace_seconds",
}
"""Keys of another section that set a limit: those of older files, and the one for a stop."""


def _with_parser(
    parser: Callable[[str], object], *, is_reloaded: bool = False
) -> Mapping[str, object]:
    """Return the metadata of a field whose text ``parser`` parses.

    :param is_reloaded: whether a new value has an effect while the daemon runs.
    """
    return {"parser": parser, "is_reloaded": is_reloaded}


@dataclass(frozen=True, kw_only=True)
class Server:
    """The listening address, its certificate, and the URL that clients use.

    ``ip`` and ``port`` are ``None`` when the file does not set them. With ``tlscert`` the listener
    has TLS; the key is in ``tlskey``, or else in the same file. ``cleartext`` is whether listeners
    that other machines can reach may be without TLS. ``clientpublicip`` is the entry of
    X-Forwarded-For that names the client, counted from the end; ``None`` means the peer's address.
    """

    ip: str | None = field(default=None, metadata=_with_parser(parse_ip))
    port: int | None = field(default=None, metadata=_with_parser(make_integer_parser(1, 65535)))
    tlscert: Path | None = field(default=None, metadata=_with_parser(parse_path))
    tlskey: Path | None = field(default=None, metadata=_with_parser(parse_path))
    cleartext: bool = field(default=False, metadata=_with_parser(parse_boolean))
    host: str | None = field(default=None, metadata=_with_parser(parse_public_url))
    baseroute: str = field(default=DEFAULT_BASEROUTE, metadata=_with_parser(parse_base_route))
    clientpublicip: int | None = field(default=None, metadata=_with_parser(parse_client_ip_source))
    trustedproxies: TrustedProxies = field(
        default=TrustedProxies(), metadata=_with_parser(parse_trusted_proxies)
    )

    @property
    def endpoint(self) -> str | None:
        """The endpoint text of the listener; ``None`` when no key of it is set."""
        if self.ip is None and self.port is None and self.tlscert is None:
            return None
        ip, port = self.ip or DEFAULT_IP, self.port or DEFAULT_PORT
        address = f"{port}:interface={quote_argument(ip)}"
        if self.tlscert is not None:
            certificate, key = (
                quote_argument(str(path)) for path in (self.tlscert, self.tlskey or self.tlscert)
            )
            return f"ssl:{address}:certKey={certificate}:privateKey={key}"
        return f"tcp6:{address}" if ":" in ip else f"tcp:{address}"


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """The database; libpq and its environment decide about what is ``None``.

    libpq reads the files of ``sslrootcert``, ``sslcert`` and ``sslkey`` for each connection.
    """

    host: str | None = field(default=None, metadata=_with_parser(parse_text))
    port: int | None = field(default=None, metadata=_with_parser(make_integer_parser(1, 65535)))
    dbname: str | None = field(default=None, metadata=_with_parser(parse_text))
    user: str | None = field(default=None, metadata=_with_parser(parse_text))
    password: str | None = field(default=None, repr=False, metadata=_with_parser(parse_secret))
    sslmode: str | None = field(
        default=None,
        metadata=_with_parser(
            make_choice_parser("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
        ),
    )
    sslrootcert: str | None = field(default=None, metadata=_with_parser(parse_root_certificate))
    sslcert: Path | None = field(default=None, metadata=_with_parser(parse_path))
    sslkey: Path | None = field(default=None, metadata=_with_parser(parse_path))

    @property
    def dsn(self) -> str | None:
        """The connection string; ``None`` when the section sets nothing."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return make_dsn(**{name: str(v) for name, v in values.items() if v is not None}) or None


@dataclass(frozen=True, kw_only=True)
class Directories:
    """The folder in which the scheduler finds actions."""

    spool: Path | None = field(default=None, metadata=_with_parser(parse_path))


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """The hand-off of actions to the scheduler: its spool, the database, or none.

    ``None`` leaves the choice to the other settings and the database.
    """

    handoff: str | None = field(
        default=None, metadata=_with_parser(make_choice_parser("spool", "database", "none"))
    )


@dataclass(frozen=True, kw_only=True)
class Logging:
    """The destination of the log, and whether its lines are text or JSON.

    ``host`` and ``port`` are those of a syslog server.

    ``heartbeat`` is whether successful ``GET /heartbeat`` and ``/readyz`` are logged, too.
    """

    mode: str = field(
        default="stdout", metadata=_with_parser(make_choice_parser("stdout", "file", "syslog"))
    )
    level: str = field(default="info", metadata=_with_parser(parse_level))
    format: str = field(
        default="text",
        metadata=_with_parser(make_choice_parser("text", "json"), is_reloaded=True),
    )
    file: Path | None = field(default=None, metadata=_with_parser(parse_path))
    host: str = field(default="localhost", metadata=_with_parser(parse_text))
    port: int = field(default=514, metadata=_with_parser(make_integer_parser(1, 65535)))
    protocol: str = field(
        default="udp", metadata=_with_parser(make_choice_parser("udp", "tcp", "unix"))
    )
    heartbeat: bool = field(default=False, metadata=_with_parser(parse_boolean))


@dataclass(frozen=True, kw_only=True)
class Authentication:
    """Whether callers need credentials, and how long a token is valid.

    When ``enabled`` is ``None``, the listeners decide.
    """

    enabled: bool | None = field(default=None, metadata=_with_parser(parse_boolean))
    tokenduration: timedelta = field(
        default=timedelta(minutes=10), metadata=_with_parser(parse_duration)
    )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The number of investigators who must sign a manifest."""

    requiredsignatures: int = field(default=1, metadata=_with_parser(make_integer_parser(1, 1000)))


@dataclass(frozen=True, kw_only=True)
class Admin:
    """The listener on which operators ask for health and metrics; without one, nobody can."""

    listen: str | None = field(default=None, metadata=_with_parser(parse_text))


@dataclass(frozen=True, kw_only=True)
class Maxmind:
    """The database that maps addresses to places."""

    path: Path | None = field(default=None, metadata=_with_parser(parse_path))


@dataclass(frozen=True, kw_only=True)
class Config:
    """All sections of a configuration file.

    ``ineffective_keys`` names the keys in the file that have no effect yet, or no longer have one.
    ``exposes_password`` is whether it has a password, and everyone can read it.
    """

    server: Server = Server()
    postgres: Postgres = Postgres()
    directories: Directories = Directories()
    scheduler: Scheduler = Scheduler()
    logging: Logging = Logging()
    authentication: Authentication = Authentication()
    admin: Admin = Admin()
    manifest: Manifest = Manifest()
    maxmind: Maxmind = Maxmind()
    limits: Limits = field(default_factory=Limits)
    ineffective_keys: tuple[str, ...] = ()
    exposes_password: bool = False


SECTIONS: Final[Mapping[str, type[Any]]] = {
    "server": Server,
    "postgres": Postgres,
    "directories": Directories,
    "scheduler": Scheduler,
    "logging": Logging,
    "authentication": Authentication,
    "admin": Admin,
    "manifest": Manifest,
    "maxmind": Maxmind,
    LIMITS_SECTION: Limits,
}


def read_config_file(path: Path) -> Config:
    """Return the configuration in a file.

    :raises ConfigError: when the file cannot be read, or with everything that is wrong in it.
    """
    config, faults = inspect_config_file(path)
    if faults:
        raise ConfigError(faults)
    return config


def inspect_config_file(path: Path) -> tuple[Config, str]:
    """Return what is right in a configuration file, and a line with everything that is wrong."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            config, faults = _parse_config(file.read())
            is_public = bool(os.fstat(file.fileno()).st_mode & stat.S_IROTH)
    except OSError as reason:
        return Config(), f"cannot read {path}: {reason.strerror}"
    except UnicodeDecodeError:
        return Config(), f"{path}: the file is not UTF-8"
    exposes_password = is_public and bool(config.postgres.password)
    return replace(config, exposes_password=exposes_password), faults and f"{path}: {faults}"


def parse_config(text: str) -> Config:
    """Return the configuration in the text of a file. Of a repeated key the last value counts.

    :raises ConfigError: with everything that is wrong in it, joined by ``; ``.
    """
    config, faults = _parse_config(text)
    if faults:
        raise ConfigError(faults)
    return config


def _parse_config(text: str) -> tuple[Config, str]:
    """Return the configuration that is right in a text, and everything that is wrong."""
    faults: list[str] = []
    parser = _load_parser(text, faults)
    values: dict[str, dict[str, object]] = {name: {} for name in SECTIONS}
    ineffective_keys = []
    for section, key, raw in _iterate_keys(parser, faults):
        if (section, key) in _OBSOLETE_KEYS | _RESERVED_KEYS:
            ineffective_keys.append(f"[{section}] {key}")
        if (section, key) in _OBSOLETE_KEYS:
            continue
        limit = _LIMITS_ELSEWHERE.get((section, key))
        try:
            value = _parse_value(section, key, raw, limit)
        except ValueError as fault:
            faults.append(str(fault))
        else:
            values[LIMITS_SECTION if limit else section][limit or key] = value
    faults.extend(_check_combinations(values))
    sections = {name: kind(**values[name]) for name, kind in SECTIONS.items()}
    config = Config(**sections, ineffective_keys=tuple(dict.fromkeys(ineffective_keys)))
    return config, "; ".join(dict.fromkeys(faults))


def list_changes(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Return the names of the keys whose values differ.

    :returns: those that have an effect while the daemon runs, and those that need a new start.
    """
    reloaded: list[str] = []
    others: list[str] = []
    for section, kind in SECTIONS.items():
        before, after = getattr(old, section), getattr(new, section)
        for key in fields(kind):
            if getattr(before, key.name) != getattr(after, key.name):
                names = reloaded if key.metadata["is_reloaded"] else others
                names.append(f"[{section}] {key.name}")
    return reloaded, others


def _load_parser(text: str, faults: list[str]) -> ConfigParser:
    """Parse the lines of a file; those that cannot be parsed are added to ``faults``."""
    parser = ConfigParser(
        interpolation=None,
        strict=False,  # files repeat sections and keys
        delimiters=("=",),
        comment_prefixes=(),  # _strip_comments knows quotes, configparser does not
        empty_lines_in_values=False,
        default_section="",  # no header can name it: [DEFAULT] is an unknown section
    )
    try:
        parser.read_string("\n".join(_strip_comments(text, faults)))
    except ParsingError as reason:
        faults.extend(f"line {n} is neither [section] nor key = value" for n, _ in reason.errors)
    return parser


def _strip_comments(text: str, faults: list[str]) -> Iterator[str]:
    """Generate the lines without comments and indentation.

    A quote or an escape that does not end on its line, and a line before the first section, are
    added to ``faults``.
    """
    # configparser would join an indented line with the one before: docs/decisions/0039
    in_section = False
    for number, line in enumerate(text.split("\n"), 1):
        match = _BEFORE_COMMENT.match(line)
        content = match[0] if match else ""
        if line[len(content) :].startswith(('"', "\\")):
            faults.append(f'line {number} has an unclosed " or ends with a backslash')
            content = ""
        content = content.strip()
        in_section = in_section or bool(_SECTION_HEADER.match(content))
        if content and not in_section:
            faults.append(f"line {number} comes before the first [section]")
            content = ""
        yield content


def _iterate_keys(parser: ConfigParser, faults: list[str]) -> Iterator[tuple[str, str, str]]:
    """Generate section, key and raw value of each key; other sections are ``faults``."""
    known = {*SECTIONS, *(section for section, _ in _OBSOLETE_KEYS)}
    for name in parser.sections():
        section = name.strip().lower()
        if section in known:
            yield from ((section, key, raw) for key, raw in parser.items(name))
        else:
            faults.append(
                f"[{_escape_name(name)}] is not a section: {_suggest_names(section, SECTIONS)}"
            )


def _parse_value(section: str, key: str, raw: str, limit: str | None) -> object:
    """Return the value of a key; ``limit`` is the one that an older key sets."""
    keys = {f.name: f for f in fields(SECTIONS[section])} if section in SECTIONS else {}
    if key not in keys and limit is None:
        raise ValueError(
            f"[{section}] {_escape_name(key)} is not a key: {_suggest_keys(section, key, keys)}"
        )
    try:
        text = _unquote(raw)
        if section == LIMITS_SECTION or limit is not None:
            return parse_limit(limit or key, text)
        parse: Callable[[str], object] = keys[key].metadata["parser"]
        return parse(text)
    except ValueError as accepted:
        raise ValueError(f"[{section}] {key} must be {accepted}") from None


def _unquote(raw: str) -> str:
    if not _KNOWN_ESCAPES.fullmatch(raw):
        raise ValueError('written with \\\\ for a backslash and \\" for a quote')
    return _QUOTE_OR_ESCAPE.sub(lambda match: match[1] or "", raw)


def _check_combinations(values: Mapping[str, Mapping[str, object]]) -> Iterator[str]:
    """Generate the faults of keys that are valid each on its own, but not together."""
    server, logging = values["server"], values["logging"]
    if "tlskey" in server and "tlscert" not in server:
        yield "[server] tlscert must be set when tlskey is"
    if logging.get("mode") == "file" and "file" not in logging:
        yield "[logging] file must be set when mode is file"
    if logging.get("mode") == "syslog" and logging.get("protocol") == "tcp":
        yield (
            "[logging] protocol must be udp or unix: with tcp, a log server that does not answer"
            " would stop the service"
        )


def _suggest_keys(section: str, key: str, keys: Iterable[str]) -> str:
    if section == LIMITS_SECTION:
        return suggest_name(key, list(keys), "docs/limits.md lists all of them")
    return _suggest_names(
        key, sorted([*keys, *(name for of, name in _OBSOLETE_KEYS if of == section)])
    )


def _suggest_names(name: str, known: Iterable[str]) -> str:
    names = list(known)
    return suggest_name(name, names, f"it must be {join_choices(names)}")


def _escape_name(name: str) -> str:
    """Return a name from the file in a form that is safe in a message: short, ASCII, one line."""
    return ascii(name[:40])[1:-1]  # without the quotes that ascii() adds
