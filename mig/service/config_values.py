"""The values of the keys of ``api.cfg``.

A parser raises a ValueError that completes "KEY must be …". It never quotes the text itself, which
may be a password in the wrong place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Final

DEFAULT_IP: Final = "127.0.0.1"
SYSTEM_CERTIFICATES: Final = "system"
PUBLIC_URL_FORM: Final = "http://NAME or https://NAME, with or without :PORT, and no path"

_PUBLIC_URL = re.compile(
    r"https?://(?:[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{1,5}))?/?",
    re.ASCII,
)
_BASEROUTE = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*", re.ASCII)
_CLIENT_IP_SOURCE = re.compile(r"peer|x-forwarded-for:([0-9]{1,3})", re.ASCII)
_BOOLEANS: Final = {
    **dict.fromkeys(("on", "yes", "true", "1"), True),
    **dict.fromkeys(("off", "no", "false", "0"), False),
}
_LEVELS: Final = {
    **{name: name for name in ("debug", "info", "warning", "error", "critical")},
    "emerg": "critical",
    "alert": "critical",
    "crit": "critical",
    "err": "error",
    "notice": "info",
}


def parse_public_url(text: str) -> str:
    """Return the public URL of the server without a slash at its end."""
    match = _PUBLIC_URL.fullmatch(text)
    if match and 0 < int(match[2] or 1) <= 65535 and (match[1] is None or _is_ipv6(match[1])):
        return text.removesuffix("/")
    raise ValueError(PUBLIC_URL_FORM)


def _is_ipv6(text: str) -> bool:
    try:
        return ip_address(text).version == 6
    except ValueError:
        return False


def parse_ip(text: str) -> str:
    """Return the address in its usual form; ``localhost`` is 127.0.0.1."""
    try:
        return str(ip_address(DEFAULT_IP if text == "localhost" else text.strip("[]")))
    except ValueError:
        raise ValueError("an IP address, for example 127.0.0.1 or ::1") from None


def make_integer_parser(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from ``low`` to ``high``."""

    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) and low <= int(text) <= high:
            return int(text)
        raise ValueError(f"a whole number from {low} to {high}")

    return parse


def parse_base_route(text: str) -> str:
    """Return a path without a slash at its end."""
    text = text.rstrip("/")
    if not _BASEROUTE.fullmatch(text):
        raise ValueError("a path such as /api/v1, made of letters, digits and . _ ~ -")
    return text


def parse_client_ip_source(text: str) -> int | None:
    """Return which entry of X-Forwarded-For is meant; ``None`` means the peer."""
    match = _CLIENT_IP_SOURCE.fullmatch(text)
    if not match:
        raise ValueError("peer or x-forwarded-for:NUMBER")
    return None if match[1] is None else int(match[1])


def parse_text(text: str) -> str:
    """Return one line of text, as it is."""
    if not text or not text.isprintable():
        raise ValueError("one line of text, not empty")
    return text


def parse_secret(text: str) -> str:
    """Return any text that libpq accepts."""
    if "\0" in text:
        raise ValueError("text without NUL characters")
    return text


def parse_path(text: str) -> Path:
    """Return an absolute path: twistd may change its working directory later."""
    return Path(parse_text(text)).absolute()


def parse_root_certificate(text: str) -> str:
    """Return an absolute path, or libpq's word for the certificates of the system."""
    return text if text == SYSTEM_CERTIFICATES else str(parse_path(text))


def make_choice_parser(*accepted: str) -> Callable[[str], str]:
    """Return a parser of the ``accepted`` words, in capital letters or not."""

    def parse(text: str) -> str:
        if text.lower() in accepted:
            return text.lower()
        raise ValueError(join_choices(accepted))

    return parse


def parse_level(text: str) -> str:
    """Return the name of a level of the log, also for syslog's own names."""
    try:
        return _LEVELS[text.lower()]
    except KeyError:
        raise ValueError(join_choices(("debug", "info", "warning", "error", "critical"))) from None


def parse_boolean(text: str) -> bool:
    """Parse the value of a switch."""
    if text.lower() not in _BOOLEANS:
        raise ValueError("on or off")
    return _BOOLEANS[text.lower()]


def join_choices(names: Iterable[str]) -> str:
    """Return names as they are listed in a sentence."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
