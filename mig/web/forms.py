"""What a request's body says, in any of the four forms that clients send."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from multipart import MultipartError, MultipartSegment, PushMultipartParser
from twisted.web.http_headers import Headers

from mig.errors import InvalidInput, UnsupportedMediaType
from mig.values import MAX_ID, did_you_mean, parse_json
from mig.web.urlencoded import pairs, printable

MOST_PARTS: Final = 16
MOST_PART_HEADERS: Final = 8
LONGEST_PART_HEADER: Final = 4_096
LONGEST_SHOWN_NAME: Final = 64

_PARAMETER = r"""[ \t]*;[ \t]*([\w!#$%&'*+.^`|~-]+)=("(?:[^"\\]|\\.)*"|[\w!#$%&'*+.^`|~-]+)"""
_PARAMETERS = re.compile(_PARAMETER, re.ASCII)
_WITH_PARAMETERS = re.compile(rf"([\w!#$%&'*+.^`|~/-]+)((?:{_PARAMETER})*)[ \t]*", re.ASCII)
_UTF_8 = frozenset({"utf-8", "utf8"})

Value = tuple[str, object]
"""The name of a field, and its value: text, or what JSON has instead of it."""


@dataclass(frozen=True, kw_only=True)
class Media:
    """A media type in lower case, and its parameters."""

    type: str
    parameters: dict[str, str]


def media(headers: Headers) -> Media:
    """The media type of a body, when it is one that :func:`form` reads.

    :raises UnsupportedMediaType: for another one, another charset than UTF-8, and for a body in
        a content coding such as gzip.
    :raises InvalidInput: for a header Content-Type that is given twice or is not well formed.
    """
    codings = headers.getRawHeaders(b"content-encoding", [])
    if any(coding.lower() != b"identity" for coding in codings):
        raise UnsupportedMediaType("a body must come as it is, without a Content-Encoding")
    given = headers.getRawHeaders(b"content-type", [])
    if len(given) > 1:
        raise InvalidInput("the header Content-Type is given twice", "Content-Type")
    type, parameters = _with_parameters("Content-Type", given[0].decode("latin-1") if given else "")
    if type not in _READERS:
        raise UnsupportedMediaType(f"the header Content-Type must be {' or '.join(_READERS)}")
    charset = parameters.get("charset", "utf-8")
    if charset.lower() not in _UTF_8:
        raise UnsupportedMediaType("the charset of a body must be utf-8")
    if type == "multipart/form-data" and not parameters.get("boundary"):
        raise InvalidInput("the header Content-Type has no boundary", "Content-Type")
    return Media(type=type, parameters=parameters)


class Submission(Protocol):
    """A request whose body is whole."""

    @property
    def media(self) -> Media: ...

    @property
    def content(self) -> Content: ...


class Content(Protocol):
    """Where a body is read from."""

    def read(self) -> bytes: ...


class Field(Protocol):
    """One field of a form: its name, and what it takes, in words."""

    @property
    def name(self) -> str: ...

    @property
    def prompt(self) -> str | None: ...


class Template(Protocol):
    """The fields of a form."""

    @property
    def data(self) -> Sequence[Field]: ...


def form(request: Submission, template: Template, *, whole: str = "") -> dict[str, Any]:
    """The value of every field of *template*, as a request submits it: text.

    An empty field is one that is not given. A whole number in JSON is taken for its digits.

    :param whole: the field whose value may be a JSON object as well, handed over as it was
        parsed. A JSON body that has neither a field of the template nor a ``template`` is the
        value of this field.
    :raises InvalidInput: for a body that is not well formed, and for a field that is unknown,
        given twice or missing; the message names it and says what is accepted.
    """
    fields = _READERS[request.media.type](request.content.read(), request.media, template, whole)
    prompts = {data.name: data.prompt for data in template.data}
    given: dict[str, Any] = {}
    for name, value in fields:
        if name not in prompts:
            raise _unknown(name, list(prompts))
        if name in given:
            raise InvalidInput(f"the field {name} is given twice", name)
        given[name] = _value(name, value, may_be_object=name == whole)
    for name, prompt in prompts.items():
        if given.get(name, "") == "":
            raise InvalidInput(f"the field {name} is missing; it takes: {prompt}", name)
    return given


def _unknown(name: str, known: list[str]) -> InvalidInput:
    shown = name[:LONGEST_SHOWN_NAME]
    hint = did_you_mean(shown.lower(), known, f"the fields are {' and '.join(known)}")
    return InvalidInput(f"unknown field {shown!r}; {hint}", shown)


def _value(name: str, value: object, *, may_be_object: bool) -> str | dict[str, Any]:
    if value is None:
        return ""
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidInput(f"{name} holds a NUL character", name)
        return value
    if may_be_object and isinstance(value, dict):
        return value
    if type(value) is int and 0 <= value <= MAX_ID:
        return str(value)
    accepted = "a JSON object or its text" if may_be_object else "a text"
    raise InvalidInput(f"the field {name} must be {accepted}", name)


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        message = f"{what} is not UTF-8, at byte {error.start}"
        raise InvalidInput(message, what) from None


def _urlencoded(body: bytes, *_: object) -> Iterator[Value]:
    yield from pairs(body, "field")


def _json(body: bytes, _: Media, template: Template, whole: str) -> Iterator[Value]:
    members = parse_json(_text(body, "the body"), "the body")
    if not isinstance(members, dict):
        raise InvalidInput("the body must be a JSON object", "the body")
    if "template" in members:
        yield from _template(members)
    elif whole and members and not any(data.name in members for data in template.data):
        yield whole, members
    else:
        yield from members.items()


def _template(members: dict[str, object]) -> Iterator[Value]:
    """The fields of a filled-in Collection+JSON template."""
    template = members["template"]
    data = template.get("data") if isinstance(template, dict) else None
    if len(members) > 1 or not isinstance(data, list):
        raise InvalidInput(
            'a template must come as {"template": {"data": […]}} and nothing beside it', "template"
        )
    for entry in data:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise InvalidInput("each entry of a template's data must have a name", "template")
        yield entry["name"], entry.get("value")


def _multipart(body: bytes, media: Media, *_: object) -> Iterator[Value]:
    try:
        with PushMultipartParser(
            media.parameters["boundary"],
            len(body),
            max_header_size=LONGEST_PART_HEADER,
            max_header_count=MOST_PART_HEADERS,
            max_segment_count=MOST_PARTS,
            strict=True,
        ) as parser:
            yield from _parts(parser, body)
    except MultipartError as error:
        raise InvalidInput(f"the body is no multipart/form-data: {error.args[0]}") from None


def _parts(parser: PushMultipartParser, body: bytes) -> Iterator[Value]:
    name = ""
    pieces: list[bytes] = []
    for event in parser.parse(body) if body else ():
        if isinstance(event, MultipartSegment):
            name, pieces = _part_name(event), []
        elif event is None:
            yield name, _text(b"".join(pieces), f"the field {printable(name.encode())}")
        else:
            pieces.append(bytes(event))


def _part_name(part: MultipartSegment) -> str:
    """The name of the field that a part holds; a file and a text are alike."""
    headers = dict(part.headerlist)
    if len(headers) < len(part.headerlist):
        raise InvalidInput("a part of the body has a header twice")
    _, parameters = _with_parameters("Content-Disposition", headers["Content-Disposition"])
    if "name" not in parameters or "name*" in parameters:
        raise InvalidInput("a part of the body has no name, or one of the form name*=")
    encoding = headers.get("Content-Transfer-Encoding", "binary").strip().lower()
    if encoding not in ("7bit", "8bit", "binary"):
        raise InvalidInput("a part of the body has a Content-Transfer-Encoding; none is taken")
    if "Content-Type" in headers:
        _check_part_type(headers["Content-Type"])
    return parameters["name"]


def _check_part_type(text: str) -> None:
    type, parameters = _with_parameters("Content-Type", text)
    if type.startswith("multipart/"):
        raise InvalidInput("a part of the body is multipart itself; none is taken")
    if parameters.get("charset", "utf-8").lower() not in _UTF_8 | {"us-ascii"}:
        raise InvalidInput("a part of the body has a charset other than utf-8")


def _with_parameters(header: str, text: str) -> tuple[str, dict[str, str]]:
    """A header's value in lower case, and its parameters (RFC 9110, 5.6.6).

    :raises InvalidInput: when it is not well formed.
    """
    if not text:
        return "", {}
    match = _WITH_PARAMETERS.fullmatch(text.strip(" \t"))
    if not match:
        raise InvalidInput(f"the header {header} is not well formed", header)
    parameters: dict[str, str] = {}
    for name, value in _PARAMETERS.findall(match[2]):
        if name.lower() in parameters:
            raise InvalidInput(f"the header {header} has a parameter twice", header)
        parameters[name.lower()] = _unquoted(value)
    return match[1].lower(), parameters


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


_READERS: Final[dict[str, Callable[[bytes, Media, Template, str], Iterator[Value]]]] = {
    "application/x-www-form-urlencoded": _urlencoded,
    "multipart/form-data": _multipart,
    "application/json": _json,
    "application/vnd.collection+json": _json,
}
