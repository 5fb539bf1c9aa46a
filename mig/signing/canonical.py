"""The texts that investigators sign: one action, two canonical forms, byte for byte.

Both come from programs written in Go. So operations are encoded as by Go's ``encoding/json``, and
the times of the older text are written as by ``time.Time.String``.

Nothing is checked here: :mod:`mig.actions.submission` checks an action before its texts are built.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

from whenever import OffsetDateTime

from mig.values import MAX_EXACT_INTEGER, to_shortest_decimal

Json: TypeAlias = str | int | float | bool | Sequence["Json"] | Mapping[str, "Json"] | None
"""A JSON value whose strings UTF-8 can encode and whose numbers float64 represents exactly."""

# Go's encoder also escapes the characters that are special in HTML, and U+2028 and U+2029.
_GO_ESCAPES: Final = [
    (chr(code), f"\\u{code:04x}") for code in (ord("<"), ord(">"), ord("&"), 0x2028, 0x2029)
]
_ESCAPES: Final = str.maketrans(
    {
        **{chr(code): f"\\u{code:04x}" for code in range(0x20)},
        **dict(_GO_ESCAPES),
        '"': '\\"',
        "\\": "\\\\",
        "\n": "\\n",
        "\r": "\\r",
        "\t": "\\t",
    }
)
_encode_python_string: Final = json.JSONEncoder(ensure_ascii=False).encode


def encode_go_json(value: Json) -> str:
    """Return ``value`` as Go encodes it."""
    parts: list[str] = []
    _append_json(value, parts)
    return "".join(parts)


def encode_fields(fields: Mapping[str, Json]) -> str:
    """Return the members of an object, in their order and without the braces, as Go does."""
    return ",".join(
        f"{_encode_string(name)}:{encode_go_json(value)}" for name, value in fields.items()
    )


def _append_json(value: Json, parts: list[str]) -> None:
    if isinstance(value, str):
        parts.append(_encode_string(value))
    elif value is None or isinstance(value, bool):
        parts.append({None: "null", True: "true", False: "false"}[value])
    elif isinstance(value, int | float):
        parts.append(_encode_number(value))
    elif isinstance(value, Mapping):
        opening = "{"
        for name in sorted(value, key=str.encode):  # Go sorts the keys of a map by their bytes
            parts.append(f"{opening}{_encode_string(name)}:")
            _append_json(value[name], parts)
            opening = ","
        parts.append("}" if value else "{}")
    else:
        opening = "["
        for element in value:
            parts.append(opening)
            _append_json(element, parts)
            opening = ","
        parts.append("]" if value else "[]")


def _encode_string(text: str) -> str:
    if "\b" in text or "\f" in text:  # which Python's encoder writes in its own way
        return f'"{text.translate(_ESCAPES)}"'
    encoded = _encode_python_string(text)  # in C, and so many times as fast as translate()
    for character, escape in _GO_ESCAPES:
        encoded = encoded.replace(character, escape)
    return encoded


def _encode_number(value: float) -> str:
    """Return a number as Go writes a float64, into which it decodes every number."""
    if isinstance(value, int) and abs(value) <= MAX_EXACT_INTEGER:
        return str(value)
    number = float(value)
    text = repr(number)
    mantissa, _, exponent = text.partition("e")
    if number and not 1e-6 <= abs(number) < 1e21:  # the bounds at which Go begins to use exponents
        return f"{mantissa}e{exponent[0]}{exponent[1:].lstrip('0')}"
    return (f"{to_shortest_decimal(number):f}" if exponent else text).removesuffix(".0")


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of an action: a module of the agent, with its parameters."""

    module: str
    parameters: Json
    is_compressed: bool = False
    want_compressed: bool = False


def encode_operations(operations: Sequence[Operation]) -> bytes:
    """Return an action's operations as they are signed."""
    return f"[{','.join(map(_encode_operation, operations))}]".encode()


def _encode_operation(operation: Operation) -> str:
    module, parameters = _encode_string(operation.module), encode_go_json(operation.parameters)
    text = f'{{"module":{module},"parameters":{parameters}'
    text += ',"is_compressed":true' if operation.is_compressed else ""
    text += ',"want_compressed":true' if operation.want_compressed else ""
    return text + "}"


