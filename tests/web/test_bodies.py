"""The three forms are accepted in each of the four ways that clients send them."""

from __future__ import annotations

import json
import time
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mig.web.urlencoded import unquote
from tests.support.json_types import Json, JsonObject
from tests.support.site_client import FORM, SiteClient

JSON = "Content-Type: application/json"
TEMPLATE = "Content-Type: application/vnd.collection+json"
MULTIPART = "Content-Type: multipart/form-data; boundary=b"
CREATE, KEY, UPDATE = "/action/create/", "/investigator/create/", "/investigator/update/"


def encode_part(value: str | bytes, *headers: str, name: str = "action") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"'
    return encode_raw_part(value, disposition, *headers)


def encode_raw_part(value: str | bytes, *headers: str) -> bytes:
    content = value if isinstance(value, bytes) else value.encode()
    return "\r\n".join(["--b", *headers, "", ""]).encode() + content + b"\r\n"


def encode_template(*data: Json) -> bytes:
    return json.dumps({"template": {"data": data}}).encode()


ACTION = {"name": "x", "operations": [{"module": "file"}]}
TEXT = json.dumps(ACTION)


@pytest.mark.parametrize(
    ("path", "header", "body", "fields"),
    [
        (CREATE, FORM, b"action=%7B%22a%22%3A1%7D", {"action": '{"a":1}'}),
        (CREATE, FORM + "; charset=UTF-8", b"action=%C3%A9+%2B&", {"action": "é +"}),
        (UPDATE, FORM, b"status=active&id=7", {"id": "7", "status": "active"}),
        (CREATE, MULTIPART, encode_part("t") + b"--b--\r\n", {"action": "t"}),
        (
            CREATE,
            'content-type: Multipart/Form-Data;boundary="b"',
            encode_part("t") + b"--b--",
            None,
        ),
        (
            CREATE,
            MULTIPART,
            encode_raw_part(
                "é\r\n--",
                'Content-Disposition: form-data; name=action; filename="a \\"b\\".json"',
                "Content-Type: application/octet-stream",
                "Content-Transfer-Encoding: binary",
            )
            + b"--b--",
            {"action": "é\r\n--"},
        ),
        (
            KEY,
            MULTIPART,
            encode_part("Bob", name="name")
            + encode_part("-----BEGIN", name="publickey")
            + b"--b--",
            {"name": "Bob", "publickey": "-----BEGIN"},
        ),
        (CREATE, JSON, TEXT.encode(), {"action": ACTION}),
        (CREATE, JSON, json.dumps({"action": ACTION}).encode(), {"action": ACTION}),
        (CREATE, JSON, json.dumps({"action": TEXT}).encode(), {"action": TEXT}),
        (
            CREATE,
            TEMPLATE,
            encode_template({"name": "action", "value": ACTION}),
            {"action": ACTION},
        ),
        (
            CREATE,
            TEMPLATE,
            encode_template({"name": "action", "value": TEXT, "prompt": "p"}),
            {"action": TEXT},
        ),
        (UPDATE, JSON, b'{"id": 7, "status": "active"}', {"id": "7", "status": "active"}),
        (UPDATE, JSON, b'{"id": 18446744073709551615, "status": "x"}', None),
        (
            UPDATE,
            JSON,
            encode_template({"name": "id", "value": "7"}, {"name": "status", "value": "x"}),
            {"id": "7", "status": "x"},
        ),
    ],
)
def test_a_form_is_accepted_in_each_of_its_four_encodings(
    path: str, header: str, body: bytes, fields: JsonObject | None
) -> None:
    status, document = SiteClient().post_form(path, body, header)
    assert status == 200, document
    assert fields is None or document == fields


