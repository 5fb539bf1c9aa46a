"""A page shows what records have, and nothing of it runs or leads anywhere else."""

from __future__ import annotations

import types
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Raw, UnsetType

from mig.formats.format import ActionFields, DocumentTail, FormatOptions
from mig.formats.html import Html, encode_document
from mig.formats.html_values import MAX_BLOCK_CHARACTERS, cut, list_columns
from mig.hypermedia.document import Collection, Data, Error, Item, Link, Query, Template
from mig.hypermedia.urls import Urls
from mig.model.action import Action
from mig.model.agent import Agent
from mig.model.apikey import ApiKey
from mig.model.audit import AuditEntry
from mig.model.command import Command, FlatCommand
from mig.model.compliance import ComplianceItem
from mig.model.investigator import Investigator
from mig.model.record import Record, UnreadableRecord, encode_json
from mig.model.search import SearchParameters
from tests.support.html import Page
from tests.support.properties import REPETITIONS

URLS = Urls("http://localhost:1664/api/v1")
HREF = "http://localhost:1664/api/v1/search?type=agent&after=-7d"
# by the type of its rows, what a page is of: the rows of commands have no whole action and agent
RECORDS: dict[type[Record], type[Record]] = {
    **{each: each for each in (Action, Agent, ApiKey, AuditEntry, Investigator, ComplianceItem)},
    FlatCommand: Command,
}
HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>'",
    "javascript:alert(1)",
    "JavaScript:alert(1)//http://x/",
    "java\nscript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:x",
    "//evil.example/",
    "http://localhost:1664//evil.example/",
    "http://localhost:1664/\\evil.example/",
    "http://localhost:1664/\t/evil.example/",
    'https://evil.example/" onmouseover="alert(1)',
    "https://evil.example/?<b>",
    "HTTP://evil.example",
    "http://",
    "</tr>\n<tr>",
    "</textarea></title></style><svg/onload=alert(1)>",
    "<!--",
    "{{ 7*7 }}{% raw %}",
    "&lt;&#x3c;",
    "0001-01-01T00:00:00Z",
)
texts = st.sampled_from(HOSTILE) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20
)


def fill(kind: Any, text: str) -> Any:
    """Return a value of a type, with *text* wherever it has text."""
    if kind is Raw:
        return Raw(encode_json({text: [text, None, 1]}))
    if kind is str:
        return text
    if kind in (bool, int, type(None)):
        return kind()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return fill_record(kind, text)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        schema = next((a.extra_json_schema for a in arguments[1:]), None) or {}
        return Raw(b"7") if "minimum" in schema else fill(arguments[0], text)
    if origin in (typing.Union, types.UnionType):
        return fill(next(each for each in arguments if each not in (type(None), UnsetType)), text)
    if origin is list:
        return [fill(arguments[0], text)]
    assert origin is dict, kind
    return {text: fill(arguments[1], text)}


def fill_record(record_type: type[Any], text: str) -> Any:
    fields = msgspec.structs.fields(record_type)
    return record_type(**{field.name: fill(field.type, text) for field in fields})


def make_page(format_: Html, *rows: bytes, **tail: Any) -> Page:
    end = DocumentTail(href=HREF, is_empty=not rows, **tail)
    body = format_.separator.join(rows)
    return Page(format_.encode_head(HREF) + body + format_.encode_tail(end))


def join_words(text: str) -> str:
    return " ".join(text.split())


@settings(max_examples=30 * REPETITIONS)  # each makes some thirty pages
@given(text=texts)
def test_no_text_of_a_record_runs_or_becomes_another_link(text: str) -> None:
    """The reader of the page refuses every element and attribute that ours do not have."""
    links = [Link(rel=text, href=URLS.for_action("1"), prompt=text)]
    for row_type, record_type in RECORDS.items():
        record = fill_record(row_type, text)
        unreadable = UnreadableRecord("command", "7", text, text)
        item = Item(href=HREF, data=[Data(text, text), Data("x", {text: text}), Data("n", [text])])
        for is_list in (True, False):
            format_ = Html(URLS, FormatOptions(record=record_type, is_list=is_list, title=text))
            encoded = format_.encode_record(record, links)
            assert format_.separator not in encoded
            page = make_page(format_, encoded, links=links)
            if text != "0001-01-01T00:00:00Z":
                assert join_words(cut(text)) in join_words(page.text)
            rows = [format_.encode_record(record), format_.encode_record(unreadable)]
            if is_list:
                page = make_page(format_, format_.encode_item(item), *rows)
                assert len(page.items) == 3
        parameters = fill_record(SearchParameters, text)
        make_page(Html(URLS, FormatOptions(record=Agent, is_list=True)), parameters=parameters)


