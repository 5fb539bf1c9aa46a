"""The texts that investigators sign: one action, two canonical forms, byte for byte.

Both were made by programs written in Go, so operations are encoded as Go's ``encoding/json`` does,
and the times of the older text are written as its ``time.Time.String`` does.

Nothing is checked here. What an action of a client must be before its texts are built is said in
:mod:`mig.actions.submission`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

from whenever import OffsetDateTime

from mig.values import to_shortest_decimal

MAX_EXACT_INTEGER: Final = 2**53
"""Up to here float64 holds every whole number."""

Json: TypeAlias = str | int | float | bool | Sequence["Json"] | Mapping[str, "Json"] | None
"""A value of JSON, of texts that UTF-8 can encode and of numbers that float64 holds exactly."""

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


def encode_go_json(value: Json) -> str:
    """Return *value* as Go encodes it."""
    parts: list[str] = []
    _append_json(value, parts)
    return "".join(parts)


def encode_fields(fields: Mapping[str, Json]) -> str:
    """Return the inside of an object whose members keep their order, as Go encodes a struct."""
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
        for name in sorted(value, key=str.encode):
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
    return f'"{text.translate(_ESCAPES)}"'


def _encode_number(value: float) -> str:
    if isinstance(value, int) and abs(value) <= MAX_EXACT_INTEGER:
        return str(value)
    number = float(value)
    text = repr(number)
    mantissa, _, exponent = text.partition("e")
    if number and not 1e-6 <= abs(number) < 1e21:
        return f"{mantissa}e{exponent[0]}{exponent[1:].lstrip('0')}"
    return (f"{to_shortest_decimal(number):f}" if exponent else text).removesuffix(".0")


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What a module of the agents is to do."""

    module: str
    parameters: Json
    is_compressed: bool = False
    want_compressed: bool = False


def encode_operations(operations: Sequence[Operation]) -> str:
    """Return the text of an action's operations, as it is signed."""
    return f"[{','.join(map(_encode_operation, operations))}]"


def _encode_operation(operation: Operation) -> str:
    module, parameters = _encode_string(operation.module), encode_go_json(operation.parameters)
    text = f'{{"module":{module},"parameters":{parameters}'
    text += ',"is_compressed":true' if operation.is_compressed else ""
    text += ',"want_compressed":true' if operation.want_compressed else ""
    return text + "}"


@dataclass(frozen=True, kw_only=True)
class SignedTime:
    """A time of an action.

    *text* is the client's own: RFC 3339 with up to nine fraction digits and its offset, which is
    ``Z`` for UTC. *moment* is the same time.
    """

    text: str
    moment: OffsetDateTime

    @property
    def unix_seconds(self) -> int:
        """Unix seconds: cut, never rounded."""
        return self.moment.to_instant().timestamp()

    @property
    def nanosecond(self) -> int:
        return self.moment.nanosecond

    @property
    def go_string(self) -> str:
        """The time as ``time.Time.String`` writes it."""
        fraction = f"{self.nanosecond:09d}".rstrip("0")
        offset = "+0000" if self.text.endswith("Z") else self.text[-6:].replace(":", "")
        zone = "UTC" if offset == "+0000" else offset
        date, time = self.text[:10], self.text[11:19]
        return f"{date} {time}{'.' * bool(fraction)}{fraction} {offset} {zone}"

    @property
    def fits_microseconds(self) -> bool:
        """Whether a column of microseconds in UTC holds what was signed."""
        return self.nanosecond % 1000 == 0 and self.text.endswith("Z")

    @property
    def microsecond_text(self) -> str:
        """The time in UTC for a column of microseconds: cut, never rounded."""
        return f"{self.moment.to_instant().format_iso()[:19]}.{self.nanosecond // 1000:06d}Z"


@dataclass(frozen=True, kw_only=True)
class Signable:
    """The signed part of an action."""

    name: str
    target: str
    validfrom: SignedTime
    expireafter: SignedTime
    operations: Sequence[Operation]

    @cached_property
    def operations_text(self) -> str:
        """The operations as they are signed."""
        return encode_operations(self.operations)

    @property
    def identity(self) -> bytes:
        """SHA-256 over what makes it this action, however it was written down or signed.

        Times count to the second, as the newer text says no more.
        """
        times = [self.validfrom.unix_seconds, self.expireafter.unix_seconds]
        form = encode_go_json([self.name, self.target, *times, self.operations_text])
        return hashlib.sha256(form.encode()).digest()


@dataclass(frozen=True, kw_only=True)
class SignedText:
    """One of the two texts."""

    form: str
    text: bytes


UNIX: Final = "unix"
GOTIME: Final = "gotime"

SEPARATORS: Final = {
    UNIX: {"name": ";target=", "target": ";validfrom="},
    GOTIME: {"name": "; target=", "target": "; validfrom="},
}
"""What ends a field in each form. A field that holds it can be read as another one."""


def build_signed_texts(action: Signable) -> tuple[SignedText, SignedText]:
    """Return both texts of an action, the newer first."""
    unix = (
        f"name={action.name};target={action.target};validfrom={action.validfrom.unix_seconds}"
        f";expireafter=%!s(int64={action.expireafter.unix_seconds});operations={action.operations_text};"
    )
    gotime = (
        f"name={action.name}; target={action.target}; validfrom={action.validfrom.go_string}"
        f"; expireafter={action.expireafter.go_string}; operations='{action.operations_text}';"
    )
    return SignedText(form=UNIX, text=unix.encode()), SignedText(form=GOTIME, text=gotime.encode())