@dataclass(frozen=True, kw_only=True)
class SignedTime:
    """A time of an action.

    ``text`` is what the client wrote: RFC 3339 with up to nine fraction digits and an offset, which
    is ``Z`` for UTC.
    """

    text: str

    @cached_property
    def moment(self) -> OffsetDateTime:
        """The same time."""
        return OffsetDateTime.parse_iso(self.text)

    @property
    def unix_seconds(self) -> int:
        """The time in Unix seconds: truncated, never rounded."""
        return self.moment.to_instant().timestamp()

    @property
    def nanosecond(self) -> int:
        """The nanoseconds after the full second."""
        return self.moment.nanosecond

    @property
    def go_string(self) -> str:
        """The time as ``time.Time.String`` writes it."""
        fraction = f"{self.nanosecond:09d}".rstrip("0")
        # the last six characters of RFC 3339 are the offset, such as -04:00
        offset = "+0000" if self.text.endswith("Z") else self.text[-6:].replace(":", "")
        # Go names the zone; it writes the offset again for a zone whose name it does not know
        zone = "UTC" if offset == "+0000" else offset
        date, time = self.text[:10], self.text[11:19]
        return f"{date} {time}{'.' * bool(fraction)}{fraction} {offset} {zone}"

    @property
    def fits_microseconds(self) -> bool:
        """Whether a column of microseconds in UTC can hold exactly what was signed."""
        return self.nanosecond % 1000 == 0 and self.text.endswith("Z")

    @property
    def microsecond_text(self) -> str:
        """The time in UTC for a column of microseconds: truncated, never rounded."""
        return f"{self.moment.to_instant().format_iso()[:19]}.{self.nanosecond // 1000:06d}Z"


@dataclass(frozen=True, kw_only=True)
class Signable:
    """The signed part of an action."""

    name: str
    target: str
    validfrom: SignedTime
    expireafter: SignedTime
    operations: bytes
    """The result of :func:`encode_operations`."""

    @property
    def identity(self) -> bytes:
        """The SHA-256 that is the same for every way to write or sign this action.

        It covers times to the second, because the newer text contains no more.
        """
        times = [self.validfrom.unix_seconds, self.expireafter.unix_seconds]
        form = encode_go_json([self.name, self.target, *times, self.operations.decode()])
        return hashlib.sha256(form.encode()).digest()


@dataclass(frozen=True, kw_only=True)
class SignedText:
    """One of the two texts that may be signed; ``form`` says which.

    ``head`` and ``tail`` are what comes before and after the operations, which can be large: so
    they are copied only while the text is needed.
    """

    form: str
    head: str
    operations: bytes
    tail: str

    @property
    def text(self) -> bytes:
        """The text."""
        return b"".join((self.head.encode(), self.operations, self.tail.encode()))


UNIX: Final = "unix"
GOTIME: Final = "gotime"

SEPARATORS: Final = {
    UNIX: {"name": ";target=", "target": ";validfrom="},
    GOTIME: {"name": "; target=", "target": "; validfrom="},
}
"""What ends a field in each form. A field that contains it could be read as several fields."""


def build_signed_texts(action: Signable) -> tuple[SignedText, SignedText]:
    """Return both texts of an action, the newer first."""
    # %!s(int64=…) is what Go's fmt prints for an integer under %s: MIG signed this, and clients do
    unix = (
        f"name={action.name};target={action.target};validfrom={action.validfrom.unix_seconds}"
        f";expireafter=%!s(int64={action.expireafter.unix_seconds});operations="
    )
    gotime = (
        f"name={action.name}; target={action.target}; validfrom={action.validfrom.go_string}"
        f"; expireafter={action.expireafter.go_string}; operations='"
    )
    return (
        SignedText(form=UNIX, head=unix, operations=action.operations, tail=";"),
        SignedText(form=GOTIME, head=gotime, operations=action.operations, tail="';"),
    )
