"""The texts that investigators sign: one action, two canonical forms, byte for byte.

Both were made by programs written in Go, so operations are encoded as Go's ``encoding/json`` does,
and the times of the older text are written as its ``time.Time.String`` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from whenever import OffsetDateTime

from mig.errors import InvalidInput
from mig.values import RFC3339, shortest

EXACT: Final = 2**53
"""Up to here float64 holds every whole number."""

DEEPEST: Final = 64
"""Levels of arrays and objects in an operation."""

_ESCAPES: Final = str.maketrans(
    {
        **{chr(code): f"\\u{code:04x}" for code in [*range(0x20), *b"<>&", 0x2028, 0x2029]},
        '"': '\\"',
        "\\": "\\\\",
        "\n": "\\n",
        "\r": "\\r",
        "\t": "\\t",
    }
)
_UNIX_SEPARATORS: Final = (";target=", ";validfrom=")
_GOTIME_SEPARATORS: Final = ("; target=", "; validfrom=")
_OPERATION: Final = ("module", "parameters", "is_compressed", "want_compressed")
_COMPRESSION: Final = ("is_compressed", "want_compressed")


def plain_text(text: Any, where: str) -> str:
    """*text*, when it is a string that every reader takes alike.

    :raises InvalidInput: naming *where*, for what is no string, and for NUL and half a surrogate
        pair in it.
    """
    if not isinstance(text, str):
        raise InvalidInput(f"{where} must be a string", where)
    if "\0" in text:
        raise InvalidInput(f"{where} holds a NUL character", where)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{where} holds half a surrogate pair", where) from None
    return text


def encode(value: Any, where: str) -> str:
    """A value of :func:`mig.values.parse_json` as Go encodes it.

    :raises InvalidInput: naming *where*, for text that is not taken (:func:`plain_text`), for
        integers that float64 does not hold exactly, and beyond :data:`DEEPEST` levels.
    """
    parts: list[str] = []
    _encode(value, where, DEEPEST, parts)
    return "".join(parts)


def _encode(value: Any, where: str, depth: int, parts: list[str]) -> None:
    if isinstance(value, str):
        parts.append(_quoted(value, where))
    elif value is None or isinstance(value, bool):
        parts.append({None: "null", True: "true", False: "false"}[value])
    elif isinstance(value, int | float):
        parts.append(_number(value, where))
    elif not depth:
        raise InvalidInput(f"{where} is nested deeper than {DEEPEST} levels", where)
    elif isinstance(value, list):
        opening = "["
        for element in value:
            parts.append(opening)
            _encode(element, where, depth - 1, parts)
            opening = ","
        parts.append("]" if value else "[]")
    else:
        opening = "{"
        for name in sorted(value, key=lambda name: plain_text(name, where).encode()):
            parts.append(f"{opening}{_quoted(name, where)}:")
            _encode(value[name], where, depth - 1, parts)
            opening = ","
        parts.append("}" if value else "{}")


def _quoted(text: str, where: str) -> str:
    return f'"{plain_text(text, where).translate(_ESCAPES)}"'


def _number(value: float, where: str) -> str:
    if isinstance(value, int) and abs(value) <= EXACT:
        return str(value)
    try:
        number = float(value)
    except OverflowError:
        number = 0.0
    if number != value and shortest(number) != value:
        shown = str(value)[:40]
        raise InvalidInput(
            f"{where} holds {shown}, which float64 does not hold exactly:"
            " it would be another number than the one that was signed",
            where,
        )
    text = repr(number)
    mantissa, _, exponent = text.partition("e")
    if number and not 1e-6 <= abs(number) < 1e21:
        return f"{mantissa}e{exponent[0]}{exponent[1:].lstrip('0')}"
    return (f"{shortest(number):f}" if exponent else text).removesuffix(".0")


def operations(value: Any) -> str:
    """The canonical text of an action's operations.

    :raises InvalidInput: naming the field, for what is not a non-empty array of operations, and
        for members of an operation that no signature covers.
    """
    if not isinstance(value, list) or not value:
        raise InvalidInput("operations must be an array of at least one operation", "operations")
    return f"[{','.join(_operation(one, f'operations[{n}]') for n, one in enumerate(value))}]"


def _operation(value: Any, where: str) -> str:
    if not isinstance(value, dict):
        raise InvalidInput(f"{where} must be an object", where)
    known_members(value, _OPERATION, where)
    module = plain_text(value.get("module"), f"{where}.module")
    if not module.strip():
        raise InvalidInput(f"{where}.module must not be empty", f"{where}.module")
    parameters = encode(value.get("parameters"), f"{where}.parameters")
    text = f'{{"module":{_quoted(module, where)},"parameters":{parameters}'
    for name in _COMPRESSION:
        given = value.get(name, False)
        if not isinstance(given, bool):
            raise InvalidInput(f"{where}.{name} must be true or false", f"{where}.{name}")
        text += f',"{name}":true' if given else ""
    return text + "}"


def known_members(value: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    """Refuse an object with other members than the *known* ones.

    The schedulers read names without regard to case, so a second ``Module`` would win over the
    signed one.

    :raises InvalidInput: naming the member.
    """
    for name in value:
        if name not in known:
            place = f"{where}.{name}" if where else name
            shown = ascii(name[:80])[1:-1]
            raise InvalidInput(
                f"{where or 'the action'} has an unknown member {shown}; known are"
                f" {', '.join(known)}",
                place,
            )


@dataclass(frozen=True, kw_only=True)
class SignedTime:
    """A time of an action; *text* is the client's own, to the nanosecond and with its offset."""

    text: str
    seconds: int
    nanosecond: int
    gotime: str

    @property
    def exact(self) -> bool:
        """Whether a column of microseconds in UTC holds what was signed."""
        return self.nanosecond % 1000 == 0 and self.text.endswith("Z")

    @property
    def microseconds(self) -> str:
        """The time in UTC for a column of microseconds: cut, never rounded."""
        instant = OffsetDateTime.parse_iso(self.text).to_instant()
        return f"{instant.format_iso()[:19]}.{self.nanosecond // 1000:06d}Z"


