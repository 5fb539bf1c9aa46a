"""CSV keeps every value, under RFC 4180, and no cell runs in a spreadsheet."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from mig.formats.csv_rows import CsvRows
from mig.formats.format import ActionFields, DocumentTail, FormatOptions
from mig.hypermedia.urls import Urls
from mig.model import compliance
from mig.model.agent import Agent
from mig.model.command import FlatCommand, Reference
from mig.model.compliance import Check, ComplianceItem, Policy
from mig.model.fields import list_fields
from mig.model.investigator import Investigator
from mig.model.record import Record, UnreadableRecord

URLS = Urls("http://localhost/api/v1")
HREF = "http://localhost/api/v1/search"
TIME = "2026-01-01T00:00:00Z"
ITEM_COLUMNS = [*(field.name for field in list_fields(ComplianceItem)), "unreadable"]
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)
texts |= st.text("=+-@\t\r\n\",' a", max_size=4)
selections = st.none() | st.sets(st.sampled_from(ITEM_COLUMNS), min_size=1).map(tuple)


def make_format(record: type[Record], **options: Any) -> CsvRows:
    return CsvRows(URLS, FormatOptions(record=record, **options))


def read_rows(document: bytes) -> list[list[str]]:
    """Return the cells as Python's reader has them; it is strict, and the line ends are CRLF."""
    return list(csv.reader(io.StringIO(document.decode(), newline=""), strict=True))


def guard(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") and text else text


@given(
    name=texts,
    type_=texts,
    value=texts,
    location=texts,
    complies=st.booleans(),
    ref=texts,
    selected=selections,
    is_raw=st.booleans(),
)
def test_the_parts_of_a_compliance_item_join_to_its_row(
    name: str,
    type_: str,
    value: str,
    location: str,
    complies: bool,
    ref: str,
    selected: tuple[str, ...] | None,
    is_raw: bool,
) -> None:
    rows = make_format(ComplianceItem, fields=selected, is_raw=is_raw)
    policy = Policy(level=ref, name=name, url=value)
    action = rows.encode_action_part(ActionFields(policy, ref, name))
    head, tail = rows.encode_command_parts(HREF, rows.encode_agent_part(location), action, TIME)
    encode = rows.make_check_encoder(name=name, type_=type_, value=value, compliance=complies)
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
    assert line == rows.encode_record(item)
    texts_of_item = [location, ref, name, value, ref, name, location, name, type_, value]
    cells = [each if is_raw else guard(each) for each in texts_of_item]
    cells += ["true" if complies else "false", HREF, TIME, TIME, ""]
    expected = dict(zip(ITEM_COLUMNS, cells, strict=True))
    header, row = read_rows(rows.encode_head(HREF) + line)
    assert header == [each for each in ITEM_COLUMNS if selected is None or each in selected]
    assert row == [expected[each] for each in header]
    assert (
        line.endswith(b"\r\n") and rows.encode_tail(DocumentTail(href=HREF, is_empty=False)) == b""
    )


@pytest.mark.parametrize("text", ["=1+1", "+1", "-5k", "@SUM(A1)", "\tx", "\rx", "-", "="])
def test_a_text_that_a_spreadsheet_would_run_has_an_apostrophe(text: str) -> None:
    def read_name(**options: Any) -> str:
        rows = make_format(Investigator, fields=("name", "status"), **options)
        record = Investigator(Raw(b"1"), text, "", "active", TIME, TIME)
        return read_rows(rows.encode_record(record))[0][0]

    assert read_name() == f"'{text}"
    assert read_name(is_raw=True) == text


def test_numbers_ids_and_json_are_written_as_they_are() -> None:
    agent = Agent(
        id=Raw(b"18446744073709551615"),
        name="a",
        queueloc="=x",
        os="",
        version="1",
        pid=-1,
        starttime=TIME,
        destructiontime=TIME,
        heartbeatts=TIME,
        status="online",
        environment=Raw(b'\t{"a":\n"=1, \\"b\\""}'),
        tags=Raw(b"null"),
    )
    rows = make_format(Agent)
    header, row = read_rows(rows.encode_head(HREF) + rows.encode_record(agent))
    assert header[:6] == ["id", "name", "queueloc", "os", "version", "pid"]
    assert dict(zip(header, row, strict=True)) == {
        "id": "18446744073709551615",
        "name": "a",
        "queueloc": "'=x",
        "os": "",
        "version": "1",
        "pid": "-1",
        "starttime": TIME,
        "destructiontime": TIME,
        "heartbeatts": TIME,
        "status": "online",
        "environment": '{"a":\n"=1, \\"b\\""}',
        "tags": "",
        "mode": "",
        "refreshts": "",
        "loadername": "",
        "unreadable": "",
    }


def test_a_command_has_the_ids_and_names_of_its_action_and_agent() -> None:
    references = Reference(Raw(b"7"), "x"), Reference(Raw(b"null"), None)
    command = FlatCommand(Raw(b"5"), *references, "success", Raw(b"[]"), TIME, TIME)
    rows = make_format(FlatCommand)
    head = b"id,action.id,action.name,agent.id,agent.name,status,results,starttime,finishtime"
    assert rows.encode_head(HREF) == head + b",unreadable\r\n"
    assert rows.encode_record(command) == f"5,7,x,,,success,[],{TIME},{TIME},\r\n".encode()


def test_a_row_of_one_empty_cell_is_still_a_row() -> None:
    record = Investigator(Raw(b"1"), "", "", "active", TIME, TIME)
    for field in ("name", "unreadable"):
        rows = make_format(Investigator, fields=(field,))
        assert read_rows(rows.encode_head(HREF) + rows.encode_record(record)) == [[field], [""]]


@pytest.mark.parametrize(
    ("record", "identity"),
    [
        (FlatCommand, {"id": "5"}),
        (Agent, {"id": "5"}),
        (ComplianceItem, {"link": f"{URLS.base}/command?commandid=5", "target": "agents"}),
    ],
)
def test_a_record_that_cannot_be_read_has_a_row_with_the_reason(
    record: type[Record], identity: dict[str, str]
) -> None:
    rows = make_format(record)
    line = rows.encode_record(UnreadableRecord("command", "5", "=odd, very", target="agents"))
    header, row = read_rows(rows.encode_head(HREF) + line)
    found = {name: cell for name, cell in zip(header, row, strict=True) if cell}
    assert found == identity | {"unreadable": "'=odd, very"}


def test_excel_knows_utf_8_by_the_byte_order_mark() -> None:
    marked = make_format(Investigator, has_bom=True).encode_head(HREF)
    assert marked == b"\xef\xbb\xbf" + make_format(Investigator).encode_head(HREF)
