"""Investigators, who sign actions."""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated, Final, NamedTuple

from msgspec import UNSET, UnsetType

from mig.model.permissions import Permission
from mig.model.record import StoredRecord, Time, UnreadableRecord, make_raw_id, read_record
from mig.model.row import Columns, Row, id_sql, make_row_reader, parse_json_rows
from mig.model.statement import QueryFunction, Statement
from mig.values import format_time


class InvestigatorRow(NamedTuple):
    """The columns of an investigator."""

    id: Annotated[str, id_sql("i.id")]
    name: Annotated[str, "i.name"]
    pgpfingerprint: Annotated[str | None, "i.pgpfingerprint"]
    status: Annotated[str, "i.status"]
    createdat: Annotated[str, "i.createdat::text"]
    lastmodified: Annotated[str, "i.lastmodified::text"]
    permissions: Annotated[str, "i.permissions::text"]

    @property
    def sort_time(self) -> str:
        """The time that searches are ordered by."""
        return self.createdat


class _KeyRow(NamedTuple):
    publickey: Annotated[bytes | None, "i.publickey"]


class InvestigatorDocument(NamedTuple):
    """The row of an investigator's own document."""

    investigator: InvestigatorRow
    publickey: bytes | None

    def read(self, apikey: str | UnsetType = UNSET) -> Investigator | UnreadableRecord:
        """Return the investigator, or the placeholder for an unreadable one.

        :param apikey: a new API key for the document.
        """
        publickey = b64encode(self.publickey or b"").decode()
        row = self.investigator
        return read_record(Investigator.noun, Investigator.from_row, row, publickey, apikey)


class Investigator(StoredRecord, gc=False, omit_defaults=True):
    """An investigator.

    ``publickey``, in base64, is only in the investigator's own document; ``permissions`` is not in
    the investigators of an action. ``apikey`` is a new API key, only in the answer to the request
    that has made it.
    """

    noun = "investigator"
    name: str
    pgpfingerprint: str
    status: str
    createdat: Time
    lastmodified: Time
    permissions: dict[str, bool] | UnsetType = UNSET
    publickey: str | UnsetType = UNSET
    apikey: str | UnsetType = UNSET

    @classmethod
    def from_row(
        cls,
        row: InvestigatorRow,
        publickey: str | UnsetType = UNSET,
        apikey: str | UnsetType = UNSET,
    ) -> Investigator:
        """Return the investigator of a row.

        :raises UnreadableError: for an id or a time that cannot be served.
        """
        investigator = cls.from_signer_row(row)
        investigator.permissions = Permission(int(row.permissions)).to_json_value()
        investigator.publickey = publickey
        investigator.apikey = apikey
        return investigator

    @classmethod
    def from_signer_row(cls, row: InvestigatorRow) -> Investigator:
        """Return the investigator of a row as one who signed an action.

        :raises UnreadableError: for an id or a time that cannot be served.
        """
        return cls(
            make_raw_id(row.id),
            row.name,
            row.pgpfingerprint or "",
            row.status,
            format_time(row.createdat),
            format_time(row.lastmodified),
        )


INVESTIGATOR: Final = Columns(InvestigatorRow)
_KEY: Final = INVESTIGATOR.make_next(_KeyRow)

ALL_INVESTIGATORS: Final = Statement(
    f"""
select {INVESTIGATOR.sql}
from investigators i
order by i.id
""",
    INVESTIGATOR,
)
DOCUMENT_SQL: Final = f"{INVESTIGATOR.sql}, {_KEY.sql}"
"""SQL of the columns of an :class:`InvestigatorDocument`, for an investigator ``i``."""


def read_document(row: Row) -> InvestigatorDocument:
    """Return the document in a row of :data:`DOCUMENT_SQL`."""
    return InvestigatorDocument(INVESTIGATOR.read_part(row), _KEY.read_part(row).publickey)


_INVESTIGATOR_BY_ID: Final = Statement(
    f"""
select {DOCUMENT_SQL}
from investigators i
where i.id = %(id)s
""",
    read_document,
    name="investigator_by_id",
    types={"id": "numeric"},
)

SIGNER_SQL: Final = f"json_build_array({INVESTIGATOR.sql})"
"""SQL for an investigator ``i`` as a JSON value; :func:`parse_signers` parses an array of them."""

SIGNERS_OF_ACTION_SQL: Final = f"""(
    select json_agg({SIGNER_SQL} order by i.id)::text
    from signatures s
    join investigators i on i.id = s.investigatorid
    where s.actionid = a.id
)"""
"""SQL for the investigators who signed an action ``a``, as such an array."""


def parse_signers(column: str | None) -> list[Investigator]:
    """Return the investigators in a column of :data:`SIGNERS_OF_ACTION_SQL`.

    :raises UnreadableError: for an id or a time that cannot be served.
    """
    rows = parse_json_rows(column) if column else ()
    return [Investigator.from_signer_row(INVESTIGATOR.read_row(row)) for row in rows]


# upper(): rows that this service did not write may have fingerprints in lower case.
_PUBLIC_KEY_BY_FINGERPRINT: Final = Statement(
    """
    select publickey
    from investigators
    where upper(pgpfingerprint) = upper(%s) and status = 'active' and publickey is not null
    order by id
    limit 1
    """,
    make_row_reader(_KeyRow),
)


async def find_public_key(query: QueryFunction, fingerprint: str) -> bytes | None:
    """Return the armored key of the active investigator with this fingerprint, or ``None``."""
    for row in await query(_PUBLIC_KEY_BY_FINGERPRINT, (fingerprint,)):
        return bytes(row.publickey or b"")
    return None


async def find_investigator(
    query: QueryFunction, investigator_id: int
) -> Investigator | UnreadableRecord | None:
    """Return the investigator ``investigator_id`` with the public key, or ``None``."""
    for document in await query(_INVESTIGATOR_BY_ID, {"id": investigator_id}):
        return document.read()
    return None
