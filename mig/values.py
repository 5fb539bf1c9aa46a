"""Identifiers, times and JSON, as every other module means them."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final, NoReturn

from whenever import Instant, OffsetDateTime

from mig.errors import InvalidInputError, UnreadableError

MAX_ID: Final = 2**64 - 1
UNSET_TIME: Final = "0001-01-01T00:00:00Z"

_ID = re.compile(r"[0-9]{1,20}", re.ASCII)
RFC3339_PATTERN = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](?:\.[0-9]{1,9})?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])",
    re.ASCII,
)
_SPACE_FOR_PLUS = re.compile(r" (?=[0-9]{2}:[0-9]{2}$)", re.ASCII)


def suggest_name(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the hint in a message about an unknown *name*: the *known* one that is like it.

    :param otherwise: the hint when none is.
    """
    near = get_close_matches(name, list(known), 1)
    return f"did you mean {near[0]}?" if near else otherwise


def generate_id() -> int:
    """A random id from 1 to 2**53 - 1, which every JSON client reads exactly."""
    return (int.from_bytes(os.urandom(7)) >> 3) or 1


def parse_id(name: str, text: str) -> int:
    """The id in *text*: 1 to 18446744073709551615 in ASCII digits.

    :raises InvalidInputError: naming the parameter *name*, for anything else.
    """
    if _ID.fullmatch(text):
        number = int(text)
        if 0 < number <= MAX_ID:
            return number
    raise InvalidInputError(f"{name} must be a whole number from 1 to {MAX_ID}", name)


def parse_time(name: str, text: str) -> Instant:
    """The instant of an RFC 3339 date-time with seconds, at most nine fraction digits, an offset.

    A space before the offset is taken for the ``+`` that URL decoding turned into it.

    :raises InvalidInputError: naming the parameter *name*, for anything else.
    """
    text = _SPACE_FOR_PLUS.sub("+", text)
    if RFC3339_PATTERN.fullmatch(text):
        try:
            return OffsetDateTime.parse_iso(text).to_instant()
        except ValueError:
            pass  # no such day or hour, or outside the years 1 to 9999
    raise InvalidInputError(
        f"{name} must be an RFC 3339 date, for example 2014-05-30T00:00:00-04:00", name
    )


def format_time(column: str | None) -> str:
    """A time as PostgreSQL writes it (ISO, UTC) in RFC 3339; ``None`` is the unset time.

    :raises UnreadableError: for a time that RFC 3339 cannot express (infinity, BC, year 10000 on).
    """
    if column is None:
        return UNSET_TIME
    if column[4:5] == "-" and column.endswith("+00"):
        return f"{column[:10]}T{column[11:-3]}Z"
    raise UnreadableError(f"the time {column!r} is outside the years 1 to 9999")


def parse_plain_text(text: object, where: str) -> str:
    """Return *text* when it is a string that every reader takes alike.

    :raises InvalidInputError: naming *where*, for what is no string, and for NUL and half a
        surrogate pair in it.
    """
    if not isinstance(text, str):
        raise InvalidInputError(f"{where} must be a string", where)
    if "\0" in text:
        raise InvalidInputError(f"{where} holds a NUL character", where)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(f"{where} holds half a surrogate pair", where) from None
    return text


MAX_NUMBER_LENGTH: Final = 400
"""Letters of a JSON number; every float64 has a shorter form."""


def to_shortest_decimal(number: float) -> Decimal:
    """The number of the fewest digits that is read as *number*: what encoders write for it."""
    return Decimal(repr(number))


def _is_rounded(digits: str, number: float) -> bool:
    """Whether *digits* are a whole number that was rounded to *number*."""
    exact = Decimal(digits)
    return exact not in (number, to_shortest_decimal(number)) and exact == exact.to_integral_value()


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text of a client, of which every reader must think the same.

    Integers are exact ``int``; ``-0`` and what has a fraction or an exponent is ``float``.

    :raises InvalidInputError: naming *where*, for what is no JSON (RFC 8259), for a name that
        stands twice in one object, for NaN, infinities, numbers beyond float64, whole numbers
        written with a fraction or exponent that float64 does not hold, and for hundreds of levels.
    """

    def reject(what: str) -> NoReturn:
        raise InvalidInputError(f"{where} {what}", where)

    def parse_constant(name: str) -> NoReturn:
        reject(f"holds {name}, which is no JSON")

    def parse_integer(digits: str) -> int | float:
        if len(digits) > MAX_NUMBER_LENGTH:
            reject(f"holds a number of more than {MAX_NUMBER_LENGTH} digits")
        return int(digits) if digits != "-0" else -0.0

    def parse_fraction(digits: str) -> float:
        if len(digits) > MAX_NUMBER_LENGTH:
            reject(f"holds a number of more than {MAX_NUMBER_LENGTH} digits")
        number = float(digits)
        if math.isinf(number):
            reject(f"holds {digits[:40]}, which is beyond the numbers of float64")
        if number and number.is_integer() and _is_rounded(digits, number):
            reject(f"holds {digits[:40]}, a whole number that float64 does not hold")
        return number

    def build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice = next(name for name, count in counts.items() if count > 1)
            reject(f"holds {twice[:80]!a} twice in one object")
        return found

    try:
        return json.loads(
            text,
            object_pairs_hook=build_object,
            parse_constant=parse_constant,
            parse_float=parse_fraction,
            parse_int=parse_integer,
        )
    except json.JSONDecodeError as reason:
        place = f"line {reason.lineno}, column {reason.colno}"
        raise InvalidInputError(f"{where} is not JSON: {reason.msg} at {place}", where) from None
    except RecursionError:
        raise InvalidInputError(f"{where} is nested too deep", where) from None
