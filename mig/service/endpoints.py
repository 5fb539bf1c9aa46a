"""The texts that name listening sockets, in the syntax of Twisted's server endpoints.

Colons separate the arguments, which are positional or written ``name=value``; a backslash escapes
a colon inside a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from mig.errors import ListenerError

DEFAULT_ENDPOINT: Final = "tcp:1664:interface=127.0.0.1"
ACCEPTED_FORMS: Final = (
    "tcp:PORT:interface=IPV4, tcp6:PORT:interface=IPV6,"
    " ssl:PORT:interface=ADDRESS:certKey=FILE:privateKey=FILE, unix:PATH:mode=660,"
    " systemd:domain=INET:index=0 or fd:NUMBER"
)
MAX_PORT: Final = 65535
ARGUMENT_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "interface", "backlog"),
    "ssl": ("port", "privateKey", "certKey", "interface", "backlog"),
    "unix": ("address", "mode", "backlog", "lockfile"),
    "systemd": ("domain", "index", "name", "privateKey", "certKey"),
    "fd": ("number", "domain", "privateKey", "certKey"),
}
"""The names of each kind's arguments, in the order of their positions."""

_TOKEN = re.compile(r"\\(.)|([:=])|([^\\:=]+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class CertificateFiles:
    """The files of a certificate, which may have its chain after it, and of its private key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An endpoint text in its parts.

    ``address`` is the IP address that the text names; ``None`` for a Unix or an inherited socket.
    ``certificate_files`` are those of a listener with TLS.
    """

    text: str
    kind: str
    arguments: Mapping[str, str]
    address: IPv4Address | IPv6Address | None
    certificate_files: CertificateFiles | None

    @property
    def is_local(self) -> bool:
        """Whether the text names nothing that other machines can reach."""
        return self.address is None or is_loopback(self.address)


def parse_endpoint(text: str) -> Endpoint:
    """Return the parts of an endpoint text.

    :raises ListenerError: for text of another form.
    """
    kind, arguments = _parse_kind(text)
    try:
        return Endpoint(
            text=text,
            kind=kind,
            arguments=arguments,
            address=_parse_address(kind, arguments),
            certificate_files=_parse_certificate_files(kind, arguments),
        )
    except ValueError as reason:
        raise ListenerError(f"{text}: {reason}") from None


def _parse_kind(text: str) -> tuple[str, Mapping[str, str]]:
    """Return the kind and the named arguments of an endpoint text."""
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


def _parse_address(kind: str, arguments: Mapping[str, str]) -> IPv4Address | IPv6Address | None:
    interface = arguments.get("interface")
    if kind == "tcp":
        return IPv4Address(interface or "127.0.0.1")
    if kind == "tcp6":
        return IPv6Address(interface or "::1")
    return ip_address(interface or "127.0.0.1") if kind == "ssl" else None


def _parse_certificate_files(kind: str, arguments: Mapping[str, str]) -> CertificateFiles | None:
    """Return the files of a listener with TLS; each is by default the same as the other."""
    certificate, key = arguments.get("certKey"), arguments.get("privateKey")
    if not (certificate or key):
        if kind == "ssl":
            raise ValueError("certKey must be the file of the certificate")
        return None
    return CertificateFiles(
        certificate=Path(certificate or key or "").absolute(),
        key=Path(key or certificate or "").absolute(),
    )


def is_loopback(address: IPv4Address | IPv6Address) -> bool:
    """Return whether only this host can reach an address."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


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


def quote_argument(value: str) -> str:
    """Return a value as it is written in an endpoint text."""
    return re.sub(r"([\\:])", r"\\\1", value)


def parse_number(name: str, text: str, maximum: int) -> int:
    """Parse the argument ``name``, a whole number up to ``maximum``.

    :raises ValueError: for anything else.
    """
    if not re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) or int(text) > maximum:
        raise ValueError(f"{name} must be a whole number from 0 to {maximum}")
    return int(text)
