"""Collection+JSON, the format that clients of MIG have always read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from msgspec import UnsetType

from mig.formats.format import (
    DEFAULT_OPTIONS,
    ActionFields,
    AnyRecord,
    DocumentTail,
    FormatOptions,
)
from mig.hypermedia.document import Collection, Data, Document, Error, Item, Link, Query, Template
from mig.hypermedia.urls import Urls
from mig.model.compliance import ComplianceItem, ComplianceSummary
from mig.model.record import StoredRecord, UnreadableRecord, encode_json

MEDIA_TYPE: Final = "application/vnd.collection+json"
MEDIA_TYPES: Final = (MEDIA_TYPE, "application/json")
VERSION: Final = "1.0"

_HEAD: Final = b'{"collection":{"version":"1.0","href":%b,"items":[\n'
_SEPARATOR: Final = b",\n"
_COMPLIANCE_HEAD: Final = b'{"href":"%b","data":[{"name":"compliance item","value":{%b,%b,'
_COMPLIANCE_TAIL: Final = b',"link":"%b","timestamp":"%b","utctimestamp":"%b"}}]}'


def write_document(
    href: str,
    *,
    items: Sequence[Item] | None = None,
    links: Sequence[Link] | None = None,
    queries: Sequence[Query] | None = None,
    template: Template | None = None,
    error: Error | None = None,
) -> bytes:
    """Return a small document as a whole; members that are ``None`` are left out."""
    collection = Collection(
        version=VERSION, href=href, links=links, queries=queries, template=template, error=error
    )
    document = encode_json(Document(collection))
    if items is None:
        return document + b"\n"
    # like a streamed document, this one has each item on a line of its own: the items are inserted
    # where the head without ',"items":[\n' ends
    head, lines = _HEAD % encode_json(href), _SEPARATOR.join(map(encode_json, items))
    return head + lines + b"\n]" + document.removeprefix(head[: -len(',"items":[\n')]) + b"\n"


class CollectionJson:
    """The format Collection+JSON, with each record as an item on a line of its own."""

    media_types = MEDIA_TYPES
    charset = ""  # JSON is always UTF-8
    file_extension = ""
    is_paged = True
    is_flat = False
    needs_seal = False
    separator = _SEPARATOR
    max_items = None

    def __init__(self, urls: Urls, options: FormatOptions = DEFAULT_OPTIONS) -> None:
        self._urls = urls
        self.ids_as_text = options.ids_as_text

    def encode_head(self, href: str) -> bytes:
        """Return the document up to its first item."""
        return _HEAD % encode_json(href)

    def encode_tail(self, tail: DocumentTail) -> bytes:
        """Return the item "search parameters", if there is one, and the end of the document."""
        end_of_items = b"" if tail.is_empty else b"\n"
        if tail.parameters is not None:
            if self.ids_as_text:
                tail.parameters.write_ids_as_text()
            data = [Data(name=tail.parameters.noun, value=tail.parameters)]
            item = encode_json(Item(href=tail.href, data=data))
            end_of_items = (b"" if tail.is_empty else _SEPARATOR) + item + b"\n"
        links = b',"links":' + encode_json(tail.links) if tail.links else b""
        return end_of_items + b"]" + links + b"}}\n"

    def encode_record(self, record: AnyRecord, links: Sequence[Link] = ()) -> bytes:
        """Return a record as an item; that of an unreadable record has the reason."""
        if isinstance(record, StoredRecord):
            href = self._urls.for_record(record.noun, bytes(record.id).decode())
            if self.ids_as_text:
                record.write_ids_as_text()
        elif isinstance(record, ComplianceItem):
            href = record.link
        elif isinstance(record, ComplianceSummary):
            href = links[0].href  # of its items: a summary has no address of its own
        else:
            return self._encode_unreadable(record)
        data = [Data(name=record.noun, value=record)]
        return encode_json(Item(href=href, data=data, links=links or None))

    def encode_item(self, item: Item) -> bytes:
        """Return an item that is not a record."""
        return encode_json(item)

    def _encode_unreadable(self, record: UnreadableRecord) -> bytes:
        href = self._urls.for_record(record.kind, record.id)
        target = {} if isinstance(record.target, UnsetType) else {"target": record.target}
        value = {"link": href, **target, "reason": record.reason}
        data = [Data(name=f"unreadable {record.kind}", value=value)]
        return encode_json(Item(href=href, data=data))

    def make_check_encoder(
        self, *, name: str, type_: str, value: str, compliance: bool
    ) -> Callable[[str], bytes]:
        """Return a function that encodes the members from ``check.location`` to ``compliance``."""
        members = {"name": name, "test": {"type": type_, "value": value}}
        end = b",%b},%b" % (
            _encode_members(members),
            _encode_members({"compliance": compliance}),
        )

        encode = encode_json  # a local name is faster, and some reports call this for each item
        return lambda location: b'"location":' + encode(location) + end

    def encode_action_part(self, action: ActionFields) -> bytes:
        """Return the members from ``policy`` to ``check.description``."""
        check = {"ref": action.ref, "description": action.description}
        return _encode_members({"policy": action.policy}) + b',"check":{' + _encode_members(check)

    def encode_agent_part(self, target: str) -> bytes:
        """Return the member ``target``."""
        return _encode_members({"target": target})

    def encode_command_parts(
        self, link: str, agent: bytes, action: bytes, timestamp: str
    ) -> tuple[bytes, bytes]:
        """Return the parts of a command's items before and after the check."""
        # our URLs and times contain nothing that JSON must escape
        href, time = link.encode(), timestamp.encode()
        return _COMPLIANCE_HEAD % (href, agent, action), _COMPLIANCE_TAIL % (href, time, time)


def _encode_members(value: object) -> bytes:
    """Return the members of an object, without its braces."""
    return encode_json(value)[1:-1]
