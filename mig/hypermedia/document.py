"""The objects of a Collection+JSON document (section 3 of the media type's specification).

:mod:`mig.formats.collection_json` builds documents of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

FieldSchemas = Mapping[str, Mapping[str, object]]
"""By name, the JSON schemas of what a client may send in a query."""


class Data(msgspec.Struct, omit_defaults=True, frozen=True, gc=False):
    """A name and a value. The value may be an object, which the media type does not allow."""

    name: str
    value: object
    prompt: str | None = None


class Link(msgspec.Struct, omit_defaults=True, frozen=True, gc=False):
    """A link to something related."""

    rel: str
    href: str
    name: str | None = None
    prompt: str | None = None


class Query(msgspec.Struct, omit_defaults=True, frozen=True, gc=False):
    """A query that a client may send, with all of the data; each value is a default."""

    rel: str
    href: str
    prompt: str | None = None
    data: Sequence[Data] | None = None


class Item(msgspec.Struct, omit_defaults=True, frozen=True, gc=False):
    """A record with its own address."""

    href: str
    data: Sequence[Data]
    links: Sequence[Link] | None = None


class Template(msgspec.Struct, frozen=True):
    """A form that a client fills in and posts."""

    data: Sequence[Data]


class Error(msgspec.Struct, frozen=True):
    """The reason why there is no answer; ``code`` is the operation id."""

    title: str
    code: str
    message: str


class Collection(msgspec.Struct, omit_defaults=True, frozen=True, kw_only=True):
    """The content of a document; members that are ``None`` are left out."""

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
