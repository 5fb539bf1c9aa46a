"""What a format is: all bytes of a document are its own, from the first to the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mig.hypermedia.document import Link
from mig.model.compliance import ComplianceItem, Policy
from mig.model.record import StoredRecord, UnreadableRecord
from mig.model.search import SearchParameters

AnyRecord = StoredRecord | ComplianceItem | UnreadableRecord


class ActionFields(NamedTuple):
    """What a compliance item says of the action that it belongs to."""

    policy: Policy
    ref: str
    description: str


@dataclass(frozen=True, kw_only=True)
class DocumentTail:
    """What is only known at the end of a document.

    :param href: the document's address.
    :param is_empty: whether nothing was written since the head.
    :param parameters: what a search asked, on its first page.
    """

    href: str
    is_empty: bool
    links: Sequence[Link] = ()
    parameters: SearchParameters | None = None


class Format(Protocol):
    """The form of an answer, which one object writes for one request.

    Its methods are pure functions: what they return depends on their arguments alone. So the
    encoder of compliance items keeps what they return for a check, an action and an agent.
    """

    @property
    def media_types(self) -> tuple[str, ...]:
        """The media types that it can be sent as; the first one is its own."""
        ...

    @property
    def separator(self) -> bytes:
        """What is written between two records or items."""
        ...

    def encode_head(self, href: str) -> bytes:
        """Return what is written before the first record; *href* is the document's address."""
        ...

    def encode_tail(self, tail: DocumentTail) -> bytes:
        """Return what is written after the last record."""
        ...

    def encode_record(self, record: AnyRecord, links: Sequence[Link] = ()) -> bytes:
        """Return one record or item; *links* lead to what belongs to it."""
        ...

    def make_check_encoder(
        self, *, name: str, type_: str, value: str, compliance: bool
    ) -> Callable[[str], bytes]:
        """Return what makes the part of a compliance item that the check decides, of its location.

        Many checks of a report differ in their location and in nothing else.
        """
        ...

    def encode_action_part(self, action: ActionFields) -> bytes:
        """Return the part of a compliance item that the action decides."""
        ...

    def encode_agent_part(self, target: str) -> bytes:
        """Return the part of a compliance item that the agent decides: its target."""
        ...

    def encode_command_parts(
        self, link: str, agent: bytes, action: bytes, timestamp: str
    ) -> tuple[bytes, bytes]:
        """Return what is written before and after the part of the check in each item.

        :param link: the command's URL.
        :param agent: what :meth:`encode_agent_part` returned.
        :param action: what :meth:`encode_action_part` returned.
        """
        ...
