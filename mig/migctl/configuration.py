"""The configuration: two files, then the environment, then options; the later one wins."""

from __future__ import annotations

import configparser
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

from mig.migctl.exits import UsageError

Value = TypeVar("Value")

URL_VARIABLE: Final = "MIG_URL"
API_KEY_VARIABLE: Final = "MIG_API_KEY"

_OTHERS: Final = 0o077
_TRUE: Final = ("true", "on", "yes", "1")
_FALSE: Final = ("false", "off", "no", "0", "")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Where the service is, and who calls it.

    ``apikey`` identifies the caller; without one, tokens do that the key ``keyid`` of gpg signs.
    ``home`` is gpg's home folder, by default the user's own.
    """

    url: str | None = None
    apikey: str | None = None
    skipverifycert: bool = False
    home: str | None = None
    keyid: str | None = None

    def override(self, later: Mapping[str, str | bool | None]) -> Configuration:
        """Return the configuration with those values of ``later`` that are set."""
        values: dict[str, Any] = {k: value for k, value in later.items() if value is not None}
        return replace(self, **values)


_SECTIONS: Final[Mapping[str, Mapping[str, type]]] = {
    "api": {"url": str, "apikey": str, "skipverifycert": bool},
    "gpg": {"home": str, "keyid": str},
}
"""The keys of the file, by section; those of ``~/.migrc`` have the same names."""


def find_config_file() -> Path:
    """Return the path of the configuration, which need not exist."""
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "mig" / "config.toml"


def find_original_file() -> Path:
    """Return the path of the configuration of the original client."""
    return Path.home() / ".migrc"


def load_configuration(options: Mapping[str, str | bool | None]) -> Configuration:
    """Return the configuration of files, environment and options.

    :raises UsageError: when a file cannot be read, or others can read an API key.
    """
    environment = {
        "url": os.environ.get(URL_VARIABLE) or None,
        "apikey": os.environ.get(API_KEY_VARIABLE) or None,
    }
    configuration = Configuration().override(read_original_file(find_original_file()))
    configuration = configuration.override(read_config_file(find_config_file()))
    return configuration.override(environment).override(options)


def read_config_file(path: Path) -> dict[str, str | bool]:
    """Return the values in the file ``path``; none when there is no such file.

    :raises UsageError: when it has something else, or others can read an API key in it.
    """
    text = _read_text(path)
    if text is None:
        return {}
    try:
        sections = tomllib.loads(text)
    except tomllib.TOMLDecodeError as reason:
        raise UsageError(f"{path} is not TOML: {reason}") from None
    values: dict[str, str | bool] = {}
    for section, members in sections.items():
        known = _get_known(path, "section", section, _SECTIONS)
        if not isinstance(members, dict):
            raise UsageError(f"{path}: {section} must be a section, [{section}]")
        for name, value in members.items():
            kind = _get_known(path, f"key of [{section}]", name, known)
            if not isinstance(value, str | bool) or type(value) is not kind:
                accepted = "true or false" if kind is bool else "a string"
                raise UsageError(f"{path}: {name} must be {accepted}, not {value!r}")
            values[name] = value
    if "apikey" in values:
        check_private(path)
    return _expand_home(values)


def read_original_file(path: Path) -> dict[str, str | bool]:
    """Return the values in ``~/.migrc`` that are known here; it may have others.

    :raises UsageError: when it is not such a file, or others can read an API key in it.
    """
    text = _read_text(path)
    if text is None:
        return {}
    parser = configparser.RawConfigParser(allow_no_value=True, strict=False)
    try:
        # an indented line would continue the one before it
        parser.read_string("\n".join(line.strip() for line in text.splitlines()), str(path))
    except configparser.Error as reason:
        raise UsageError(" ".join(str(reason).split())) from None
    values: dict[str, str | bool] = {}
    for section, keys in _SECTIONS.items():
        for name, value in parser.items(section) if parser.has_section(section) else ():
            if name in keys:
                text = (value or "").strip().strip('"')
                values[name] = _parse_flag(path, name, text) if keys[name] is bool else text
    if "apikey" in values:
        check_private(path)
    return _expand_home(values)


def check_private(path: Path) -> None:
    """Check that nobody else can read the file ``path``.

    :raises UsageError: when somebody can.
    """
    if path.stat().st_mode & _OTHERS:
        raise UsageError(f"others can read the API key in {path}", f"chmod 600 {path}")


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as reason:
        raise UsageError(f"{path} cannot be read: {reason}") from None


def _get_known(path: Path, what: str, name: str, known: Mapping[str, Value]) -> Value:
    if name in known:
        return known[name]
    near = get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    raise UsageError(f"{path}: {name} is not a {what}", hint)


def _parse_flag(path: Path, name: str, text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise UsageError(f"{path}: {name} must be on or off, not {text!r}")
    return text.lower() in _TRUE


def _expand_home(values: dict[str, str | bool]) -> dict[str, str | bool]:
    if "home" in values:
        values["home"] = str(Path(str(values["home"])).expanduser())
    return values