@given(text=texts)
def test_no_text_of_a_document_runs_or_becomes_another_link(text: str) -> None:
    collection = Collection(
        version="1.0",
        href=URLS.for_search([(text, text), ("x", text)]),
        items=[Item(href=HREF, data=[Data(text, text)])],
        links=[Link(rel=text, href=HREF, prompt=text)],
        queries=[Query(rel=text, href=HREF, prompt=text, data=[Data(text, text, text)])],
        template=Template(data=[Data(text, text, text), Data("action", text, text)]),
        error=Error(title=text, code=text, message=text),
    )
    schemas = {text: {text: {"type": "string", "enum": [text], "examples": [text]}}}
    Page(encode_document(URLS, collection, schemas=schemas, refusal=text))


@given(name=texts, value=texts, location=texts, url=texts, complies=st.booleans())
@example(name="n", value="v", location="l", url="https://policies.example/1", complies=False)
def test_the_parts_of_a_compliance_item_join_to_its_row(
    name: str, value: str, location: str, url: str, complies: bool
) -> None:
    item = fill_record(ComplianceItem, name)
    item.check.test.value, item.check.location, item.policy.url = value, location, url
    item.compliance, item.link, item.timestamp = complies, HREF, "2026-03-01T10:00:00.5Z"
    format_ = Html(URLS, FormatOptions(record=ComplianceItem, is_list=True))
    action = ActionFields(item.policy, item.check.ref, item.check.description)
    head, tail = format_.encode_command_parts(
        item.link,
        format_.encode_agent_part(item.target),
        format_.encode_action_part(action),
        item.timestamp,
    )
    encode = format_.make_check_encoder(
        name=name, type_=item.check.test.type, value=value, compliance=complies
    )
    row = head + encode(location) + tail
    assert row == format_.encode_record(item)
    [read] = make_page(format_, row).items
    assert read["result"] == ("✓ compliant" if complies else "✗ fails")
    assert (read["check"], read["location"]) == (cut(name), cut(location))
    assert read["finished"] == "2026-03-01 10:00:00 UTC"


@pytest.mark.parametrize("record_type", RECORDS.values())
def test_a_table_begins_with_what_people_look_for(record_type: type[Record]) -> None:
    first, *others = [column.title for column in list_columns(record_type)]
    assert first in ("name", "action.name", "at", "target")
    assert len(others) >= 4


def test_only_a_web_address_becomes_a_link() -> None:
    urls = {
        "https://policies.example/a?b=c#d": "https://policies.example/a?b=c#d",
        "HTTP://policies.example": "HTTP://policies.example",
        "http://localhost:1664/api/v1/agent?agentid=1": "/api/v1/agent?agentid=1",
        "http://localhost:1664//evil.example": "http://localhost:1664//evil.example",
        "ftp://policies.example/": None,
        "javascript:alert(1)": None,
        " https://policies.example/": None,
        "mailto:a@b.example": None,
    }
    for url, href in urls.items():
        item = fill_record(ComplianceItem, "x")
        item.policy.name, item.policy.url = "THE POLICY", url
        format_ = Html(URLS, FormatOptions(record=ComplianceItem, is_list=True))
        assert make_page(format_, format_.encode_record(item)).links.get("THE POLICY") == href


def test_a_very_long_value_is_cut_visibly() -> None:
    agent = fill_record(Agent, "x")
    agent.name = "n" * 1_000_000
    agent.environment = Raw(encode_json({"k": "é" * 1_000_000}))
    for is_list, longest in ((True, 10_000), (False, 3 * MAX_BLOCK_CHARACTERS)):
        format_ = Html(URLS, FormatOptions(record=Agent, is_list=is_list))
        encoded = format_.encode_record(agent)
        assert len(encoded.decode()) < longest
        assert "n…" in make_page(format_, encoded).text


def test_the_inputs_of_a_form_are_those_of_its_kinds() -> None:
    names = ("word", "flag", "count", "id", "time", "tag.NAME")
    schemas: dict[str, dict[str, object]] = {
        "word": {"type": "string", "enum": ["a", "b"]},
        "flag": {"type": "boolean"},
        "count": {"type": "integer", "minimum": 1, "maximum": 1000},
        "id": {"type": "integer", "minimum": 1, "maximum": 2**64 - 1},
        "time": {"type": "string", "examples": ["x", "-1d12h"], "maxLength": 9},
    }
    query = Query(rel="q", href=HREF, data=[Data(name, "", "what it is") for name in names])
    collection = Collection(version="1.0", href=HREF, queries=[query])
    page = Page(encode_document(URLS, collection, schemas={"q": schemas}))
    assert page.fields.keys() == {*names} - {"tag.NAME"}
    assert "tag.NAME" in page.text
    assert page.options == {"word": ["a", "b"], "flag": ["true", "false"]}
    count, time = page.fields["count"], page.fields["time"]
    assert (count["type"], count["min"], count["max"]) == ("number", "1", "1000")
    assert page.fields["id"]["pattern"] == "[0-9]*"  # a browser would round a number
    assert (time["type"], time["placeholder"], time["maxlength"]) == ("text", "-1d12h", "9")
