"""Answers are read in any layout and in any chunks, and a cut is always noticed."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mig.client.errors import IncompleteResponseError, InvalidResponseError
from mig.client.reading import CollectionReader, GzipDecoder, NdjsonReader
from mig.client.records import Agent
from tests.support import fleet
from tests.support.json_types import Json

CUTS = st.lists(st.integers(0, 10**6), max_size=8)
RECORDED = sorted(path.stem for path in (fleet.VECTORS / "responses").glob("*.json"))
LAYOUTS: Sequence[Callable[[Json], str]] = (
    json.dumps,
    lambda value: json.dumps(value, indent=2),
    lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False),
    lambda value: json.dumps(value, indent="\r\n\t") + "\n\n",
)


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Return *data* in pieces, cut at these places."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def read_collection(chunks: Sequence[bytes]) -> tuple[list[Json], Json]:
    reader = CollectionReader()
    items = [item for chunk in chunks for item in reader.feed(chunk)]
    return items + reader.close(), reader.members


def make_ndjson(names: Sequence[str], following: str | None = None) -> bytes:
    lines = b"".join(json.dumps({"id": 2**64 - 1, "name": n}).encode() + b"\n" for n in names)
    end = {
        "rows": len(names),
        "items": len(names),
        "next": following,
        "snapshot": True,
        "sha256": hashlib.sha256(lines).hexdigest(),
    }
    return lines + json.dumps({"end": end}, separators=(",", ":")).encode() + b"\n"


def read_ndjson(chunks: Sequence[bytes]) -> list[Agent]:
    reader = NdjsonReader(Agent)
    records = [record for chunk in chunks for record in reader.feed(chunk)]
    return records + reader.close()


@given(
    st.sampled_from(RECORDED), st.sampled_from(LAYOUTS), st.lists(st.integers(0, 10**6), max_size=8)
)
def test_recorded_answers_are_read_in_any_layout_and_chunks(
    name: str, write: Callable[[Json], str], cuts: list[int]
) -> None:
    body = fleet.read_recording(name)["body"]
    items, members = read_collection(split(write(body).encode(), cuts))
    expected = dict(body["collection"])
    assert items == (expected.pop("items", None) or [])
    assert {key: value for key, value in members.items() if key != "items"} == expected


@pytest.mark.parametrize("write", LAYOUTS)
def test_a_document_cut_at_any_byte_is_incomplete(write: Callable[[Json], str]) -> None:
    data = write(fleet.read_recording("search-investigator")["body"]).encode()
    for cut in range(len(data.rstrip())):
        with pytest.raises((IncompleteResponseError, InvalidResponseError)) as caught:
            read_collection([data[:cut]])
        assert isinstance(caught.value, IncompleteResponseError), cut


def test_items_are_returned_while_the_document_arrives() -> None:
    reader = CollectionReader()
    assert reader.feed(b'{"collection":{"items":[\n{"a":1},') == [{"a": 1}]
    assert reader.feed(b'\n{"a":2}') == [{"a": 2}]
    assert reader.feed(b'\n{"a":') == []
    assert reader.feed(b"3}") == [{"a": 3}]


def test_a_large_item_is_not_decoded_again_with_each_chunk() -> None:
    item = {"text": "}," * 4_000_000}
    data = json.dumps({"collection": {"items": [item]}}).encode()
    chunks = [data[start : start + 16_384] for start in range(0, len(data), 16_384)]
    assert read_collection(chunks)[0] == [item]


@pytest.mark.parametrize("data", [b"<html>", b"[]", b'{"collection":{"items":[{}]]', b"\xff\xfe"])
def test_another_document_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(InvalidResponseError):
        CollectionReader().feed(data)


@given(st.lists(st.text(), max_size=5), st.lists(st.integers(0, 10**6), max_size=8))
def test_ndjson_is_read_in_any_chunks(names: list[str], cuts: list[int]) -> None:
    records = read_ndjson(split(make_ndjson(names), cuts))
    assert [(record.id, record.name) for record in records] == [(2**64 - 1, n) for n in names]


def test_ndjson_cut_at_any_byte_is_incomplete() -> None:
    data = make_ndjson(["a", "b", "c"])
    for cut in range(len(data)):
        with pytest.raises(IncompleteResponseError):
            read_ndjson([data[:cut]])


def test_ndjson_without_one_of_its_lines_is_incomplete() -> None:
    lines = make_ndjson(["a", "b", "c"]).splitlines(keepends=True)
    for missing in range(3):
        with pytest.raises(IncompleteResponseError, match="seal"):
            read_ndjson([b"".join(lines[:missing] + lines[missing + 1 :])])


def test_ndjson_with_a_line_after_its_end_is_refused() -> None:
    data = make_ndjson(["a"])
    for chunks in ([data + b"{}\n"], [data, b"{}\n"]):
        with pytest.raises(InvalidResponseError):
            read_ndjson(chunks)


def test_unreadable_records_in_ndjson_are_kept_with_kind_and_id() -> None:
    link = "http://localhost/api/v1/agent?agentid=18446744073709551615"
    line = json.dumps({"unreadable": {"link": link, "reason": "odd"}}, separators=(",", ":"))
    reader = NdjsonReader(Agent)
    assert reader.feed(line.encode() + b'\n{"name":"b"}\n') == [Agent(name="b")]
    [record] = reader.take_unreadable()
    assert (record.kind, record.id, record.reason) == ("agent", "18446744073709551615", "odd")
    assert reader.take_unreadable() == []


@given(st.binary(max_size=2000), st.lists(st.integers(0, 10**6), max_size=8))
def test_gzip_is_decoded_in_any_chunks(data: bytes, cuts: list[int]) -> None:
    encoded = gzip.compress(data) + gzip.compress(data)
    decoder = GzipDecoder()
    pieces = [piece for chunk in split(encoded, cuts) for piece in decoder.decode(chunk)]
    decoder.close()
    assert b"".join(pieces) == data * 2


def test_a_small_gzip_chunk_with_much_content_comes_in_bounded_pieces() -> None:
    data = bytes(10_000_000)
    decoder = GzipDecoder()
    pieces = list(decoder.decode(gzip.compress(data)))
    decoder.close()
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= 262_144


def test_gzip_cut_at_any_byte_is_incomplete() -> None:
    encoded = gzip.compress(random.Random(1).randbytes(300))
    for cut in range(1, len(encoded)):
        decoder = GzipDecoder()
        list(decoder.decode(encoded[:cut]))
        with pytest.raises(IncompleteResponseError):
            decoder.close()
