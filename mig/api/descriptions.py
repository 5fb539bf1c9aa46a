"""What each route takes and answers, for docs/reference.md and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from mig.api.forms import Form
from mig.errors import (
    BodyTooLargeError,
    ExpectationFailedError,
    ForbiddenError,
    HeadersTooLargeError,
    InvalidInputError,
    MigError,
    RequestTimeoutError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedMediaTypeError,
    UriTooLongError,
)
from mig.formats import COLLECTION, FORMATS
from mig.limits import Limits
from mig.model.record import Record
from mig.search.kinds import JsonSchema
from mig.search.parameters import DOCUMENT_PARAMETERS, Parameter

ErrorTypes = tuple[type[MigError], ...]

_ERRORS: Final[ErrorTypes] = (
    InvalidInputError,
    RequestTimeoutError,
    BodyTooLargeError,
    UriTooLongError,
    ExpectationFailedError,
    TooManyRequestsError,
    HeadersTooLargeError,
    MigError,
    UnavailableError,
)
"""What any route may answer."""
_ERRORS_OF_CALLERS: Final[ErrorTypes] = (UnauthorizedError, ForbiddenError)
"""What a route that needs a caller may answer."""
_ERRORS_OF_BODIES: Final[ErrorTypes] = (ForbiddenError, UnsupportedMediaTypeError)
"""What a route that reads a body may answer."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a request is answered with when it succeeds.

    :param formats: the names of the formats that it can have.
    :param media_types: its media types, when it is not in one of these formats.
    :param records: the kinds of records in it.
    :param headers: the names of the headers that only some answers have.
    :param other_data: what other data it has, in words; empty for none.
    """

    status: HTTPStatus = HTTPStatus.OK
    formats: Sequence[str] = (COLLECTION,)
    media_types: Sequence[str] = ()
    records: Sequence[type[Record]] = ()
    headers: Sequence[str] = ()
    other_data: str = ""


COLLECTION_PARAMETERS: Final = tuple(
    parameter
    for parameter in DOCUMENT_PARAMETERS.values()
    if COLLECTION in (parameter.formats or FORMATS)
)
"""The parameters of a document that has no other format."""
TEXT: Final = Answer(formats=(), media_types=("text/plain; charset=utf-8",))
STYLE_SHEET: Final = Answer(formats=(), media_types=("text/css; charset=utf-8",))
JSON: Final = Answer(formats=(), media_types=("application/json",))


def describe_change(status: HTTPStatus, record: type[Record]) -> Answer:
    """Return the answer to a request that makes or changes a record."""
    return Answer(status=status, records=(record,), headers=("Location",))


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a client may send to a route, and what it gets.

    :param meaning: what the answer is, in words.
    :param parameters: those of the query string.
    :param required: the names of those that must be there.
    :param path_parameters: the values in the path, with their JSON schemas.
    :param form: the fields of the body.
    :param errors: those that not every route may answer.
    :param failure: the answer of a failure that is no document of an error.
    """

    meaning: str
    parameters: Sequence[Parameter] = ()
    required: Sequence[str] = ()
    path_parameters: Mapping[str, JsonSchema] = field(default_factory=dict)
    form: Form | None = None
    answer: Answer = field(default_factory=Answer)
    errors: ErrorTypes = ()
    failure: Answer | None = None


def list_common_errors(*, needs_caller: bool, has_body: bool) -> ErrorTypes:
    """Return the errors that any such route may answer."""
    errors = _ERRORS
    errors += _ERRORS_OF_CALLERS if needs_caller else ()
    errors += _ERRORS_OF_BODIES if has_body else ()
    return errors


def describe_statuses(limits: Limits) -> dict[HTTPStatus, str]:
    """Return when each status of an error is answered, in words."""
    sizes = limits.action_body_bytes, limits.key_body_bytes, limits.discarded_body_bytes
    action, key, other = map(_format_size, sizes)
    return {
        HTTPStatus.BAD_REQUEST: "a parameter, field, id, Host, path or method is not accepted; the"
        " message names it",
        HTTPStatus.UNAUTHORIZED: "there is not exactly one credential, or it is not valid; the"
        " message says why, and of an API key nothing more than that",
        HTTPStatus.FORBIDDEN: "the caller does not have the permission that the message names; or a"
        " page of another site sent the form (`Origin`, `Sec-Fetch-Site`)",
        HTTPStatus.NOT_FOUND: "nothing has this id or path",
        HTTPStatus.METHOD_NOT_ALLOWED: "the path does not accept the method; `Allow` lists those"
        " that it accepts",
        HTTPStatus.REQUEST_TIMEOUT: f"the headers took more than {limits.header_seconds:g} s, or"
        f" the body more than {limits.body_seconds:g} s after them",
        HTTPStatus.CONFLICT: "another investigator has the key; nobody could change investigators"
        " any more; too many API keys; or the action was put into the database without this API, or"
        " has been deleted since",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"the body exceeds {action} with an action, {key} with"
        f" an investigator or an API key, {other} elsewhere; the message names the key that changes"
        " it",
        HTTPStatus.REQUEST_URI_TOO_LONG: "the first line of the request exceeds 16 KiB",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "the body is not urlencoded, multipart, JSON or"
        " Collection+JSON, is not UTF-8, or has a `Content-Encoding`",
        HTTPStatus.EXPECTATION_FAILED: "`Expect` is not `100-continue`",
        HTTPStatus.TOO_MANY_REQUESTS: "the client's address, or the caller, sends more than"
        f" {limits.rate:g} requests a second after a burst of {limits.burst}, or has"
        f" {limits.streams} long answers already (searches and reports for more than"
        f" {limits.short_search_rows} results, summaries, and later pages of a report with"
        f" `latest=true`); or {limits.failures_per_minute} requests of the address had wrong"
        " credentials within a minute, and these are not known to be good; see `Retry-After`",
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "the first line and the headers exceed 16 KiB"
        " together",
        HTTPStatus.INTERNAL_SERVER_ERROR: "a fault of the service; the log has it under the error's"
        " code",
        HTTPStatus.SERVICE_UNAVAILABLE: "the database is unreachable, busy or too slow, or too much"
        " is being sent; see `Retry-After`",
        HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: "the answer exceeds"
        f" {_format_size(limits.whole_answer_bytes)}, and a client of HTTP/1.0 could not see that"
        " it was cut",
    }


def _format_size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
