"""The base of all records: noun, encoding, and JSON schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Concatenate, Final, ParamSpec, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from mig.errors import UnreadableError
from mig.values import MAX_ID

encode_json = msgspec.json.Encoder().encode

ID_SCHEMA: Final[dict[str, object]] = {
    "type": ["integer", "string"],
    "minimum": 1,
    "maximum": MAX_ID,
    "pattern": "^[0-9]+$",
}
"""The JSON schema of an id in an answer: its digits, as a string when the client wants that."""

Id = Annotated[Raw, Meta(extra_json_schema=ID_SCHEMA)]
"""An id as the digits that are stored, so that no conversion can change it."""

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]

Json = Annotated[Raw, Meta(extra_json_schema={"description": "JSON, exactly as it is stored"})]

SCHEMA_REFERENCE: Final = "#/components/schemas/{name}"
"""The reference to the JSON schema of a record or a part, by its name."""


class Record(msgspec.Struct, gc=False):
    """A thing that the API serves; clients know its kind by ``noun``.

    ``flat`` is the kind of record that a row of a table has instead; ``None`` for the same one.
    ``members`` has, by the name of a field, those members of its object that are fields of their
    own in such a row.
    """

    noun: ClassVar[str]
    flat: ClassVar[type[Record] | None] = None
    members: ClassVar[Mapping[str, Sequence[str]]] = {}

    def encode(self) -> bytes:
        """Return the record as JSON."""
        return encode_json(self)

    @classmethod
    def build_json_schema(cls) -> dict[str, object]:
        """Return the JSON schemas (2020-12) of the record and of its parts, by name."""
        _, components = msgspec.json.schema_components([cls], ref_template=SCHEMA_REFERENCE)
        return components


class StoredRecord(Record):
    """A record with a row of its own."""

    id: Id

    def write_ids_as_text(self) -> None:
        """Let the record have all its ids as JSON strings, which no parser rounds."""
        self.id = quote_id(self.id)


class UnreadableRecord(Record, omit_defaults=True):
    """The placeholder for a stored record that cannot be read.

    ``kind`` is the noun of that record. For a command, ``target`` is the target that selects its
    agent.
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
    def id(self) -> str:
        """The id, as text."""
        ...


def read_record(
    kind: str,
    from_row: Callable[Concatenate[RowType, Arguments], RecordType],
    row: RowType,
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> RecordType | UnreadableRecord:
    """Return the record that ``from_row`` makes of a row, or the placeholder for an unreadable one.

    This way a record that cannot be read is never left out of an answer.
    """
    try:
        return from_row(row, *args, **kwargs)
    except UnreadableError as reason:
        return UnreadableRecord(kind, row.id, str(reason))


def make_raw_json(text: str | None, default: str = "null") -> Raw:
    """Return the JSON ``text`` of a column, which is served exactly as it is stored."""
    return Raw(default if text is None else text)


def check_numeric_id(text: str) -> str:
    """Return ``text``, a stored id, which is the same text in JSON.

    :raises UnreadableError: when it is not a whole number; a numeric column may also hold NaN.
    """
    if not text.isdigit():
        raise UnreadableError(f"the id {text!r} is not a whole number")
    return text


def quote_id(raw: Raw) -> Raw:
    """Return an id as a JSON string."""
    return Raw(b'"%b"' % bytes(raw))


def make_raw_id(text: str) -> Raw:
    """Return a stored id as a JSON number.

    :raises UnreadableError: when it is not a whole number.
    """
    return Raw(check_numeric_id(text))