@pytest.mark.parametrize(
    ("path", "header", "body", "message"),
    [
        (CREATE, FORM, b"", "the field action is missing; it accepts: A signed action, as JSON"),
        (CREATE, FORM, b"action=", "the field action is empty"),
        (UPDATE, JSON, b'{"id": null, "status": "x"}', "the field id is empty"),
        (CREATE, FORM, b"acton=1", "unknown field 'acton'; did you mean action?"),
        (KEY, FORM, b"xyz=1", "unknown field 'xyz'; the fields are name and publickey"),
        (CREATE, FORM, b"action=1&action=2", "the field action is given twice"),
        (CREATE, FORM, b"action=&action=2", "the field action is given twice"),
        (CREATE, FORM, b"action=%zz", "action: % must be followed by two"),
        (CREATE, FORM, b"action=%ff", "action is not UTF-8"),
        (CREATE, FORM, b"action=\xff", "action is not UTF-8"),
        (CREATE, FORM, b"action=%00", "action contains a NUL"),
        (CREATE, FORM, b"%ff=1", "a field's name is not UTF-8"),
        (CREATE, FORM, b"action=1;id=2&" * 2, "the field action is given twice"),
        (CREATE, MULTIPART, b"", "is not valid multipart/form-data"),
        (CREATE, MULTIPART, b"junk", "is not valid multipart/form-data"),
        (CREATE, MULTIPART, encode_part("t"), "is not valid multipart/form-data"),
        (
            CREATE,
            MULTIPART,
            encode_part("t").replace(b"\r\n", b"\n"),
            "is not valid multipart/form-data",
        ),
        (
            CREATE,
            MULTIPART,
            encode_part("t") + encode_part("t") + b"--b--",
            "action is given twice",
        ),
        (CREATE, MULTIPART, encode_part("t", name="id") + b"--b--", "unknown field 'id'"),
        (
            CREATE,
            MULTIPART,
            encode_part(b"\xff") + b"--b--",
            "the field action is not UTF-8, at byte 0",
        ),
        (CREATE, MULTIPART, encode_part("\0") + b"--b--", "action contains a NUL"),
        (
            CREATE,
            MULTIPART,
            encode_raw_part("t", "Content-Disposition: form-data; name*=utf-8''action") + b"--b--",
            "Missing name option",
        ),
        (
            CREATE,
            MULTIPART,
            encode_raw_part("t", "Content-Disposition: form-data; name*=utf-8''id; name=action")
            + b"--b--",
            "in the form name*=",
        ),
        (
            CREATE,
            MULTIPART,
            encode_raw_part("t", 'Content-Disposition: form-data; name="action"; name=id')
            + b"--b--",
            "has the same parameter twice",
        ),
        (
            CREATE,
            MULTIPART,
            encode_raw_part("t", 'Content-Disposition: form-data; name="action"; x="') + b"--b--",
            "not well formed",
        ),
        (
            CREATE,
            MULTIPART,
            encode_part("t").replace(b"action", b"\xff") + b"--b--",
            "is not valid multipart/form-data",
        ),
        (
            CREATE,
            MULTIPART,
            encode_part("t", "Content-Disposition: form-data; name=id") + b"--b--",
            "has the same header twice",
        ),
        (
            CREATE,
            MULTIPART,
            encode_part("dA==", "Content-Transfer-Encoding: base64") + b"--b--",
            "must be 7bit, 8bit or binary",
        ),
        (
            CREATE,
            MULTIPART,
            encode_part("--c\r\n--c--", "Content-Type: multipart/mixed; boundary=c") + b"--b--",
            "must not be multipart itself",
        ),
        (
            CREATE,
            MULTIPART,
            encode_part("t", "Content-Type: text/plain; charset=utf-16") + b"--b--",
            "the charset of a part of the body must be utf-8",
        ),
        (CREATE, JSON, b"", "the body is not JSON"),
        (CREATE, JSON, b"[]", "the body must be a JSON object"),
        (CREATE, JSON, b"{}", "the field action is missing"),
        (CREATE, JSON, b'{"a":"\xff"}', "the body is not UTF-8, at byte 6"),
        (CREATE, JSON, b"[" * 100_000, "the body"),
        (CREATE, JSON, b'{"action": {}, "other": 1}', "unknown field 'other'"),
        (CREATE, JSON, b'{"action": []}', "the field action must be a JSON object or its text"),
        (CREATE, JSON, b'{"action": "\\u0000"}', "action contains a NUL"),
        (UPDATE, JSON, b'{"id": true, "status": "x"}', "the field id must be a string"),
        (UPDATE, JSON, b'{"id": 1.5, "status": "x"}', "the field id must be a string"),
        (UPDATE, JSON, b'{"id": {}, "status": "x"}', "the field id must be a string"),
        (UPDATE, JSON, b'{"ID": 1, "status": "x"}', "did you mean id?"),
        (CREATE, TEMPLATE, b'{"template": {}}', "a template must be {"),
        (CREATE, TEMPLATE, b'{"template": {"data": []}, "action": {}}', "a template must be {"),
        (CREATE, TEMPLATE, b'{"template": {"data": [1]}}', "must have a name"),
        (CREATE, TEMPLATE, encode_template({"name": "action"}), "the field action is empty"),
        (
            CREATE,
            TEMPLATE,
            encode_template({"name": "action", "value": "1"}, {"name": "action", "value": "2"}),
            "the field action is given twice",
        ),
    ],
)
def test_a_malformed_form_is_refused_with_a_reason(
    path: str, header: str, body: bytes, message: str
) -> None:
    status, document = SiteClient().post_form(path, body, header)
    assert status == 400, document
    assert message in document["collection"]["error"]["message"]


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (FORM, b"&".join(b"f%d=" % n for n in range(100_000))),
        (FORM, b"&" * 1_000_000),
        (FORM, b"a" * 1_000_000 + b"=1"),
        (JSON, json.dumps({"action": "", **{f"f{n}": 1 for n in range(80_000)}}).encode()),
        (TEMPLATE, encode_template(*({"name": f"f{n}"} for n in range(50_000)))),
        (MULTIPART, b"".join(encode_part("", name=f"f{n}") for n in range(15_000)) + b"--b--"),
        (MULTIPART, encode_part("t", *(f"X-{n}: 1" for n in range(9_000))) + b"--b--"),
        (MULTIPART, encode_part("t", "X: " + "a" * 1_000_000) + b"--b--"),
        (MULTIPART, encode_part("t", 'Content-Type: a; b="' + '\\"' * 2_000) + b"--b--"),
        (MULTIPART, encode_part("t", "Content-Type: a" + "; " * 2_000) + b"--b--"),
        (MULTIPART, b"\r\n--b" * 200_000),
        (MULTIPART, b"\r" * 1_000_000),
    ],
    ids=range(12),
)
def test_bodies_designed_to_be_slow_are_refused_within_a_second(header: str, body: bytes) -> None:
    begin = time.process_time()
    status, document = SiteClient().post_form(CREATE, body, header)
    assert status in (400, 413), document
    assert time.process_time() - begin < 1


