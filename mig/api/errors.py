"""Errors as Collection+JSON documents."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException

from mig.errors import FAILED, NotFound, Refusal, explained
from mig.hypermedia.document import Error, Item, Link, document

if TYPE_CHECKING:
    from mig.web.request import Request

log = Logger()


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
    for name, value in refusal.headers:
        request.setHeader(name, value)
    request.outcome = f"refused: {explained(refusal)}"
    return _answer(request, refusal.status, refusal.client_message, items, links)


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
        return _answer(request, HTTPStatus.INTERNAL_SERVER_ERROR, FAILED)
