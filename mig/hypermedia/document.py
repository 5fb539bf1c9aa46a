"""The objects of a Collection+JSON document (the media type's specification, section 3).

Which of them make a document, and its bytes, is :mod:`mig.formats.collection_json`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Data(msgspec.Struct, omit_defaults=True, frozen=True):
    """A name and its value, which in items of MIG may be an object: our one deviation."""

    name: str
    value: object
    prompt: str | None = None


class Link(msgspec.Struct, omit_defaults=True, frozen=True):
    """Where something related is."""

    rel: str
    href: str
    name: str | None = None
    prompt: str | None = None


class Query(msgspec.Struct, omit_defaults=True, frozen=True):
    """What a client may ask: it sends all of the data, each value a default."""

    rel: str
    href: str
    prompt: str | None = None
    data: Sequence[Data] | None = None


class Item(msgspec.Struct, omit_defaults=True, frozen=True):
    """One thing, and its own address."""

    href: str
    data: Sequence[Data]
    links: Sequence[Link] | None = None


class Template(msgspec.Struct, frozen=True):
    """What a client fills in and posts."""

    data: Sequence[Data]


class Error(msgspec.Struct, frozen=True):
    """Why there is no answer. ``code`` is the operation id."""

    title: str
    code: str
    message: str


class Collection(msgspec.Struct, omit_defaults=True, frozen=True, kw_only=True):
    """What a document holds; a member that is ``None`` is not in it."""

    version: str
    href: str
    items: Sequence[Item] | None = None
    links: Sequence[Link] | None = None
    queries: Sequence[Query] | None = None
    template: Template | None = None
    error: Error | None = None


class Document(msgspec.Struct, frozen=True):
    """A whole document."""

    collection: Collection
