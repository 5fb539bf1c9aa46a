"""HTML: plain pages for browsers, without scripts, made of the same objects as Collection+JSON.

Import this module late: the template engine takes memory, and some milliseconds to load.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from msgspec import UnsetType

from mig.formats.format import (
    DEFAULT_OPTIONS,
    ActionFields,
    AnyRecord,
    DocumentTail,
    FormatOptions,
)
from mig.formats.html_values import (
    MAX_CELL_CHARACTERS,
    Value,
    cut,
    list_columns,
    make_link,
    make_value,
)
from mig.hypermedia.document import Collection, Data, FieldSchemas, Item, Link, Query
from mig.hypermedia.urls import DASHBOARD, STYLE, Urls
from mig.model.compliance import ComplianceItem
from mig.model.fields import list_fields
from mig.model.record import Record, StoredRecord, UnreadableRecord

MEDIA_TYPE: Final = "text/html"
CHARSET: Final = "utf-8"
MAX_ITEMS: Final = 500
"""How many rows the table of a page has at most; a link leads to the next ones."""

_ITEM_TITLES: Final = (
    *("result", "check", "location", "test"),
    *("target", "policy", "level", "ref", "action", "finished"),
)
_TITLES: Final = {
    "apikey": "API keys",
    "audit": "Audit",
    "compliance summary": "Compliance summary",
}
_LINKED_NOUNS: Final = frozenset({"command", "investigator", "apikey", "compliance summary"})
"""The records that have links of their own in a list."""
_FORMAT_TITLES: Final = {"collection": "JSON", "ndjson": "NDJSON", "csv": "CSV"}
_LONG_FIELDS: Final = frozenset({"action", "publickey", "permissions"})
_FIELD_CHOICES: Final = {"status": ("active", "disabled"), "apikey": ("active", "disabled")}
_MAX_NUMBER: Final = 2**53  # browsers have numbers as floats
_PLAIN_TEXT: Final = re.compile(rf"[\w./\\: -]{{0,{MAX_CELL_CHARACTERS}}}", re.ASCII)
"""What is short enough for a cell and has nothing to escape: most paths of files."""
_ROW_END: Final = b"</tr>\n"


def _load_parts() -> Any:
    """Return the macros of the pages."""
    environment = Environment(
        loader=PackageLoader("mig.formats", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    return environment.get_template("page.html").module


_parts: Final = _load_parts()


class _Field(NamedTuple):
    """A field of a form; ``is_open`` tells that the client completes its name."""

    key: str
    name: str
    value: object
    prompt: str | None
    choices: Sequence[str]
    attributes: Mapping[str, object]
    is_long: bool
    is_open: bool


class _Query(NamedTuple):
    rel: str
    action: str
    prompt: str | None
    fields: Sequence[_Field]


class Html:
    """The format of pages: a table of records or items, or all fields of one record.

    A row of a table has no end of its own: it is the separator, which no text contains.
    """

    media_types = (MEDIA_TYPE,)
    charset = CHARSET
    file_extension = ""
    is_paged = True
    is_flat = True
    ids_as_text = False
    needs_seal = False
    separator = _ROW_END
    max_items = MAX_ITEMS

    def __init__(self, urls: Urls, options: FormatOptions = DEFAULT_OPTIONS) -> None:
        self._urls = urls
        noun = options.record.noun
        plural = _TITLES.get(noun, noun.capitalize() + "s")
        self._title = options.title or (plural if options.is_list else noun.capitalize())
        self._is_table = options.is_list
        self._alternatives = options.alternatives
        is_report = issubclass(options.record, ComplianceItem)
        self._columns = () if is_report or not self._is_table else list_columns(options.record)
        self._has_links = noun in _LINKED_NOUNS
        titles = (*(c.title for c in self._columns), *(["related"] if self._has_links else []))
        self._titles = _ITEM_TITLES if is_report else titles
        # on a page with a title of its own, something else precedes the records
        self._head_titles = () if options.title else self._titles

    def encode_head(self, href: str) -> bytes:
        """Return the page up to the first row of its table, or to its only record."""
        head = _make_head(self._urls, href, self._title, self._alternatives)
        return _encode(head + _parts.table_head(self._head_titles) if self._is_table else head)

    def encode_tail(self, tail: DocumentTail) -> bytes:
        """Return what follows the last row: links, and the parameters of a search."""
        parts = []
        if self._is_table:
            parts.append(_parts.table_foot(tail.is_empty))
        parts.append(_parts.link_list(_make_links(self._urls, tail.links)))
        if tail.parameters is not None:
            parts.append(_parts.search_parameters(self._list_values(tail.parameters)))
        end = _encode(Markup().join([*parts, _parts.foot()]))
        return end if tail.is_empty or not self._is_table else _ROW_END + end

    def encode_record(self, record: AnyRecord, links: Sequence[Link] = ()) -> bytes:
        """Return the row of a record, or all of its fields if the page has no other."""
        if isinstance(record, UnreadableRecord):
            return self._encode_unreadable(record)
        shown_links = _make_links(self._urls, links)
        if not self._is_table:
            data = _parts.data_list(self._list_values(record))
            return _encode(data + _parts.link_list(shown_links))
        if isinstance(record, ComplianceItem):
            return self._encode_item(record)
        cells = [
            (column.title, make_value(self._urls, column.title, column.read(record), is_cell=True))
            for column in self._columns
        ]
        if isinstance(record, StoredRecord):
            title, first = cells[0]
            cells[0] = (title, self._link_record(record, first))
        return _encode(_parts.row(cells, [each[:2] for each in shown_links], self._has_links))

    def encode_item(self, item: Item) -> bytes:
        """Return the row of the item before all records, with the titles of the table."""
        return _encode(_parts.data_row(self._titles, _list_data(self._urls, item.data)))

    def _list_values(self, record: Record) -> list[tuple[str, Value]]:
        return [
            (field.name, make_value(self._urls, field.name, field.read(record)))
            for field in list_fields(type(record))
        ]

    def _link_record(self, record: StoredRecord, value: Value) -> Value:
        """Return the first cell of a record's row, which is a link to its page."""
        record_id = bytes(record.id).decode()
        href = make_link(self._urls, self._urls.for_record(record.noun, record_id))
        return value._replace(text=value.text or record_id, href=href, is_foreign=False)

    def _encode_unreadable(self, record: UnreadableRecord) -> bytes:
        link = make_link(self._urls, self._urls.for_record(record.kind, record.id))
        target = None if isinstance(record.target, UnsetType) else record.target
        shown = {"kind": record.kind, "id": record.id, "reason": record.reason, "target": target}
        if not self._is_table:
            return _encode(_parts.unreadable(shown, link))
        return _encode(_parts.unreadable_row(len(self._titles), shown, link))

    # Compliance items, of parts that are encoded once

    def _encode_item(self, item: ComplianceItem) -> bytes:
        check = item.check
        encode_check = self.make_check_encoder(
            name=check.name,
            type_=check.test.type,
            value=check.test.value,
            compliance=item.compliance,
        )
        action = ActionFields(policy=item.policy, ref=check.ref, description=check.description)
        head, tail = self.encode_command_parts(
            item.link,
            self.encode_agent_part(item.target),
            self.encode_action_part(action),
            item.timestamp,
        )
        return head + encode_check(check.location) + tail

    def make_check_encoder(
        self, *, name: str, type_: str, value: str, compliance: bool
    ) -> Callable[[str], bytes]:
        """Return a function that encodes the cells from the result to the test."""
        start = _encode(_parts.check_start(_ITEM_TITLES, compliance, cut(name)))
        end = _encode(_parts.check_end(_ITEM_TITLES, cut(type_), cut(value)))
        is_plain = _PLAIN_TEXT.fullmatch  # a local name is faster, and so is a plain text

        def encode(location: str) -> bytes:
            text = location if is_plain(location) else escape(cut(location))
            return start + text.encode() + end

        return encode

    def encode_action_part(self, action: ActionFields) -> bytes:
        """Return the cells of the policy and the action."""
        policy = action.policy
        href = make_link(self._urls, policy.url)
        values = [
            Value(cut(policy.name or (policy.url if href else "")), href=href, is_foreign=True),
            Value(cut(policy.level)),
            make_value(self._urls, "ref", action.ref, is_cell=True),
            Value(cut(action.description)),
        ]
        return _encode_cells(_ITEM_TITLES[5:9], values)

    def encode_agent_part(self, target: str) -> bytes:
        """Return the cell of the target."""
        return _encode_cells(_ITEM_TITLES[4:5], [Value(cut(target))])

    def encode_command_parts(
        self, link: str, agent: bytes, action: bytes, timestamp: str
    ) -> tuple[bytes, bytes]:
        """Return nothing, and the cells after those of the check."""
        finished = make_value(self._urls, "finished", timestamp, is_cell=True)
        href = make_link(self._urls, link)
        linked = finished._replace(href=href, text=finished.text or "the command")
        return b"", agent + action + _encode_cells(_ITEM_TITLES[9:], [linked])


