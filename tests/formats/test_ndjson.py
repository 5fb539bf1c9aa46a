"""NDJSON has a line for each record, and its seal tells whether all lines are there."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from mig.errors import InvalidInputError
from mig.formats.format import ActionFields, DocumentTail, FormatOptions
from mig.formats.ndjson import Ndjson
from mig.formats.seal import Seal
from mig.hypermedia.document import Link
from mig.hypermedia.urls import Urls
from mig.model import compliance
from mig.model.agent import Agent
from mig.model.command import FlatCommand, Reference
from mig.model.compliance import Check, ComplianceItem, Policy
from mig.model.fields import list_fields
from mig.model.record import Record, UnreadableRecord
from tests.support.formats import select_members

URLS = Urls("http://localhost/api/v1")
HREF = "http://localhost/api/v1/search"
TIME = "2026-01-01T00:00:00Z"
NEXT, RESUMED = Link(rel="next", href=f"{HREF}?cursor=a"), Link(rel="resumed", href=HREF)
ITEM_FIELDS = [field.name for field in list_fields(ComplianceItem)]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
selections = st.none() | st.sets(st.sampled_from(ITEM_FIELDS), min_size=1).map(tuple)


def make_format(record: type[Record], **options: Any) -> Ndjson:
    return Ndjson(URLS, FormatOptions(record=record, **options))


@given(
    name=texts,
    type_=texts,
    value=texts,
    location=texts,
    complies=st.booleans(),
    ref=texts,
    selected=selections,
)
def test_the_parts_of_a_compliance_item_join_to_its_line(
    name: str,
    type_: str,
    value: str,
    location: str,
    complies: bool,
    ref: str,
    selected: tuple[str, ...] | None,
) -> None:
    ndjson = make_format(ComplianceItem, fields=selected)
    policy = Policy(level=ref, name=name, url=value)
    action = ndjson.encode_action_part(ActionFields(policy, ref, name))
    agent = ndjson.encode_agent_part(location)
    head, tail = ndjson.encode_command_parts(HREF, agent, action, TIME)
    encode = ndjson.make_check_encoder(name=name, type_=type_, value=value, compliance=complies)
    item = ComplianceItem(
        target=location,
        policy=policy,
        check=Check(ref, name, location, name, compliance.Test(type_, value)),
        compliance=complies,
        link=HREF,
        timestamp=TIME,
        utctimestamp=TIME,
    )
    line = head + encode(location) + tail
    assert line == ndjson.encode_record(item)
    assert json.loads(line) == select_members(json.loads(item.encode()), selected)
    assert line.count(b"\n") == 1


def test_stored_json_that_has_several_lines_is_on_one() -> None:
    agent = Agent(
        id=Raw(b"5"),
        name="a\nb",
        queueloc="",
        os="",
        version="",
        pid=1,
        starttime=TIME,
        destructiontime=TIME,
        heartbeatts=TIME,
        status="",
        environment=Raw(b'{\n"a":\r\n"b\\nc"}'),
        tags=Raw(b"null"),
    )
    for fields in (None, ("name", "environment")):
        line = make_format(Agent, fields=fields).encode_record(agent)
        assert line.endswith(b"}\n") and line.count(b"\n") == 1 and b"\r" not in line
        found = json.loads(line)
        assert (found["name"], found["environment"]) == ("a\nb", {"a": "b\nc"})


def test_a_field_that_a_record_does_not_have_is_null() -> None:
    agent = Agent(Raw(b"5"), "a", "", "", "", 1, TIME, TIME, TIME, "", Raw(b"1"), Raw(b"1"))
    line = make_format(Agent, fields=("refreshts", "mode", "id")).encode_record(agent)
    assert line == b'{"id":5,"mode":"","refreshts":null}\n'


def test_selected_fields_of_a_command_have_the_id_and_name_of_its_action() -> None:
    command = FlatCommand(
        Raw(b"18446744073709551615"),
        Reference(Raw(b"7"), "x"),
        Reference(Raw(b"null"), None),
        "success",
        Raw(b"[]"),
        TIME,
        TIME,
    )
    some = make_format(FlatCommand, fields=("status", "agent", "action.id", "id"))
    expected = b'{"id":18446744073709551615,"action":{"id":7},"agent":{"id":null,"name":null}'
    assert some.encode_record(command) == expected + b',"status":"success"}\n'
    as_text = make_format(FlatCommand, fields=("action", "id"), ids_as_text=True)
    expected = b'{"id":"18446744073709551615","action":{"id":"7","name":"x"}}\n'
    assert as_text.encode_record(command) == expected


@pytest.mark.parametrize("wanted", ["nam", "policy.", "check.test.valu", "", "POLICY"])
def test_an_unknown_field_is_refused_with_those_that_exist(wanted: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^fields must be names of fields") as refused:
        make_format(ComplianceItem, fields=("link", wanted))
    assert refused.value.where == "fields"


def test_a_record_that_cannot_be_read_says_why() -> None:
    ndjson = make_format(ComplianceItem, fields=("link",))
    line = ndjson.encode_record(UnreadableRecord("command", "5", "odd", target="t"))
    link = "http://localhost/api/v1/command?commandid=5"
    assert json.loads(line) == {"unreadable": {"link": link, "target": "t", "reason": "odd"}}
    line = ndjson.encode_record(UnreadableRecord("agent", "NaN", "odd"))
    assert list(json.loads(line)["unreadable"]) == ["link", "reason"]


@pytest.mark.parametrize("links", [(), (NEXT,), (RESUMED,), (NEXT, RESUMED)])
@pytest.mark.parametrize("is_sealed", [False, True])
@pytest.mark.parametrize("is_limited", [False, True])
def test_the_seal_is_there_when_the_limit_cut_or_the_client_wants_it(
    links: tuple[Link, ...], is_sealed: bool, is_limited: bool
) -> None:
    ndjson = make_format(Agent, is_sealed=is_sealed, is_limited=is_limited)
    lines = [b'{"a":1}\n{"a":2}\n', b"", b'{"a":3}\n']
    seal = Seal() if ndjson.needs_seal else None
    for chunk in lines:
        if seal is not None:
            assert seal.add(chunk) == chunk
    tail = ndjson.encode_tail(
        DocumentTail(href=HREF, is_empty=False, links=links, row_count=2, seal=seal)
    )
    if is_sealed or (is_limited and NEXT in links):
        assert json.loads(tail) == {
            "end": {
                "rows": 2,
                "items": 3,
                "next": NEXT.href if NEXT in links else None,
                "snapshot": RESUMED not in links,
                "sha256": hashlib.sha256(b"".join(lines)).hexdigest(),
            }
        }
        assert tail.endswith(b"}\n")
    else:
        assert tail == b""
