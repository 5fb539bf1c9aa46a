"""The load generator parses answers however they arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.response_parser import MalformedAnswerError, ResponseParser

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"6\r\none on\r\n1a;x=y\r\ne and one, this is chunked\r\n0\r\n\r\n"
)


@given(st.lists(st.integers(1, 40), min_size=1), st.sampled_from([(PLAIN, 5), (CHUNKED, 32)]))
def test_an_answer_is_complete_with_its_last_byte_and_not_before(
    sizes: list[int], example: tuple[bytes, int]
) -> None:
    text, size = example
    answer, at, index = ResponseParser(b"one"), 0, 0
    while at < len(text):
        part = text[at : at + sizes[index % len(sizes)]]
        at, index = at + len(part), index + 1
        assert answer.feed(part) == (at == len(text))
    assert (answer.status, answer.needle_count) == (200, 3 if text == CHUNKED else 0)
    assert answer.body_bytes == size


def test_an_answer_without_length_ends_with_the_connection() -> None:
    answer = ResponseParser()
    assert not answer.feed(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    answer.check_complete()
    assert answer.body_bytes == 9


@pytest.mark.parametrize(
    "text", [b"", PLAIN[:-1], CHUNKED[:-2], CHUNKED[:70], CHUNKED[:90], b"HTTP/1.1 200"]
)
def test_an_answer_that_is_cut_short_is_an_error(text: bytes) -> None:
    answer = ResponseParser()
    assert not answer.feed(text)
    with pytest.raises(MalformedAnswerError):
        answer.check_complete()


@pytest.mark.parametrize("text", [b"SSH-2.0-x\r\n\r\n", PLAIN + b"!", b"HTTP/1.1 xx\r\n\r\n"])
def test_anything_but_an_http_answer_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedAnswerError):
        ResponseParser().feed(text)


def test_an_answer_without_a_body_is_complete_after_its_head() -> None:
    answer = ResponseParser()
    assert answer.feed(b"HTTP/1.1 405 No\r\ncontent-length: 0\r\n\r\n")
    assert answer.status == 405