def encode_document(
    urls: Urls,
    collection: Collection,
    *,
    schemas: Mapping[str, FieldSchemas],
    refusal: str = "",
) -> bytes:
    """Return the page of a small document.

    :param schemas: by the relation of a query, the schemas of its fields.
    :param refusal: why the template cannot be sent from this page; empty if it can.
    """
    error, path = collection.error, urlsplit(collection.href).path
    title = error.title if error else path.removeprefix(urlsplit(urls.base).path).strip("/")
    parts = [_make_head(urls, collection.href, title or "MIG API")]
    if error is not None:
        parts.append(_parts.error(error))
    parts += (_parts.data_list(_list_data(urls, item.data)) for item in collection.items or ())
    parts.append(_parts.link_list(_make_links(urls, collection.links or ())))
    # those with several fields first, which people use more than those for an id
    for query in sorted(collection.queries or (), key=lambda query: len(query.data or ()) == 1):
        parts.append(_parts.query(_make_query(urls, query, schemas.get(query.rel, {}))))
    if collection.template is not None:
        fields = [_make_field("template", data, {}) for data in collection.template.data]
        parts.append(_parts.template(make_link(urls, collection.href), fields, refusal))
    return _encode(Markup().join([*parts, _parts.foot()]))


def _encode(markup: str) -> bytes:
    return markup.encode()


