"""The interface of a format, which writes every byte of a document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from mig.hypermedia.document import Link
from mig.model.compliance import ComplianceItem, Policy
from mig.model.record import StoredRecord, UnreadableRecord
from mig.model.search import SearchParameters

AnyRecord = StoredRecord | ComplianceItem | UnreadableRecord


class ActionFields(NamedTuple):
    """The fields of a compliance item that come from its action."""

    policy: Policy
    ref: str
    description: str


class DocumentTail(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a document that is known only at its end.

    :param href: the document's address.
    :param is_empty: whether nothing has been written since the head.
    :param parameters: the parameters of a search, on its first page.
    :param total: how many results a search has without a limit, if they were counted.
    """

    href: str
    is_empty: bool
    links: Sequence[Link] = ()
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
    def separator(self) -> bytes:
        """The bytes between two records or items."""
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
