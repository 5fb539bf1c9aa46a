"""The interface of a format, which writes every byte of a document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from mig.formats.seal import Seal
from mig.hypermedia.document import Item, Link
from mig.model.compliance import ComplianceItem, ComplianceSummary, Policy
from mig.model.record import Record, StoredRecord, UnreadableRecord
from mig.model.search import SearchParameters

AnyRecord = StoredRecord | ComplianceItem | ComplianceSummary | UnreadableRecord


class ActionFields(NamedTuple):
    """The fields of a compliance item that come from its action."""

    policy: Policy
    ref: str
    description: str


class FormatOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may choose about a document, and what a format must know of it.

    :param record: the kind of record that the document has.
    :param fields: the names of the fields that a row has; ``None`` for all.
    :param ids_as_text: whether ids are JSON strings, which no parser rounds.
    :param is_limited: whether a limit was given, which may cut the document.
    :param is_sealed: whether a document that no limit has cut ends with its seal, too.
    :param is_raw: whether texts that a spreadsheet would run stay as they are.
    :param has_bom: whether the document begins with a byte order mark.
    :param is_list: whether the document may have several records.
    :param title: what a page is about; by default the kind of record.
    :param alternatives: the names of the formats that a client may have instead.
    """

    record: type[Record] = Record
    fields: tuple[str, ...] | None = None
    ids_as_text: bool = False
    is_limited: bool = False
    is_sealed: bool = False
    is_raw: bool = False
    has_bom: bool = False
    is_list: bool = False
    title: str = ""
    alternatives: tuple[str, ...] = ()


DEFAULT_OPTIONS: Final = FormatOptions()


class DocumentTail(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a document that is known only at its end.

    :param href: the document's address.
    :param is_empty: whether nothing has been written since the head.
    :param links: those of the document, such as ``next``.
    :param row_count: how many records were read; in a report, how many commands.
    :param seal: that of everything before the tail, if :attr:`Format.needs_seal`.
    :param parameters: the parameters of a search, on its first page.
    :param total: how many results a search has without a limit, if they were counted.
    """

    href: str
    is_empty: bool
    links: Sequence[Link] = ()
    row_count: int = 0
    seal: Seal | None = None
    parameters: SearchParameters | None = None
    total: int | None = None


class Format(Protocol):
    """A format of answers; an instance serves one request.

    Its methods are pure functions: their results depend on their arguments alone. So the encoder
    of compliance items can cache the parts of a check, an action and an agent.
    """

    @property
    def media_types(self) -> tuple[str, ...]:
        """The media types under which the format can be sent; the first one is its own."""
        ...

    @property
    def charset(self) -> str:
        """The charset that the media type must name; empty for none."""
        ...

    @property
    def file_extension(self) -> str:
        """The extension of the file that a client may save; empty for none."""
        ...

    @property
    def is_paged(self) -> bool:
        """Whether a search without a limit gets the default one, and a link to the next page."""
        ...

    @property
    def is_flat(self) -> bool:
        """Whether a record is written as its fields: :attr:`mig.model.record.Record.flat`."""
        ...

    @property
    def ids_as_text(self) -> bool:
        """Whether ids are written as JSON strings, also those in parts that are encoded before."""
        ...

    @property
    def needs_seal(self) -> bool:
        """Whether the tail needs the seal of what is before it."""
        ...

    @property
    def separator(self) -> bytes:
        """The bytes between two records or items."""
        ...

    @property
    def max_items(self) -> int | None:
        """How many records or items a document has at most; ``None`` for any number.

        If there is such a number, no record or item contains the separator.
        """
        ...

    def encode_head(self, href: str) -> bytes:
        """Return the bytes before the first record; ``href`` is the document's address."""
        ...

    def encode_tail(self, tail: DocumentTail) -> bytes:
        """Return the bytes after the last record."""
        ...

    def encode_record(self, record: AnyRecord, links: Sequence[Link] = ()) -> bytes:
        """Return a record or item with its ``links``."""
        ...

    def make_check_encoder(
        self, *, name: str, type_: str, value: str, compliance: bool
    ) -> Callable[[str], bytes]:
        """Return a function that encodes the part of a compliance item that describes the check.

        Its argument is the location, since many checks of a report differ in nothing else.
        """
        ...

    def encode_action_part(self, action: ActionFields) -> bytes:
        """Return the part of a compliance item that describes the action."""
        ...

    def encode_agent_part(self, target: str) -> bytes:
        """Return the part of a compliance item that describes the agent: its target."""
        ...

    def encode_command_parts(
        self, link: str, agent: bytes, action: bytes, timestamp: str
    ) -> tuple[bytes, bytes]:
        """Return the parts of an item before and after that of the check.

        :param link: the command's URL.
        :param agent: the result of :meth:`encode_agent_part`.
        :param action: the result of :meth:`encode_action_part`.
        :param timestamp: when the command finished.
        """
        ...


class DocumentFormat(Format, Protocol):
    """A format of documents, whose items need not be records."""

    def encode_item(self, item: Item) -> bytes:
        """Return an item that is not a record."""
        ...
