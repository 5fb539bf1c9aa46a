"""Identifiers, times and errors, as every other module means them."""

from __future__ import annotations

import json
import re
import secrets
from typing import Any, Final

from whenever import Instant, OffsetDateTime

MAX_ID: Final = 2**64 - 1
UNSET_TIME: Final = "0001-01-01T00:00:00Z"

_ID = re.compile(r"[0-9]{1,20}", re.ASCII)
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](?:\.[0-9]{1,9})?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])",
    re.ASCII,
)
_SPACE_FOR_PLUS = re.compile(r" (?=[0-9]{2}:[0-9]{2}$)", re.ASCII)


class Refusal(Exception):
    """What a client is told instead of an answer.

    The message is for people: it says what was wrong, where, and what is accepted.
    """


class InvalidInput(Refusal):
    """The request holds a value that is not accepted. ``where`` names the parameter or field."""

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(message)
        self.where = where


class NotFound(Refusal):
    """Nothing is known under this id or path."""


class Unavailable(Refusal):
    """The answer cannot be given now; the same request may succeed later.

    *detail* is for the operator alone: it may name hosts, folders and roles.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


def explained(reason: BaseException) -> str:
    """What went wrong, with the detail that is for the operator: for logs and terminals."""
    detail = getattr(reason, "detail", "")
    return f"{reason}: {detail}" if detail else str(reason)


class Unreadable(Exception):
    """A stored document cannot be read; the message is the reason, fit for a client."""


def new_id() -> int:
    """A random id from 1 to 2**53 - 1, which every JSON client reads exactly."""
    return secrets.randbelow(2**53 - 1) + 1


def parse_id(name: str, text: str) -> int:
    """The id in *text*: 1 to 18446744073709551615 in ASCII digits.

    :raises InvalidInput: naming the parameter *name*, for anything else.
    """
    if _ID.fullmatch(text):
        number = int(text)
        if 0 < number <= MAX_ID:
            return number
    raise InvalidInput(f"{name} must be a whole number from 1 to {MAX_ID}", name)


def parse_time(name: str, text: str) -> Instant:
    """The instant of an RFC 3339 date-time with seconds, at most nine fraction digits, an offset.

    A space before the offset is taken for the ``+`` that URL decoding turned into it.

    :raises InvalidInput: naming the parameter *name*, for anything else.
    """
    text = _SPACE_FOR_PLUS.sub("+", text)
    if _RFC3339.fullmatch(text):
        try:
            return OffsetDateTime.parse_iso(text).to_instant()
        except ValueError:
            pass  # no such day or hour, or outside the years 1 to 9999
    raise InvalidInput(
        f"{name} must be an RFC 3339 date, for example 2014-05-30T00:00:00-04:00", name
    )


def rfc3339(stored: str | None) -> str:
    """A time as PostgreSQL writes it (ISO, UTC) in RFC 3339; ``None`` is the unset time.

    :raises Unreadable: for a time that RFC 3339 cannot express (infinity, BC, year 10000 on).
    """
    if stored is None:
        return UNSET_TIME
    if stored[4:5] == "-" and stored.endswith("+00"):
        return f"{stored[:10]}T{stored[11:-3]}Z"
    raise Unreadable(f"the time {stored!r} is outside the years 1 to 9999")


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON *text*.

    :raises InvalidInput: naming *where* it came from, when it is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput(f"{where} is not JSON", where) from None