def signed_time(where: str, text: Any) -> SignedTime:
    """A time of an action: RFC 3339 with seconds, at most nine fraction digits, and an offset.

    ``-00:00`` is not taken: it says that the offset is unknown (RFC 3339, 4.3).

    :raises InvalidInput: naming the field *where*, for anything else.
    """
    if isinstance(text, str) and RFC3339.fullmatch(text) and not text.endswith("-00:00"):
        try:
            time = OffsetDateTime.parse_iso(text)
            instant = time.to_instant()
        except ValueError:
            pass  # no such day or hour, or outside the years 1 to 9999
        else:
            fraction = f"{time.nanosecond:09d}".rstrip("0")
            offset = text[-6:].replace(":", "") if text[-6] in "+-" else "+0000"
            zone = "UTC" if offset == "+0000" else offset
            shown = f"{text[:10]} {text[11:19]}{'.' * bool(fraction)}{fraction} {offset} {zone}"
            text = text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text
            return SignedTime(
                text=text,
                seconds=instant.timestamp(),
                nanosecond=time.nanosecond,
                gotime=shown,
            )
    raise InvalidInput(
        f"{where} must be an RFC 3339 date, for example 2014-05-30T00:00:00-04:00", where
    )


@dataclass(frozen=True, kw_only=True)
class Signable:
    """The signed part of an action; *operations* is their canonical text."""

    name: str
    target: str
    validfrom: SignedTime
    expireafter: SignedTime
    operations: str

    @property
    def identity(self) -> bytes:
        """SHA-256 over what makes it this action, however it was written down or signed.

        Times count to the second, as the newer text says no more.
        """
        times = [self.validfrom.seconds, self.expireafter.seconds]
        form = encode([self.name, self.target, *times, self.operations], "the action")
        return hashlib.sha256(form.encode()).digest()


@dataclass(frozen=True, kw_only=True)
class Text:
    """One of the two texts. *ambiguous* names the field that would read otherwise."""

    form: str
    text: bytes
    ambiguous: str | None

    def check(self) -> None:
        """Refuse an action that could be read as another one out of the same text.

        :raises InvalidInput: naming the field.
        """
        if self.ambiguous:
            raise InvalidInput(
                f"{self.ambiguous} holds the separator that ends it in the signed text: the same"
                " signature would cover another action",
                self.ambiguous,
            )


def texts(action: Signable) -> tuple[Text, Text]:
    """Both texts of an action, the newer first."""
    unix = (
        f"name={action.name};target={action.target};validfrom={action.validfrom.seconds}"
        f";expireafter=%!s(int64={action.expireafter.seconds});operations={action.operations};"
    )
    gotime = (
        f"name={action.name}; target={action.target}; validfrom={action.validfrom.gotime}"
        f"; expireafter={action.expireafter.gotime}; operations='{action.operations}';"
    )
    return (
        Text(form="unix", text=unix.encode(), ambiguous=_ambiguous(action, _UNIX_SEPARATORS)),
        Text(form="gotime", text=gotime.encode(), ambiguous=_ambiguous(action, _GOTIME_SEPARATORS)),
    )


def _ambiguous(action: Signable, separators: tuple[str, str]) -> str | None:
    if separators[0] in action.name:
        return "name"
    return "target" if separators[1] in action.target else None
