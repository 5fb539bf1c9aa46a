"""The texts that name listening sockets, in the syntax of Twisted's server endpoints.

Colons separate the arguments, which are positional or written ``name=value``; a backslash escapes
a colon inside a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mig.errors import ListenerError

DEFAULT_ENDPOINT: Final = "tcp:1664:interface=127.0.0.1"
ACCEPTED_FORMS: Final = (
    "tcp:PORT:interface=IPV4, tcp6:PORT:interface=IPV6, unix:PATH:mode=660,"
    " systemd:domain=INET:index=0 or fd:NUMBER"
)
ARGUMENT_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "interface", "backlog"),
    "unix": ("address", "mode", "backlog", "lockfile"),
    "systemd": ("domain", "index", "name"),
    "fd": ("number", "domain"),
}
"""The names of each kind's arguments, in the order of their positions."""

_TOKEN = re.compile(r"\\(.)|([:=])|([^\\:=]+)", re.DOTALL)


def parse_endpoint(text: str) -> tuple[str, Mapping[str, str]]:
    """Return the kind and the named arguments of an endpoint text.

    :raises ListenerError: for text of another form.
    """
    (kind, *values), named = _split_arguments(text)
    if kind not in ARGUMENT_NAMES:
        raise ListenerError(f"{text!r} is not a listener; accepted are {ACCEPTED_FORMS}")
    names = ARGUMENT_NAMES[kind]
    positional = dict(zip(names, values, strict=False))
    if len(values) > len(names) or set(named) - set(names) or set(named) & set(positional):
        raise ListenerError(
            f"{text!r} is not a listener; {kind} takes {', '.join(names)}, each at most once"
        )
    return kind, positional | named


def _split_arguments(text: str) -> tuple[list[str], dict[str, str]]:
    positional: list[str] = []
    named: dict[str, str] = {}
    name, value = None, ""
    for escaped, operator, plain in _TOKEN.findall(text + ":"):  # a colon ends each argument
        if operator == ":":
            if name is None:
                positional.append(value)
            elif name in named:
                raise ListenerError(f"{text!r} is not a listener; it sets {name} twice")
            else:
                named[name] = value
            name, value = None, ""
        elif operator == "=" and name is None:
            name, value = value, ""
        else:
            value += escaped or operator or plain
    if name is not None or value:
        raise ListenerError(f"{text!r} is not a listener; it ends with a backslash")
    return positional or [""], named


def parse_number(name: str, text: str, maximum: int) -> int:
    """Parse the argument ``name``, a whole number up to ``maximum``.

    :raises ValueError: for anything else.
    """
    if not re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) or int(text) > maximum:
        raise ValueError(f"{name} must be a whole number from 0 to {maximum}")
    return int(text)
