"""The entries of the audit: who changed what, and which requests were refused."""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Raw

from mig.model.record import ID_SCHEMA, Json, StoredRecord, Time, make_raw_id, make_raw_json
from mig.model.row import Columns, id_sql
from mig.values import format_time

OptionalId = Annotated[
    Raw, Meta(extra_json_schema={**ID_SCHEMA, "type": ["integer", "string", "null"]})
]
"""An id as the digits that are stored, or null."""


class AuditRow(NamedTuple):
    """The columns of an entry."""

    id: Annotated[str, id_sql("a.id")]
    at: Annotated[str, "a.at::text"]
    operation: Annotated[str, "a.operation"]
    caller: Annotated[str | None, id_sql("a.caller")]
    callername: Annotated[str, "a.callername"]
    key: Annotated[int | None, "a.key"]
    client: Annotated[str | None, "a.client"]
    method: Annotated[str | None, "a.method"]
    path: Annotated[str | None, "a.path"]
    object: Annotated[str, "a.object"]
    objectid: Annotated[str | None, id_sql("a.objectid")]
    before: Annotated[str | None, "a.before::text"]
    after: Annotated[str | None, "a.after::text"]
    outcome: Annotated[str, "a.outcome"]
    repetitions: Annotated[int, "a.count"]


AUDIT: Final = Columns(AuditRow)


class AuditEntry(StoredRecord, gc=False):
    """A change, or a refusal with the number of times that it was repeated.

    ``caller`` is the investigator's id, or null; ``before`` and ``after`` are what was changed.
    """

    noun = "audit"
    at: Time
    operation: str
    caller: OptionalId
    callername: str
    key: int | None
    client: str | None
    method: str | None
    path: str | None
    object: str
    objectid: OptionalId
    before: Json
    after: Json
    outcome: str
    count: int

    @classmethod
    def from_row(cls, row: AuditRow) -> AuditEntry:
        """Return the entry of a row.

        :raises UnreadableError: for an id or a time that cannot be served.
        """
        return cls(
            make_raw_id(row.id),
            format_time(row.at),
            row.operation,
            _make_optional_id(row.caller),
            row.callername,
            row.key,
            row.client,
            row.method,
            row.path,
            row.object,
            _make_optional_id(row.objectid),
            make_raw_json(row.before),
            make_raw_json(row.after),
            row.outcome,
            row.repetitions,
        )


def _make_optional_id(text: str | None) -> Raw:
    return Raw(b"null") if text is None else make_raw_id(text)
