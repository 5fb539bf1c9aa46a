"""Errors as Collection+JSON: one table from what went wrong to the answer."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException

from mig.errors import Conflict, InvalidInput, NotFound, Refusal, Unavailable, explained
from mig.hypermedia.document import Error, Item, Link, document

if TYPE_CHECKING:
    from mig.web.request import Request

STATUS: Final[dict[type[Refusal], HTTPStatus]] = {
    InvalidInput: HTTPStatus.BAD_REQUEST,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
RETRY_AFTER = b"5"

log = Logger()


class MethodNotAllowed(Refusal):
    """The path does not know the method; ``allowed`` are those that it does."""

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"the method {method} is not allowed here; allowed are {allowed}")
        self.allowed = allowed


class VersionNotSupported(Refusal):
    """The answer needs a newer version of HTTP than the client speaks."""


class Forbidden(Refusal):
    """The page of another site made the client's browser send this."""


class TooSlow(Refusal):
    """The request did not come in time."""


class TooLarge(Refusal):
    """The request's body is longer than the route takes; *limit* is in bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request's body must be of at most {limit} bytes here")


class UnsupportedMediaType(Refusal):
    """The request's body is of a kind that the route does not take."""


class ExpectationFailed(Refusal):
    """The header Expect asks for what the service does not do."""


STATUS.update(
    {
        Forbidden: HTTPStatus.FORBIDDEN,
        MethodNotAllowed: HTTPStatus.METHOD_NOT_ALLOWED,
        TooSlow: HTTPStatus.REQUEST_TIMEOUT,
        TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
        VersionNotSupported: HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
    }
)


def nothing_here() -> NotFound:
    """The refusal of a path that has no route."""
    return NotFound("there is nothing at this path")


def refused(
    request: Request,
    refusal: Refusal,
    items: list[Item] | None = None,
    links: list[Link] | None = None,
) -> bytes:
    """The answer that tells a client why it gets none."""
    status = next(STATUS[kind] for kind in type(refusal).__mro__ if kind in STATUS)
    if isinstance(refusal, Unavailable):
        request.setHeader(b"retry-after", RETRY_AFTER)
    if isinstance(refusal, MethodNotAllowed):
        request.setHeader(b"allow", refusal.allowed.encode())
    request.outcome = f"refused: {explained(refusal)}"
    return _answer(request, status, str(refusal), items, links)


def _answer(
    request: Request,
    status: HTTPStatus,
    message: str,
    items: list[Item] | None = None,
    links: list[Link] | None = None,
) -> bytes:
    error = Error(title=status.phrase, code=request.operation, message=message)
    return request.answer(document(request.href(), items=items, links=links, error=error), status)


def install(app: Klein) -> None:
    """Answer every exception of a handler, of Klein and of Werkzeug."""

    @app.handle_errors(Exception)
    def answer_exception(request: Any, failure: Failure) -> bytes:
        exception = failure.value
        if isinstance(exception, Refusal):
            return refused(request, exception)
        if isinstance(exception, HTTPException):
            return refused(request, nothing_here())
        if isinstance(exception, CancelledError):
            return b""
        log.failure("operation {operation} failed", failure, operation=request.operation)
        request.outcome = "failed"
        return _answer(
            request,
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "the service failed; its log has the reason under this error's code",
        )
