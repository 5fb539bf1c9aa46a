"""Each item has a line of its own, and each document ends with one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mig.formats.collection_json import CollectionJson, write_document
from mig.formats.format import DocumentTail
from mig.hypermedia.document import Data, Error, Item, Link
from mig.hypermedia.urls import Urls
from mig.model.compliance import Policy
from mig.model.record import UnreadableRecord
from mig.model.search import SearchParameters

HREF = "http://localhost/api/v1/search"
FORM = CollectionJson(Urls("http://localhost/api/v1"))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


def make_item(number: int) -> Item:
    return Item(href=f"{HREF}?n={number}", data=[Data(name="n", value=number)])


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("links", [None, [Link(rel="next", href=HREF)]])
def test_a_small_document_has_a_line_for_each_item(count: int, links: Any) -> None:
    error = Error(title="t", code="c", message="m")
    document = write_document(HREF, items=[make_item(n) for n in range(count)], error=error)
    lines = document.decode().split("\n")
    assert lines[0].endswith('"items":[') and lines[-1] == ""
    assert len(lines) == 3 + max(count, 1)
    collection = json.loads(document)["collection"]
    assert [item["data"][0]["value"] for item in collection["items"]] == list(range(count))
    assert collection["error"] == {"title": "t", "code": "c", "message": "m"}


def test_a_document_without_items_ends_with_a_newline() -> None:
    assert write_document(HREF) == b'{"collection":{"version":"1.0","href":"%b"}}\n' % HREF.encode()


@pytest.mark.parametrize("parameters", [None, SearchParameters(type="agent", after="2026")])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_streamed_document_has_a_line_for_each_item(count: int, parameters: Any) -> None:
    records = [FORM.encode_record(UnreadableRecord("agent", str(n), "odd")) for n in range(count)]
    tail = DocumentTail(href=HREF, is_empty=not records, parameters=parameters)
    document = FORM.encode_head(HREF) + FORM.separator.join(records) + FORM.encode_tail(tail)
    items = json.loads(document)["collection"]["items"]
    assert len(items) == count + (parameters is not None)
    assert document.count(b"\n") == len(items) + 2 if items else document.endswith(b"[\n]}}\n")
    for line in document.splitlines()[1:-1]:
        json.loads(line.rstrip(b","))


@given(name=texts, type_=texts, value=texts, location=texts, compliance=st.booleans(), ref=texts)
def test_the_parts_of_a_compliance_item_join_to_the_whole_item(
    name: str, type_: str, value: str, location: str, compliance: bool, ref: str
) -> None:
    from mig.formats.format import ActionFields
    from mig.model.compliance import Check, ComplianceItem, Test

    policy, link, time = Policy(level=ref, name=name, url=value), HREF, "2026-01-01T00:00:00Z"
    action = FORM.encode_action_part(ActionFields(policy, ref, name))
    head, tail = FORM.encode_command_parts(link, FORM.encode_agent_part(location), action, time)
    check = FORM.make_check_encoder(name=name, type_=type_, value=value, compliance=compliance)(
        location
    )
    item = ComplianceItem(
        target=location,
        policy=policy,
        check=Check(ref, name, location, name, Test(type_, value)),
        compliance=compliance,
        link=link,
        timestamp=time,
        utctimestamp=time,
    )
    assert head + check + tail == FORM.encode_record(item)
