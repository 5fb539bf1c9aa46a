"""What the values of records look like on a page for browsers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Raw

from mig.hypermedia.urls import Urls
from mig.model.fields import list_fields
from mig.model.record import Record, encode_json
from mig.values import UNSET_TIME

MAX_CELL_CHARACTERS: Final = 300
"""How much of a value a table shows; the page of the record shows more."""
MAX_BLOCK_CHARACTERS: Final = 100_000
"""How much of a value the page of a record shows; the other formats have all of it."""

MAX_LINE_CHARACTERS: Final = 80
"""How long JSON may be without lines and indentation."""

_CUT: Final = "…"
_WEB_URL: Final = re.compile(r"https?://[^\s\x00-\x20\\]+", re.ASCII | re.IGNORECASE)
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)?Z", re.ASCII
)
_REFERENCE: Final = re.compile(r"(action|agent|command|investigator|apikey)\.?id")
_GOOD: Final = frozenset({"success", "completed", "active", "online", "heartbeating", "done"})
_BAD: Final = frozenset({"failed", "timeout", "expired", "cancelled", "invalid", "disabled"})

# what people look for first; the page of a record has all of its fields
_TABLE_FIELDS: Final[Mapping[str, Sequence[str]]] = {
    "action": (
        *("name", "status", "starttime", "finishtime", "validfrom", "expireafter"),
        *("target", "counters"),
    ),
    "command": ("action.name", "agent.name", "status", "starttime", "finishtime"),
    "agent": ("name", "status", "os", "version", "heartbeatts", "starttime", "queueloc", "tags"),
    "investigator": ("name", "status", "createdat", "lastmodified", "pgpfingerprint"),
    "apikey": ("name", "createdat", "expires", "revokedat", "lastused", "permissions"),
    "audit": (
        *("at", "callername", "method", "path", "object", "objectid", "outcome"),
        *("count", "client", "before", "after"),
    ),
}


class Value(NamedTuple):
    """A value as a page shows it.

    ``href`` makes a link of it, to another site when ``is_foreign`` is set, which may be anybody's.
    ``time`` is the time that ``text`` tells, in RFC 3339. ``is_block`` is set for text that keeps
    its lines. ``mark`` is a class of the style sheet.
    """

    text: str
    href: str = ""
    is_foreign: bool = False
    time: str = ""
    is_block: bool = False
    mark: str = ""


class Column(NamedTuple):
    """A column of a table: its title, and the field that it has."""

    title: str
    read: Callable[[Any], object]


@lru_cache(maxsize=256)
def list_columns(record_type: type[Record]) -> tuple[Column, ...]:
    """Return the columns of a table of records: the fields that people look for first."""
    fields = {field.name: field for field in list_fields(record_type)}
    names = _TABLE_FIELDS.get(record_type.noun, tuple(fields))
    return tuple(Column(title=name, read=fields[name].read) for name in names)


def make_link(urls: Urls, href: str) -> str:
    """Return the address of a link to ``href``, empty for what must not be one.

    That of the service is a path: the browser may know the service by another name.
    """
    if not _WEB_URL.fullmatch(href):
        return ""
    path = href.removeprefix(urls.root)
    return path if path != href and path.startswith("/") and path[1:2] != "/" else href


def make_value(urls: Urls, name: str, value: object, *, is_cell: bool = False) -> Value:
    """Return the field ``name`` as a page shows it.

    :param is_cell: whether it is part of a table, where long values are cut.
    """
    if value is None or value is UNSET or value == UNSET_TIME:
        return Value("")
    if isinstance(value, str):
        return _make_text(urls, name, value, is_cell=is_cell)
    if isinstance(value, bool):
        return Value("true" if value else "false")
    if name == "rate" and isinstance(value, float):
        return Value(f"{value:.1%}", mark="bad" if value < 1 else "good")
    if isinstance(value, dict) and is_cell:
        return Value(cut(_list_members(value)))
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        lines = "\n".join(map(_list_members, value))
        return Value(cut(lines, MAX_BLOCK_CHARACTERS), is_block=True)
    text = _format_json(value, is_cell=is_cell)
    if text == "null":
        return Value("")
    reference = _REFERENCE.fullmatch(name)
    if reference is not None and text.isdigit():
        return Value(text, href=make_link(urls, urls.for_record(reference[1], text)))
    is_block = not is_cell and text[:1] in ("{", "[") and len(text) > MAX_LINE_CHARACTERS
    return Value(text, is_block=is_block)


def _make_text(urls: Urls, name: str, text: str, *, is_cell: bool) -> Value:
    time = _TIME.fullmatch(text)
    if time is not None:
        return Value(f"{time[1]} {time[2]} UTC", time=text)
    shown = cut(text) if is_cell else cut(text, MAX_BLOCK_CHARACTERS)
    href = make_link(urls, text)
    if href:
        return Value(shown, href=href, is_foreign=True)
    mark = ""
    if name in ("status", "outcome"):
        mark = "good" if text in _GOOD else "bad" if text in _BAD else ""
    return Value(shown, is_block=not is_cell and "\n" in text, mark=mark)


def _format_json(value: object, *, is_cell: bool) -> str:
    limit = MAX_CELL_CHARACTERS if is_cell else MAX_BLOCK_CHARACTERS
    # results may have many megabytes, of which no more is copied than is shown: a character has at
    # most four bytes
    whole = memoryview(value if isinstance(value, Raw) else encode_json(value))
    stored = bytes(whole[: 4 * limit + 4])
    if not is_cell and MAX_LINE_CHARACTERS < len(stored) <= limit:
        with suppress(msgspec.DecodeError):  # PostgreSQL takes a lone surrogate for JSON
            stored = msgspec.json.format(stored, indent=2)
    return cut(stored.decode(errors="ignore"), limit)


def _list_members(value: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {_describe(each)}" for key, each in value.items())


def _describe(value: object) -> str:
    return value if isinstance(value, str) else encode_json(value).decode()


def cut(text: str, length: int = MAX_CELL_CHARACTERS) -> str:
    """Return a text with at most ``length`` characters; one that is cut ends with ``…``."""
    return text if len(text) <= length else text[: length - 1] + _CUT
