"""Ids, times, text and JSON, parsed strictly and in one way for every module."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final, NoReturn

from whenever import Instant, OffsetDateTime

from mig.errors import InvalidInputError, UnreadableError

MAX_ID: Final = 2**64 - 1
UNSET_TIME: Final = "0001-01-01T00:00:00Z"  # Go's zero time, which clients know
MAX_QUOTED_CHARACTERS: Final = 20
FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet runs."""

_ID = re.compile(r"[0-9]{1,20}", re.ASCII)
RFC3339_PATTERN = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](?:\.[0-9]{1,9})?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])",
    re.ASCII,
)
_UNIT_MILLISECONDS: Final = {
    "w": 604_800_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1_000,
    "ms": 1,
}
DURATION_PATTERN: Final = "(?=[0-9])" + "".join(
    f"(?:([0-9]{{1,10}}){unit})?" for unit in _UNIT_MILLISECONDS
)
_DURATION = re.compile(DURATION_PATTERN, re.ASCII)
_SPACE_FOR_PLUS = re.compile(r" (?=[0-9]{2}:[0-9]{2}$)", re.ASCII)


def suggest_name(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the hint in a message about an unknown ``name``: the most similar ``known`` one.

    :param otherwise: the hint when none is similar.
    """
    near = get_close_matches(name, list(known), 1)
    return f"did you mean {near[0]}?" if near else otherwise


def quote_if_short(text: str) -> str:
    """Return ``, not 'TEXT'`` for the end of a message about a short value, else nothing."""
    return f", not {text!a}" if len(text) <= MAX_QUOTED_CHARACTERS else ""


def escape_unprintable(text: str) -> str:
    """Return ``text`` on one line, with an escape for each character that is not visible."""
    if text.isprintable():
        return text
    # ascii() escapes a character and puts it in quotes, which the slice removes
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def generate_id() -> int:
    """Return a random id from 1 to 2**53 - 1, which every JSON reader reads exactly."""
    # seven bytes without their lowest three bits are 53 bits
    return (int.from_bytes(os.urandom(7)) >> 3) or 1


def parse_id(name: str, text: str) -> int:
    """Return the id in ``text``: 1 to 18446744073709551615 in ASCII digits.

    :raises InvalidInputError: for any other text; the message names the parameter ``name``.
    """
    if _ID.fullmatch(text):
        number = int(text)
        if 0 < number <= MAX_ID:
            return number
    raise InvalidInputError(
        f"{name} must be a whole number from 1 to {MAX_ID}{quote_if_short(text)}", name
    )


def parse_time(name: str, text: str) -> Instant:
    """Return the time in ``text``, an RFC 3339 date-time with at most nine fraction digits.

    A space before the offset is accepted as a ``+``, since URL decoding turns ``+`` into a space.

    :raises InvalidInputError: for any other text; the message names the parameter ``name``.
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


def parse_duration(text: str, *, can_be_zero: bool = False) -> timedelta:
    """Return the duration in ``text``: weeks, days, hours, minutes, seconds and milliseconds.

    They are written in this order, as in ``1h30m`` and ``50ms``.

    :raises ValueError: with what is accepted, for any other text, and for no time at all.
    """
    match = _DURATION.fullmatch(text)
    counts = match.groups() if match else ()
    milliseconds = sum(
        int(count or 0) * size
        for count, size in zip(counts, _UNIT_MILLISECONDS.values(), strict=False)
    )
    if match and (milliseconds or can_be_zero):
        with suppress(OverflowError):
            return timedelta(milliseconds=milliseconds)
    raise ValueError("a duration such as 10m, 90d or 1h30m")


def format_duration(seconds: float) -> str:
    """Return a duration as :func:`parse_duration` reads it, without weeks."""
    rest = round(seconds * 1000)
    parts = []
    for unit, size in _UNIT_MILLISECONDS.items():
        if unit != "w":
            count, rest = divmod(rest, size)
            parts += [f"{count}{unit}"] if count else []
    return "".join(parts) or "0s"


def format_time(column: str | None) -> str:
    """Return a time as PostgreSQL writes it (ISO, in UTC) in RFC 3339; ``None`` is the unset time.

    :raises UnreadableError: for a time that RFC 3339 cannot express: infinity, or a year that is
        BC or after 9999.
    """
    if column is None:
        return UNSET_TIME
    # YYYY-MM-DD hh:mm:ss[.ffffff]+00: replacing is faster than parsing, and reports need it often
    if column[4:5] == "-" and column[-3:] == "+00":
        return column.replace(" ", "T").replace("+00", "Z")
    raise UnreadableError(f"the time {column!r} is outside the years 1 to 9999")


def parse_plain_text(text: object, where: str) -> str:
    """Return ``text`` if it is a string that every reader reads alike.

    :raises InvalidInputError: for a value that is not a string, and for a string that contains NUL
        or a lone surrogate; the message names ``where``.
    """
    if not isinstance(text, str):
        raise InvalidInputError(f"{where} must be a string", where)
    if "\0" in text:
        raise InvalidInputError(f"{where} contains a NUL character", where)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(f"{where} contains half a surrogate pair", where) from None
    return text


MAX_EXACT_INTEGER: Final = 2**53
"""float64 represents every whole number up to this one exactly."""

MAX_NUMBER_LENGTH: Final = 400
"""Characters of a JSON number; every float64 has a shorter form."""


def to_shortest_decimal(number: float) -> Decimal:
    """Return the decimal with the fewest digits that is read as ``number``; encoders write it."""
    return Decimal(repr(number))


def _is_rounded(digits: str, number: float) -> bool:
    """Return whether ``digits`` are a whole number that was rounded to ``number``."""
    exact = Decimal(digits)
    # the shortest first: it is what encoders write, and the other comparison is slow
    return exact not in (to_shortest_decimal(number), number) and exact == exact.to_integral_value()


_VALUE_SIGNS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{][ \t\r\n]*+[\]}]|[\[{,]', re.DOTALL)


def has_more_values(text: str, limit: int) -> bool:
    """Return whether a JSON text has more than ``limit`` values, without parsing it.

    Arrays and objects count, and so does each of their values. A parser would first make an object
    of some 100 bytes of every ``[`` and ``0``.

    :param text: for text that is not JSON, the answer means nothing.
    """
    if 1 + text.count(",") + text.count("[") + text.count("{") <= limit:
        return False
    # The first value of an array or object follows its bracket, and every other one a comma. The
    # pattern skips strings, and the brackets of empty arrays and objects.
    values = 1
    for sign in _VALUE_SIGNS.finditer(text):
        if sign[0] in "[{,":
            values += 1
            if values > limit:
                return True
    return False


def count_values(value: object) -> int:
    """Return how many values a parsed JSON value consists of, arrays and objects included."""
    count = 0
    pending = [value]
    while pending:
        found = pending.pop()
        count += 1
        if isinstance(found, dict):
            pending.extend(found.values())
        elif isinstance(found, list):
            pending.extend(found)
    return count


def parse_json(text: str, where: str, *, max_values: int | None = None) -> Any:
    """Return the value of a client's JSON text, if every reader reads it alike.

    Integers become exact ``int``; ``-0`` and numbers with a fraction or an exponent ``float``.

    :param max_values: how many values the text may have, arrays and objects included.
    :raises InvalidInputError: for text that is not JSON (RFC 8259), a name that occurs twice in one
        object, NaN, infinities, numbers that are too large for float64, whole numbers with a
        fraction or exponent that float64 cannot represent, hundreds of levels, and too many values;
        the message names ``where``.
    """
    if max_values is not None and has_more_values(text, max_values):
        raise InvalidInputError(f"{where} holds more than {max_values} values", where)

    def reject(what: str) -> NoReturn:
        raise InvalidInputError(f"{where} {what}", where)

    def parse_constant(name: str) -> NoReturn:
        reject(f"holds {name}, which is not JSON")

    def parse_integer(digits: str) -> int | float:
        if len(digits) > MAX_NUMBER_LENGTH:
            reject(f"holds a number of more than {MAX_NUMBER_LENGTH} digits")
        return int(digits) if digits != "-0" else -0.0  # int() would lose the sign

    def parse_fraction(digits: str) -> float:
        if len(digits) > MAX_NUMBER_LENGTH:
            reject(f"holds a number of more than {MAX_NUMBER_LENGTH} digits")
        number = float(digits)
        if abs(number) < MAX_EXACT_INTEGER:  # 2**53 + 1 is rounded to 2**53
            return number
        if math.isinf(number):
            reject(f"holds {digits[:40]}, which is too large for float64")
        if _is_rounded(digits, number):  # such a float64 is a whole number
            reject(f"holds {digits[:40]}, a whole number that float64 cannot represent")
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
        raise InvalidInputError(f"{where} is nested too deeply", where) from None