@given(st.binary(max_size=200), st.sampled_from([FORM, JSON, TEMPLATE, MULTIPART]))
@example(b"--b--", MULTIPART)
@example(b'{"template":{"data":[{"name":null}]}}', JSON)
def test_any_body_is_accepted_or_refused(body: bytes, header: str) -> None:
    assert SiteClient().post_form(CREATE, body, header)[0] in (200, 400)


@given(st.binary(max_size=100))
def test_any_content_of_a_part_is_accepted_or_refused(content: bytes) -> None:
    status, document = SiteClient().post_form(CREATE, encode_part(content) + b"--b--", MULTIPART)
    assert status in (200, 400)
    if status == 200:
        assert document["action"].encode() == content


@given(st.text(st.characters(exclude_characters="\r\n"), max_size=50))
def test_any_header_of_a_part_is_accepted_or_refused(value: str) -> None:
    header = f"Content-Disposition: form-data{value}".encode("utf-8", "surrogateescape")
    body = b"--b\r\n" + header + b"\r\n\r\nt\r\n--b--"
    assert SiteClient().post_form(CREATE, body, MULTIPART)[0] in (200, 400)


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=50))
@example("multipart/form-data")
@example("multipart/form-data; boundary=é")
@example('multipart/form-data; boundary=""')
@example("multipart/form-data; boundary=" + "a" * 2000)
def test_any_unexpected_content_type_is_refused(text: str) -> None:
    assert SiteClient().post_form(CREATE, b"t", f"Content-Type: {text}")[0] in (400, 415)


@given(st.lists(st.binary(max_size=3) | st.sampled_from([b"=", b"=\r\n", b" \n", b"_", b"=3D"])))
def test_any_bytes_survive_percent_encoding(pieces: list[bytes]) -> None:
    raw = b"".join(pieces)
    for encoded in (quote_from_bytes(raw, safe="=_ \r\n"), "".join(f"%{n:02x}" for n in raw)):
        assert unquote(encoded.encode()) == raw