def _encode_cells(titles: Sequence[str], values: Sequence[Value]) -> bytes:
    return _encode(
        Markup().join(
            _parts.cell(title, value) for title, value in zip(titles, values, strict=True)
        )
    )


def _make_head(urls: Urls, href: str, title: str, alternatives: Sequence[str] = ()) -> Markup:
    """Return the head of a page, with links to the same in other formats."""
    address = urlsplit(href)
    parameters = [
        (name, value) for name, value in parse_qsl(address.query, errors="replace") if value
    ]
    kept = [(name, value) for name, value in parameters if name not in ("cursor", "format")]
    addresses = [
        (_FORMAT_TITLES[name], f"{address.path}?{urlencode([*kept, ('format', name)])}")
        for name in alternatives
    ]
    pages = {
        "home": make_link(urls, urls.for_home()),
        "dashboard": make_link(urls, urls.base + DASHBOARD),
        "style": make_link(urls, urls.base + STYLE),
    }
    head: Markup = _parts.head(title, pages, parameters, addresses)
    return head


def _make_links(urls: Urls, links: Sequence[Link]) -> list[tuple[str, str, str | None]]:
    """Return the relation, the address and the prompt of each link."""
    return [(link.rel, make_link(urls, link.href), link.prompt) for link in links]


def _list_data(urls: Urls, data: Sequence[Data]) -> list[tuple[str, Value]]:
    return [(each.name, make_value(urls, each.name, each.value)) for each in data]


def _make_query(urls: Urls, query: Query, schemas: FieldSchemas) -> _Query:
    fields = [_make_field(query.rel, data, schemas.get(data.name, {})) for data in query.data or ()]
    return _Query(query.rel, make_link(urls, query.href), query.prompt, fields)


def _make_field(form: str, data: Data, schema: Mapping[str, object]) -> _Field:
    """Return a field of a form, as the schema says."""
    choices = schema.get("enum", ())
    if schema.get("type") == "boolean":
        choices = ("true", "false")
    if form == "template":
        choices = _FIELD_CHOICES.get(data.name, ())
    assert isinstance(choices, Sequence)
    return _Field(
        key=f"{form}-{data.name}",
        name=data.name,
        value=data.value,
        prompt=data.prompt,
        choices=choices,
        attributes=_list_attributes(schema),
        is_long=form == "template" and data.name in _LONG_FIELDS,
        is_open=data.name.endswith(".NAME"),
    )


def _list_attributes(schema: Mapping[str, object]) -> dict[str, object]:
    """Return the attributes of an input for the values that a schema allows."""
    maximum = schema.get("maximum")
    if schema.get("type") == "integer":
        if isinstance(maximum, int) and maximum <= _MAX_NUMBER:
            return {"type": "number", "min": schema.get("minimum"), "max": maximum}
        return {"type": "text", "inputmode": "numeric", "pattern": "[0-9]*"}
    examples = schema.get("examples")
    example = examples[-1] if isinstance(examples, list) else None
    return {"type": "text", "maxlength": schema.get("maxLength"), "placeholder": example}
