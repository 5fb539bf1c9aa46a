"""Errors as documents."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest

from mig.access.credentials import may_use_basic
from mig.api.documents import answer_collection
from mig.errors import (
    INTERNAL_ERROR_MESSAGE,
    RequestError,
    UnauthorizedError,
    describe_error,
)
from mig.hypermedia.document import Error, Item, Link
from mig.web.request import Request

log = Logger()

_BASIC: Final = b'Basic realm="mig-api", charset="UTF-8"'


def answer_refusal(
    request: Request,
    refusal: RequestError,
    items: list[Item] | None = None,
    links: list[Link] | None = None,
) -> bytes:
    """Answer with the reason why a request is refused."""
    for name, value in refusal.headers:
        request.setHeader(name, value)
    if isinstance(refusal, UnauthorizedError) and may_use_basic(request):
        request.responseHeaders.addRawHeader(b"www-authenticate", _BASIC)
    request.refusal = refusal.client_message
    request.credential_fault = refusal.credential_fault
    request.outcome = f"refused: {describe_error(refusal)}"
    return _answer_error(request, refusal.status, refusal.client_message, items, links)


def _answer_error(
    request: Request,
    status: HTTPStatus,
    message: str,
    items: list[Item] | None = None,
    links: list[Link] | None = None,
) -> bytes:
    error = Error(title=status.phrase, code=request.operation, message=message)
    return answer_collection(request, items=items, links=links, error=error, status=status)


def answer_exception(request: Request, error: BaseException) -> bytes:
    """Answer with any error; one that is not a refusal is logged, and its reason not sent."""
    if isinstance(error, RequestError):
        return answer_refusal(request, error)
    log.failure("operation {operation} failed", Failure(error), operation=request.operation)
    request.outcome = "failed"
    return _answer_error(request, HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_ERROR_MESSAGE)


def install_error_handler(app: Klein) -> None:
    """Make ``app`` answer every exception of a handler."""

    @app.handle_errors(Exception)
    def answer_failure(request: IRequest, failure: Failure) -> bytes:
        error = failure.value
        if error is None or isinstance(error, CancelledError):  # the client has left
            return b""
        assert isinstance(request, Request)  # our site creates no other
        return answer_exception(request, error)
