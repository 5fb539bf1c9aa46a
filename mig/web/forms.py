"""The fields of a request's body, in any of the four media types that clients send."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from multipart import MultipartError, MultipartSegment, PushMultipartParser
from twisted.web.http_headers import Headers

from mig.errors import InvalidInputError, UnsupportedMediaTypeError
from mig.values import MAX_ID, parse_json, suggest_name
from mig.web.urlencoded import escape_bytes, parse_pairs

MAX_PARTS: Final = 16
MAX_FIELDS: Final = 64
MAX_PART_HEADERS: Final = 8
MAX_PART_HEADER_BYTES: Final = 4_096
MAX_NAME_CHARACTERS: Final = 64
MAX_FORM_VALUES: Final = 256
"""JSON values of a body, beside those of the value that its form contains."""

_PARAMETER = r"""[ \t]*;[ \t]*([\w!#$%&'*+.^`|~-]+)=("(?:[^"\\]|\\.)*"|[\w!#$%&'*+.^`|~-]+)"""
_PARAMETERS = re.compile(_PARAMETER, re.ASCII)
_HEADER_VALUE = re.compile(rf"([\w!#$%&'*+.^`|~/-]+)((?:{_PARAMETER})*)[ \t]*", re.ASCII)
_UTF_8 = frozenset({"utf-8", "utf8"})

FormItem = tuple[str, object]
"""The name of a field, and its value: a string, or any other JSON value."""


@dataclass(frozen=True, kw_only=True)
class ContentType:
    """A media type in lower case, and its parameters."""

    media_type: str
    parameters: dict[str, str]


def parse_content_type(headers: Headers) -> ContentType:
    """Parse the media type of a body, which must be one that :func:`parse_form` reads.

    :raises UnsupportedMediaTypeError: for any other media type, a charset other than UTF-8, and a
        content coding such as gzip.
    :raises InvalidInputError: when the header Content-Type is given twice or is malformed.
    """
    codings = headers.getRawHeaders(b"content-encoding", [])
    if any(coding.lower() != b"identity" for coding in codings):
        raise UnsupportedMediaTypeError("the body must be sent without a Content-Encoding")
    values = headers.getRawHeaders(b"content-type", [])
    if len(values) > 1:
        raise InvalidInputError("the header Content-Type is given twice", "Content-Type")
    media_type, parameters = _parse_header_value(
        "Content-Type", values[0].decode("latin-1") if values else ""
    )
    if media_type not in _PARSERS:
        raise UnsupportedMediaTypeError(f"the header Content-Type must be {' or '.join(_PARSERS)}")
    charset = parameters.get("charset", "utf-8")
    if charset.lower() not in _UTF_8:
        raise UnsupportedMediaTypeError("the charset of the body must be utf-8")
    if media_type == "multipart/form-data" and not parameters.get("boundary"):
        raise InvalidInputError("the header Content-Type must have a boundary", "Content-Type")
    return ContentType(media_type=media_type, parameters=parameters)


class FormField(Protocol):
    """One field of a form."""

    @property
    def name(self) -> str:
        """The name of the field."""

    @property
    def prompt(self) -> str | None:
        """What the field accepts, in words."""


class FormTemplate(Protocol):
    """The fields of a form."""

    @property
    def data(self) -> Sequence[FormField]:
        """The fields, each with a name of its own."""


def parse_form(
    content_type: ContentType,
    body: bytes,
    template: FormTemplate,
    *,
    object_field: str = "",
    object_fields: Collection[str] = (),
    optional: Collection[str] = (),
    max_object_values: int = 0,
) -> dict[str, Any]:
    """Return the value of every field of ``template`` as a string.

    A whole number in JSON becomes its digits.

    :param object_field: the field whose value may also be a JSON object, which is returned as it
        was parsed. A JSON body that has neither a field of the template nor a ``template`` is the
        value of this field.
    :param object_fields: other fields whose value may also be a JSON object.
    :param optional: fields that may be missing, in the template or beside it; empty, they are left
        out.
    :param max_object_values: how many JSON values a body may have beside those of the form itself.
    :raises InvalidInputError: when the body is malformed, or a field is unknown, duplicate or
        missing or empty; the message names the field and says what is accepted.
    """
    parse_fields = _PARSERS[content_type.media_type]
    fields = parse_fields(
        body, content_type, template, object_field, MAX_FORM_VALUES + max_object_values
    )
    prompts = {data.name: data.prompt for data in template.data}
    values: dict[str, Any] = {}
    for name, value in fields:
        if name not in prompts and name not in optional:
            raise _make_unknown_field_error(name, list(prompts))
        if name in values:
            raise InvalidInputError(f"the field {name} is given twice", name)
        may_be_object = name == object_field or name in object_fields
        values[name] = _check_value(name, value, may_be_object=may_be_object)
    for name, prompt in prompts.items():
        if name not in optional and values.get(name, "") == "":
            what = "empty" if name in values else "missing"
            raise InvalidInputError(f"the field {name} is {what}; it accepts: {prompt}", name)
    return {name: value for name, value in values.items() if value != ""}


def _make_unknown_field_error(name: str, known: list[str]) -> InvalidInputError:
    excerpt = name[:MAX_NAME_CHARACTERS]  # the message goes to the log too
    hint = suggest_name(excerpt.lower(), known, f"the fields are {' and '.join(known)}")
    return InvalidInputError(f"unknown field {excerpt!r}; {hint}", excerpt)


def _check_value(name: str, value: object, *, may_be_object: bool) -> str | dict[str, Any]:
    if value is None:
        return ""
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidInputError(f"{name} contains a NUL character", name)
        return value
    if may_be_object and isinstance(value, dict):
        return value
    # not isinstance: bool is a subclass of int
    if type(value) is int and 0 <= value <= MAX_ID:
        return str(value)
    accepted = "a JSON object or its text" if may_be_object else "a string"
    raise InvalidInputError(f"the field {name} must be {accepted}", name)


def _decode_text(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        message = f"{what} is not UTF-8, at byte {error.start}"
        raise InvalidInputError(message, what) from None


def _parse_urlencoded_form(body: bytes, *_: object) -> Iterator[FormItem]:
    yield from parse_pairs(body, "field", MAX_FIELDS)


def _parse_json_form(
    body: bytes, _: ContentType, template: FormTemplate, object_field: str, max_values: int
) -> Iterator[FormItem]:
    members = parse_json(_decode_text(body, "the body"), "the body", max_values=max_values)
    if not isinstance(members, dict):
        raise InvalidInputError("the body must be a JSON object", "the body")
    if "template" in members:
        yield from _parse_template(members)
    elif object_field and members and not any(data.name in members for data in template.data):
        yield object_field, members
    else:
        yield from members.items()


def _parse_template(members: dict[str, object]) -> Iterator[FormItem]:
    """Yield the fields of a filled-in Collection+JSON template."""
    template = members["template"]
    data = template.get("data") if isinstance(template, dict) else None
    if len(members) > 1 or not isinstance(data, list):
        raise InvalidInputError(
            'a template must be {"template": {"data": […]}} without other members', "template"
        )
    for entry in data:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise InvalidInputError("each entry of a template's data must have a name", "template")
        yield entry["name"], entry.get("value")


def _parse_multipart(body: bytes, content_type: ContentType, *_: object) -> Iterator[FormItem]:
    try:
        with PushMultipartParser(
            content_type.parameters["boundary"],
            len(body),
            max_header_size=MAX_PART_HEADER_BYTES,
            max_header_count=MAX_PART_HEADERS,
            max_segment_count=MAX_PARTS,
            strict=True,
        ) as parser:
            yield from _parse_parts(parser, body)
    except MultipartError as error:
        raise InvalidInputError(
            f"the body is not valid multipart/form-data: {error.args[0]}"
        ) from None


def _parse_parts(parser: PushMultipartParser, body: bytes) -> Iterator[FormItem]:
    name = ""
    pieces: list[bytes] = []
    # An empty piece would tell the parser to close, which leaving its context does.
    for event in parser.parse(body) if body else ():
        if isinstance(event, MultipartSegment):
            name, pieces = _parse_part_name(event), []
        elif event is None:  # the end of a part
            yield name, _decode_text(b"".join(pieces), f"the field {escape_bytes(name.encode())}")
        else:
            pieces.append(bytes(event))


def _parse_part_name(part: MultipartSegment) -> str:
    """Return the name of the field that a part holds; files and text are treated alike.

    The library's own parser of this header is too lenient: docs/decisions/0023.
    """
    headers = dict(part.headerlist)
    if len(headers) < len(part.headerlist):
        raise InvalidInputError("a part of the body has the same header twice")
    _, parameters = _parse_header_value("Content-Disposition", headers["Content-Disposition"])
    if "name" not in parameters or "name*" in parameters:
        raise InvalidInputError("a part of the body must have a name, and not in the form name*=")
    encoding = headers.get("Content-Transfer-Encoding", "binary").strip().lower()
    if encoding not in ("7bit", "8bit", "binary"):
        raise InvalidInputError(
            "the Content-Transfer-Encoding of a part must be 7bit, 8bit or binary"
        )
    if "Content-Type" in headers:
        _check_part_type(headers["Content-Type"])
    return parameters["name"]


def _check_part_type(text: str) -> None:
    media_type, parameters = _parse_header_value("Content-Type", text)
    if media_type.startswith("multipart/"):
        raise InvalidInputError("a part of the body must not be multipart itself")
    if parameters.get("charset", "utf-8").lower() not in _UTF_8 | {"us-ascii"}:
        raise InvalidInputError("the charset of a part of the body must be utf-8")


def _parse_header_value(header: str, text: str) -> tuple[str, dict[str, str]]:
    """Return a header's value in lower case, and its parameters (RFC 9110, 5.6.6).

    :raises InvalidInputError: when the value is malformed.
    """
    if not text:
        return "", {}
    match = _HEADER_VALUE.fullmatch(text.strip(" \t"))
    if not match:
        raise InvalidInputError(f"the header {header} is not well formed", header)
    parameters: dict[str, str] = {}
    for name, value in _PARAMETERS.findall(match[2]):
        if name.lower() in parameters:
            raise InvalidInputError(f"the header {header} has the same parameter twice", header)
        parameters[name.lower()] = _unquote(value)
    return match[1].lower(), parameters


def _unquote(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


_PARSERS: Final[
    dict[str, Callable[[bytes, ContentType, FormTemplate, str, int], Iterator[FormItem]]]
] = {
    "application/x-www-form-urlencoded": _parse_urlencoded_form,
    "multipart/form-data": _parse_multipart,
    "application/json": _parse_json_form,
    "application/vnd.collection+json": _parse_json_form,
}
