"""The description of the API in OpenAPI 3.1, made from the tables of the program."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Final

import msgspec

from mig import __version__
from mig.api.descriptions import Answer, describe_statuses
from mig.api.forms import Form
from mig.api.route import Route
from mig.errors import MigError
from mig.formats import COLLECTION, FORMATS
from mig.formats.collection_json import MEDIA_TYPES
from mig.formats.format import FormatOptions
from mig.hypermedia.document import Document
from mig.hypermedia.urls import Urls
from mig.limits import Limits
from mig.model.record import SCHEMA_REFERENCE, StoredRecord, UnreadableRecord
from mig.search.kinds import MAX_KEY_CHARACTERS, MAX_REPETITIONS, JsonSchema
from mig.search.parameters import Parameter

VERSION: Final = "3.1.1"

_SECURITY_SCHEMES: Final[Mapping[str, JsonSchema]] = {
    "key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-MIGAPIKEY",
        "description": "An API key, as `mig_ID_SECRET_CHECKSUM`.",
    },
    "bearer": {"type": "http", "scheme": "bearer", "description": "The same API key."},
    "token": {
        "type": "apiKey",
        "in": "header",
        "name": "X-PGPAUTHORIZATION",
        "description": "A token that an investigator has signed.",
    },
}
_HEADERS: Final[Mapping[str, tuple[str, JsonSchema]]] = {
    "Allow": ("The methods that the path allows.", {"type": "string"}),
    "Content-Disposition": (
        "A name for the file that a client may save, in formats of rows.",
        {"type": "string"},
    ),
    "Location": ("The address of the record.", {"type": "string", "format": "uri"}),
    "RateLimit": (
        "Which limit is used up, and after how many seconds (`t`) it is not.",
        {"type": "string", "examples": ['"address";r=0;t=1']},
    ),
    "RateLimit-Policy": (
        "The limit: a quota (`q`) in a window of seconds (`w`), or of what happens at a time.",
        {"type": "string", "examples": ['"address";q=200;w=4']},
    ),
    "Retry-After": ("When to try again, in seconds.", {"type": "integer", "minimum": 0}),
    "WWW-Authenticate": ("The schemes of credentials.", {"type": "string"}),
    "X-Limit": ("The limit of the rows, if one is given.", {"type": "integer", "minimum": 1}),
    "X-Request-Id": (
        "The operation id, which the log and the code of an error have, too.",
        {"type": "string", "pattern": "^[0-9]+$"},
    ),
    "X-Total-Count": (
        "How many results there are, with `total=true`.",
        {"type": "integer", "minimum": 0},
    ),
}
_DESCRIPTION: Final = (
    "The REST service through which security teams question thousands of machines. HEAD and OPTIONS"
    " work on every path. Documents are Collection+JSON. JavaScript rounds ids above"
    " 9007199254740992, also a page that shows an answer; with `ids=text` it does not."
)
_LINES: Final = (
    "One record a line, as the `value` of its data in Collection+JSON; with `fields`, some of its"
    ' members. One that cannot be read is `{"unreadable": …}`, and the seal `{"end": …}`.'
)
_ANY_TEXT: Final[JsonSchema] = {"type": "string"}
_PAGE: Final[dict[str, dict[str, JsonSchema]]] = {
    "text/html; charset=utf-8": {
        "schema": {
            **_ANY_TEXT,
            "description": "A page for browsers, which may send an API key as the password of Basic"
            " to get one.",
        }
    }
}
_COMMON_HEADERS: Final = ("X-Request-Id",)
_ERROR_DOCUMENT: Final = "ErrorDocument"


def build_openapi(routes: Iterable[Route], base_path: str, limits: Limits) -> dict[str, object]:
    """Return the document that describes ``routes`` below ``base_path``."""
    routes = list(routes)
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        operations = paths.setdefault(_format_path(route.path), {})
        operations[route.method.lower()] = _describe_operation(route)
    return {
        "openapi": VERSION,
        "info": {
            "title": "mig-api",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": base_path or "/"}],
        "paths": paths,
        "components": {
            "schemas": _describe_schemas(routes),
            "responses": _describe_errors(limits),
            "headers": {name: _describe_header(name) for name in _HEADERS},
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }


def _format_path(path: str) -> str:
    return re.sub("<([a-z]+)>", r"{\1}", path)


def _describe_operation(route: Route) -> dict[str, object]:
    description = route.description
    answers = [description.answer, *filter(None, [description.failure])]
    name = re.sub("[^a-z]+", "_", f"{route.method.lower()}{route.path}").strip("_")
    operation: dict[str, object] = {
        "operationId": name,
        "summary": description.meaning.replace("`", ""),
        "tags": [route.path.split("/")[1] or "home"],
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": schema}
                for name, schema in description.path_parameters.items()
            ),
            *(
                {**_describe_parameter(each), "required": each.name in description.required}
                for each in description.parameters
            ),
        ],
        "responses": {
            **{
                str(status.value): {"$ref": f"#/components/responses/{status.name}"}
                for status in route.list_error_statuses()
            },
            **{str(answer.status.value): _describe_answer(answer) for answer in answers},
        },
        "security": [],
    }
    if route.permission is not None:
        roles = route.permission.member_names
        operation["security"] = [{name: roles} for name in _SECURITY_SCHEMES]
    if description.form is not None:
        operation["requestBody"] = _describe_form(description.form)
    return operation


def _describe_parameter(parameter: Parameter) -> dict[str, object]:
    schema = parameter.kind.build_json_schema()
    described: dict[str, object] = {
        "name": parameter.name,
        "in": "query",
        "description": parameter.meaning,
        "schema": schema,
    }
    family, dot, _ = parameter.name.partition(".")
    if dot:  # the members of this object are parameters of their own
        name_pattern = rf"^{family}\.[^\u0000]{{1,{MAX_KEY_CHARACTERS}}}$"
        described["schema"] = {
            "type": "object",
            "patternProperties": {name_pattern: schema},
            "additionalProperties": False,
        }
        described |= {"style": "form", "explode": True}
    elif parameter.kind.is_repeatable:
        described["schema"] = {"type": "array", "items": schema, "maxItems": MAX_REPETITIONS}
        described |= {"style": "form", "explode": True}
    return described


def _describe_form(form: Form) -> dict[str, object]:
    fields: dict[str, JsonSchema] = {
        data.name: {
            "type": ["string", "object"] if data.name in form.object_fields else "string",
            "description": data.prompt,
        }
        for data in form.template.data
    }
    fields |= {name: {"type": "string"} for name in form.optional if name not in fields}
    schema: JsonSchema = {
        "type": "object",
        "properties": fields,
        "required": [name for name in fields if name not in form.optional],
        "additionalProperties": False,
    }
    types = ["string", "object"] if form.object_fields else ["string"]
    entry = _describe_object({"name": {"enum": list(fields)}, "value": {"type": types}})
    data: JsonSchema = {"type": "array", "items": entry}
    template = _describe_object({"template": _describe_object({"data": data})})
    texts: JsonSchema = {**schema, "properties": dict.fromkeys(fields, _ANY_TEXT)}
    whole = f"Or the value of `{form.whole}` itself." if form.whole else ""
    bodies: dict[str, JsonSchema] = {
        "application/x-www-form-urlencoded": texts,
        "multipart/form-data": texts,
        "application/json": {"anyOf": [schema, {"type": "object", "description": whole}]}
        if whole
        else schema,
        "application/vnd.collection+json": template,
    }
    return {
        "required": True,
        "content": {media_type: {"schema": body} for media_type, body in bodies.items()},
    }


def _describe_answer(answer: Answer) -> dict[str, object]:
    content: dict[str, object] = {media_type: {} for media_type in answer.media_types}
    if answer.formats:
        content |= _PAGE
    for name in answer.formats:
        format_ = FORMATS[name](Urls(""), FormatOptions())
        for media_type in format_.media_types:
            if name == COLLECTION:
                schema = _describe_document(answer)
            else:
                schema = {**_ANY_TEXT, "description": _LINES} if not format_.charset else _ANY_TEXT
            content[media_type] = {"schema": schema}
    return {
        "description": answer.status.phrase,
        "headers": _refer_to_headers(answer.headers),
        "content": content,
    }


def _describe_document(answer: Answer) -> JsonSchema:
    """Return the JSON schema of a document with the records of an answer."""
    document = _refer(Document.__name__)
    if not answer.records:
        return document
    values = {record.noun: _refer(record.__name__) for record in answer.records}
    for record in answer.records:
        if issubclass(record, StoredRecord):
            values[f"unreadable {record.noun}"] = _refer(UnreadableRecord.__name__)
    data: list[JsonSchema] = [
        _describe_object({"name": {"const": noun}, "value": value})
        for noun, value in values.items()
    ]
    if answer.other_data:
        other: JsonSchema = {"not": {"enum": list(values)}, "description": answer.other_data}
        data.append(_describe_object({"name": other}))
    items = _describe_items({"properties": {"data": _describe_items({"anyOf": data})}})
    return {"allOf": [document, {"properties": {"collection": {"properties": {"items": items}}}}]}


def _describe_items(item: JsonSchema) -> JsonSchema:
    return {"items": item}


def _describe_object(members: Mapping[str, JsonSchema]) -> JsonSchema:
    return {"type": "object", "properties": members, "required": list(members)}


def _describe_schemas(routes: Sequence[Route]) -> dict[str, object]:
    """Return the JSON schemas of all documents and records, by name."""
    _, schemas = msgspec.json.schema_components(
        [Document], schema_hook=_describe_type, ref_template=SCHEMA_REFERENCE
    )
    for route in routes:
        for record in route.description.answer.records:
            schemas |= record.build_json_schema()
    schemas[UnreadableRecord.__name__] = _describe_unreadable()
    schemas[_ERROR_DOCUMENT] = {
        "allOf": [
            _refer(Document.__name__),
            {"properties": {"collection": {"type": "object", "required": ["error"]}}},
        ]
    }
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = _format_docstring(schema["description"])
    return schemas


def _describe_type(type_: type) -> dict[str, object]:
    """Return the schema of the value of data, which may be anything."""
    assert type_ is object
    return {"description": "any JSON value"}


def _describe_unreadable() -> JsonSchema:
    """Return the JSON schema of what a document has instead of a record."""
    members: dict[str, JsonSchema] = dict.fromkeys(("link", "target", "reason"), _ANY_TEXT)
    return {
        **_describe_object(members),
        "required": ["link", "reason"],
        "description": "What is there instead of a record that cannot be read.",
    }


def _format_docstring(text: str) -> str:
    """Return a docstring of ours as Markdown."""
    text = re.sub(":(?:mod|class|func|data):`[a-z_.]*?([A-Za-z_]+)`", r"`\1`", text)
    return text.replace("``", "`")


def _describe_errors(limits: Limits) -> dict[str, object]:
    """Return the answers to requests that fail, by the name of their status."""
    names: dict[HTTPStatus, set[str]] = {}
    for error in _list_error_types(MigError):
        names.setdefault(error.status, set()).update(error.header_names)
    content = {media_type: {"schema": _refer(_ERROR_DOCUMENT)} for media_type in MEDIA_TYPES}
    content |= _PAGE
    return {
        status.name: {
            "description": meaning,
            "headers": _refer_to_headers(sorted(names[status])),
            "content": content,
        }
        for status, meaning in describe_statuses(limits).items()
    }


def _list_error_types(error: type[MigError]) -> Iterator[type[MigError]]:
    """Yield an error and all that are derived from it."""
    yield error
    for derived in error.__subclasses__():
        yield from _list_error_types(derived)


def _refer(name: str) -> JsonSchema:
    return {"$ref": SCHEMA_REFERENCE.format(name=name)}


def _refer_to_headers(names: Iterable[str]) -> dict[str, JsonSchema]:
    """Return the headers of an answer: those of every one, and some others."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*_COMMON_HEADERS, *names)}


def _describe_header(name: str) -> JsonSchema:
    description, schema = _HEADERS[name]
    return {"description": description, "schema": schema}
