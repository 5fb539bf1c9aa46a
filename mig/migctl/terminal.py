"""The terminal: notices, and the consoles of rich, which nothing else uses in a pipe."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from rich.console import Console

STYLES: Final = {
    "success": "green",
    "completed": "green",
    "active": "green",
    "online": "green",
    "heartbeating": "green",
    "compliant": "green",
    "yes": "green",
    "failed": "red",
    "timeout": "red",
    "expired": "red",
    "cancelled": "red",
    "invalid": "red",
    "disabled": "red",
    "not compliant": "red",
    "no": "red",
    "inflight": "yellow",
    "sent": "yellow",
    "prepared": "yellow",
    "idle": "yellow",
}
"""The colour of each status."""


def print_notice(text: str, hint: str = "") -> None:
    """Print a line on standard error, and a hint on another one."""
    from mig.values import escape_unprintable

    click.echo(f"migctl: {escape_unprintable(text)}", err=True)
    if hint:
        click.echo(f"hint: {escape_unprintable(hint)}", err=True)


def escape_json(text: str) -> str:
    """Return the same JSON, with an escape for each character that is not visible."""
    if text.isprintable():
        return text
    # between the tokens there are only spaces and line feeds
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def is_interactive() -> bool:
    """Return whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def make_console(*, on_stderr: bool = False) -> Console:
    """Return the console of standard output, or of standard error."""
    from rich.console import Console

    return Console(stderr=on_stderr, highlight=False, markup=False, emoji=False)
