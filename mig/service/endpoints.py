"""The texts that name listening sockets, written as Twisted writes server endpoints.

Arguments are separated by colons and given by position or as ``name=value``; a backslash precedes
a colon that belongs to a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mig.errors import ListenerError

DEFAULT_LISTENER: Final = "tcp:1664:interface=127.0.0.1"
ACCEPTED: Final = (
    "tcp:PORT:interface=IPV4, tcp6:PORT:interface=IPV6, unix:PATH:mode=660,"
    " systemd:domain=INET:index=0 or fd:NUMBER"
)
ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "interface", "backlog"),
    "unix": ("address", "mode", "backlog", "lockfile"),
    "systemd": ("domain", "index", "name"),
    "fd": ("number", "domain"),
}
"""The names of each kind's arguments, in the order of their positions."""

_TOKEN = re.compile(r"\\(.)|([:=])|([^\\:=]+)", re.DOTALL)


def parse(text: str) -> tuple[str, Mapping[str, str]]:
    """The kind and the named arguments of an endpoint text.

    :raises ListenerError: for a text of another form.
    """
    (kind, *values), named = _pieces(text)
    if kind not in ARGUMENTS:
        raise ListenerError(f"{text!r} is no listener; accepted is {ACCEPTED}")
    names = ARGUMENTS[kind]
    positional = dict(zip(names, values, strict=False))
    if len(values) > len(names) or set(named) - set(names) or set(named) & set(positional):
        raise ListenerError(f"{text!r} is no listener; {kind} takes {', '.join(names)}, each once")
    return kind, positional | named


def _pieces(text: str) -> tuple[list[str], dict[str, str]]:
    positional: list[str] = []
    named: dict[str, str] = {}
    name, value = None, ""
    for escaped, operator, plain in _TOKEN.findall(text + ":"):
        if operator == ":":
            if name is None:
                positional.append(value)
            elif name in named:
                raise ListenerError(f"{text!r} is no listener; it gives {name} twice")
            else:
                named[name] = value
            name, value = None, ""
        elif operator == "=" and name is None:
            name, value = value, ""
        else:
            value += escaped or operator or plain
    if name is not None or value:
        raise ListenerError(f"{text!r} is no listener; it ends with a backslash")
    return positional or [""], named


def parse_number(name: str, text: str, highest: int) -> int:
    """Parse the argument *name*, a whole number up to *highest*.

    :raises ValueError: for anything else.
    """
    if not re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) or int(text) > highest:
        raise ValueError(f"{name} must be a whole number from 0 to {highest}")
    return int(text)
