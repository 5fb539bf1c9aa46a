"""Single records, for people and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from mig.migctl.columns import format_moment
from mig.migctl.terminal import escape_json
from mig.values import escape_unprintable

if TYPE_CHECKING:
    from mig.client.records import Record

_INDENT: Final = "    "


def print_record(record: Record, format_name: str) -> None:
    """Print a record as ``text`` or as ``json``."""
    if format_name == "json":
        text = msgspec.json.format(msgspec.json.encode(record), indent=2).decode()
        click.echo(escape_json(text) if sys.stdout.isatty() else text)
        return
    print_fields(_list_fields(record))


def _list_fields(record: Record) -> dict[str, Any]:
    """Return what of a record is not empty, with what belongs to it under flat names."""
    fields: dict[str, Any] = {}
    for name, value in msgspec.structs.asdict(record).items():
        if name in ("action", "agent"):  # of a command
            fields |= {f"{name} id": value.id, f"{name} name": value.name}
        elif name == "permissions":
            fields[name] = ", ".join(each for each, may in value.items() if may) or None
        elif name == "investigators":
            fields["signed by"] = ", ".join(f"{each.name} ({each.id})" for each in value) or None
        elif name not in ("publickey", "pgpsignatures"):
            fields[name] = value
    return {name: value for name, value in fields.items() if value not in (None, "", {}, [])}


def print_fields(fields: Mapping[str, Any], *, on_stderr: bool = False) -> None:
    """Print names and values, on a line each; what has members follows as indented JSON."""
    is_terminal = (sys.stderr if on_stderr else sys.stdout).isatty()
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        title = click.style(f"{name:<{width}}", bold=True) if is_terminal else f"{name:<{width}}"
        click.echo(f"{title}  {_format_value(value)}", err=on_stderr)


def _format_value(value: Any) -> str:
    if isinstance(value, str):
        return escape_unprintable(format_moment(value) if _is_unset(value) else value)
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list) and all(map(_is_count, value)):
        lines = [f"{each['count']:>7}  {each['version']}" for each in value]
    else:
        lines = json.dumps(value, indent=2, ensure_ascii=False).splitlines()
    return "".join(f"\n{_INDENT}{escape_unprintable(line)}" for line in lines)


def _is_count(value: object) -> bool:
    """Return whether a value is how many agents of the dashboard have a version."""
    return isinstance(value, dict) and value.keys() == {"version", "count"}


def _is_unset(value: str) -> bool:
    return format_moment(value) == "-"
