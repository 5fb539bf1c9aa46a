"""The limits in the configuration: how each is written, and what is accepted."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from mig.limits import BOUNDS, Bound, Limits
from mig.service.config_values import parse_boolean
from mig.values import format_duration, parse_duration

LIMITS_SECTION: Final = "limits"

_NUMBER = re.compile(r"[0-9]{1,16}(?:\.[0-9]{1,3})?", re.ASCII)
_WHOLE_NUMBER = re.compile(r"[0-9]{1,16}", re.ASCII)


def parse_limit(name: str, text: str) -> float:
    """Return the value of the limit ``name``.

    :raises ValueError: with what is accepted, for a text that is not one of its values.
    """
    bound = BOUNDS[name]
    try:
        value = _PARSERS[bound.kind](text)
    except ValueError:
        value = None
    if value is None or not bound.low <= value <= bound.high:
        raise ValueError(_describe_accepted(bound))
    return value


def _parse_number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError
    return float(text)


def _parse_whole_number(text: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(text):
        raise ValueError
    return int(text)


def _parse_seconds(text: str) -> float:
    seconds = parse_duration(text).total_seconds()
    return int(seconds) if seconds.is_integer() else seconds


_PARSERS: Final[dict[str, Callable[[str], float]]] = {
    "bytes": _parse_whole_number,
    "count": _parse_whole_number,
    "number": _parse_number,
    "seconds": _parse_seconds,
    "switch": parse_boolean,
}


def _describe_accepted(bound: Bound) -> str:
    if bound.kind == "switch":
        return "on or off"
    low, high = (_format_plain(bound, value) for value in (bound.low, bound.high))
    if bound.kind == "seconds":
        return f"a duration from {low} to {high}, such as 30s, 10m or 1h30m"
    noun = {"bytes": "a whole number of bytes", "count": "a whole number", "number": "a number"}
    return f"{noun[bound.kind]} from {low} to {high}"


def _format_plain(bound: Bound, value: float) -> str:
    if bound.kind == "seconds":
        return format_duration(value)
    return f"{value:.10g}" if bound.kind == "number" else f"{value:.0f}"


def format_limit(name: str, value: float) -> str:
    """Return a value of the limit ``name`` as the configuration has it."""
    bound = BOUNDS[name]
    if bound.kind == "switch":
        return "on" if value else "off"
    return _format_plain(bound, value)


def describe_limits() -> list[tuple[str, str, str, str, str]]:
    """Return name, default, accepted values, when a change takes effect, and meaning of each."""
    limits = Limits()
    rows = []
    for name, bound in BOUNDS.items():
        low, high = (_format_plain(bound, value) for value in (bound.low, bound.high))
        rows.append(
            (
                name,
                format_limit(name, getattr(limits, name)),
                "on or off" if bound.kind == "switch" else f"{low} to {high}",
                "start" if bound.is_fixed else "reload",
                bound.meaning,
            )
        )
    return rows
