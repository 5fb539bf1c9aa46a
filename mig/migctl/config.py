"""``migctl config``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

import click

from mig.migctl.configuration import Configuration, find_config_file
from mig.migctl.exits import UsageError
from mig.migctl.options import service_options
from mig.migctl.terminal import is_interactive, print_notice

_MODE: Final = 0o600


@click.group()
def config() -> None:
    """Write the configuration."""


@config.command("init")
@click.option("--force", is_flag=True, help="Replace the file that is there.")
@service_options
def init_command(configuration: Configuration, force: bool) -> None:
    """Write ~/.config/mig/config.toml, which only you can read.

    On a terminal, it asks for what no option says; the defaults are those of ~/.migrc.
    """
    path = find_config_file()
    if path.exists() and not force:
        raise UsageError(f"{path} is there already", "edit it, or replace it with --force")
    if is_interactive():
        configuration = _ask(configuration)
    if not configuration.url:
        raise UsageError("the URL of the service is needed", "give --url")
    _write_private(path, format_toml(configuration))
    print_notice(f"wrote {path}", "try: migctl status")


def _ask(configuration: Configuration) -> Configuration:
    url = click.prompt("URL of the API", default=configuration.url, err=True)
    keyid = click.prompt(
        "Key of gpg that signs: a fingerprint or a user id (empty: none)",
        default=configuration.keyid or "",
        show_default=bool(configuration.keyid),
        err=True,
    )
    apikey = click.prompt(
        "API key, not shown (empty: none)",
        default=configuration.apikey or "",
        show_default=False,
        hide_input=True,
        err=True,
    )
    return configuration.override({"url": url, "keyid": keyid, "apikey": apikey})


def format_toml(configuration: Configuration) -> str:
    """Return the text of a file with this configuration."""
    sections: dict[str, dict[str, str | bool | None]] = {
        "api": {"url": configuration.url, "apikey": configuration.apikey},
        "gpg": {"home": configuration.home, "keyid": configuration.keyid},
    }
    if configuration.skipverifycert:
        sections["api"]["skipverifycert"] = True
    lines = []
    for section, values in sections.items():
        set_values = {name: value for name, value in values.items() if value}
        if set_values:
            lines.append(f"[{section}]")
            # a string of JSON is one of TOML, but for the pairs of escapes of one character
            lines += [
                f"{name} = {json.dumps(value, ensure_ascii=False)}"
                for name, value in set_values.items()
            ]
            lines.append("")
    return "\n".join(lines)


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}-{os.getpid()}")
    new.touch(mode=_MODE, exist_ok=False)
    new.write_text(text, "utf-8")
    new.rename(path)
