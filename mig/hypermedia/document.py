"""Collection+JSON documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mig.errors import Unreadable

MEDIA_TYPE = "application/vnd.collection+json"
MEDIA_TYPES = (MEDIA_TYPE, "application/json")
"""Those that a document is given as, the default first."""

encode = msgspec.json.Encoder().encode


class Data(msgspec.Struct, omit_defaults=True, frozen=True):
    name: str
    value: Any
    prompt: str | None = None


class Link(msgspec.Struct, omit_defaults=True, frozen=True):
    rel: str
    href: str
    name: str | None = None
    prompt: str | None = None


class Query(msgspec.Struct, omit_defaults=True, frozen=True):
    rel: str
    href: str
    prompt: str | None = None
    data: Sequence[Data] | None = None


class Item(msgspec.Struct, omit_defaults=True, frozen=True):
    href: str
    data: Sequence[Data]
    links: Sequence[Link] | None = None


class Template(msgspec.Struct, frozen=True):
    data: Sequence[Data]


class Error(msgspec.Struct, frozen=True):
    title: str
    code: str
    message: str


class Collection(msgspec.Struct, omit_defaults=True, frozen=True, kw_only=True):
    version: str
    href: str
    links: Sequence[Link] | None = None
    items: Sequence[Item] | None = None
    queries: Sequence[Query] | None = None
    template: Template | None = None
    error: Error | None = None


class Document(msgspec.Struct, frozen=True):
    collection: Collection


def document(
    href: str,
    *,
    links: Sequence[Link] | None = None,
    items: Sequence[Item] | None = None,
    queries: Sequence[Query] | None = None,
    template: Template | None = None,
    error: Error | None = None,
) -> bytes:
    """A whole document; what is ``None`` does not appear in it."""
    collection = Collection(
        version="1.0",
        href=href,
        links=links,
        items=items,
        queries=queries,
        template=template,
        error=error,
    )
    return encode(Document(collection))


def head(href: str) -> bytes:
    """What stands before the first item of a streamed document."""
    return b'{"collection":{"version":"1.0","href":%b,"items":[' % encode(href)


SEPARATOR = b",\n"


def tail(links: Sequence[Link] | None = None) -> bytes:
    """What stands after the last item of a streamed document."""
    return b"]%b}}\n" % (b',"links":' + encode(links) if links else b"")


def unreadable_item(kind: str, href: str, reason: Unreadable, **known: str) -> bytes:
    """What stands in a list for a record that cannot be read, so that it is not left out."""
    value = {"link": href, **known, "reason": str(reason)}
    return encode(Item(href=href, data=[Data(name=f"unreadable {kind}", value=value)]))
