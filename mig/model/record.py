"""What every record has in common: its noun, its encoding, its JSON schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Concatenate, Final, ParamSpec, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from mig.errors import UnreadableError
from mig.values import MAX_ID

encode_json = msgspec.json.Encoder().encode

Id = Annotated[Raw, Meta(extra_json_schema={"type": "integer", "minimum": 1, "maximum": MAX_ID})]
"""An id as the digits that are stored: exact for every reader, also above 64 bits."""

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]

Json = Annotated[Raw, Meta(extra_json_schema={"description": "JSON, exactly as it is stored"})]

_REF: Final = "#/components/schemas/{name}"


class Record(msgspec.Struct, gc=False):
    """One thing that the API serves. ``noun`` is what clients know its kind by."""

    noun: ClassVar[str]

    def encode(self) -> bytes:
        """Return the record as JSON."""
        return encode_json(self)

    @classmethod
    def json_schema(cls) -> dict[str, object]:
        """Return the JSON schemas of the record and of its parts, by name (JSON Schema 2020-12)."""
        _, components = msgspec.json.schema_components([cls], ref_template=_REF)
        return components


class StoredRecord(Record):
    """A record with a row of its own."""

    id: Id


class UnreadableRecord(Record, omit_defaults=True):
    """What stands in the place of a stored record that cannot be read.

    ``kind`` is the noun of that record. ``target`` is the target that selects its agent, for a
    command.
    """

    noun = "unreadable"
    kind: str
    id: str
    reason: str
    target: str | UnsetType = UNSET


RowType = TypeVar("RowType", bound="IdentifiedRow")
RecordType = TypeVar("RecordType", bound=StoredRecord)
Arguments = ParamSpec("Arguments")


class IdentifiedRow(Protocol):
    """A row of a record."""

    @property
    def id(self) -> str: ...


def read_record(
    kind: str,
    from_row: Callable[Concatenate[RowType, Arguments], RecordType],
    row: RowType,
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> RecordType | UnreadableRecord:
    """Return the record that *from_row* makes of a row, or what stands in its place.

    So a record that cannot be read is never left out.
    """
    try:
        return from_row(row, *args, **kwargs)
    except UnreadableError as reason:
        return UnreadableRecord(kind, row.id, str(reason))


def make_raw_json(text: str | None, default: str = "null") -> Raw:
    """Return the JSON *text* of a column, to be served exactly as it is stored."""
    return Raw(default if text is None else text)


def check_numeric_id(text: str) -> str:
    """Return a stored numeric id, which is the same text in JSON.

    :raises UnreadableError: for anything else (a column of type numeric also holds NaN).
    """
    if not text.isdigit():
        raise UnreadableError(f"the id {text!r} is not a whole number")
    return text


def make_raw_id(text: str) -> Raw:
    """Return a stored numeric id as a JSON number.

    :raises UnreadableError: as :func:`check_numeric_id`.
    """
    return Raw(check_numeric_id(text))
