"""The errors of the client library, in one tree."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from mig.model.record import UnreadableRecord


class MIGClientError(Exception):
    """The base class of all errors of the client library."""


class InsecureURLError(MIGClientError, ValueError):
    """Credentials would be sent over plain HTTP to another host."""


class ConnectionFailedError(MIGClientError):
    """The service gave no answer.

    ``is_temporary`` is false when another attempt would fail in the same way: when the certificate
    is not trusted.
    """

    def __init__(self, message: str, *, is_temporary: bool = True) -> None:
        super().__init__(message)
        self.is_temporary = is_temporary


class InvalidResponseError(MIGClientError):
    """The answer is not one of a MIG API."""


class IncompleteResponseError(MIGClientError):
    """The answer was cut: records are missing after those that arrived."""


class UnreadableRecordsError(MIGClientError):
    """The service could not read some of the records that were found.

    It is raised when all others have been returned. ``records`` are the first of them, with their
    kind, id and reason; ``count`` is how many there are.
    """

    def __init__(self, records: Sequence[UnreadableRecord], count: int) -> None:
        first = records[0]
        super().__init__(
            f"{count} of the records found cannot be read, the first one is {first.kind}"
            f" {first.id}: {first.reason}"
        )
        self.records = records
        self.count = count


class WaitTimeoutError(MIGClientError):
    """The action did not end in time."""


class RequestError(MIGClientError):
    """The service refused the request, or failed.

    ``status`` is the HTTP status, ``message`` says what was wrong, and ``operation`` is the id
    under which the log of the service has the request.
    """

    def __init__(self, status: int, message: str, operation: str = "") -> None:
        super().__init__(status, message, operation)
        self.status = status
        self.message = message
        self.operation = operation

    def __str__(self) -> str:
        operation = f" (operation {self.operation})" if self.operation else ""
        return f"{self.status}: {self.message}{operation}"


class UnauthorizedError(RequestError):
    """The credentials are missing or not accepted."""


class ForbiddenError(RequestError):
    """The caller may not do this."""


class NotFoundError(RequestError):
    """Nothing has this id or URL."""


class UnavailableError(RequestError):
    """The service cannot answer now; the same request may succeed later."""


_CLASSES: dict[int, type[RequestError]] = {
    HTTPStatus.UNAUTHORIZED: UnauthorizedError,
    HTTPStatus.FORBIDDEN: ForbiddenError,
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.TOO_MANY_REQUESTS: UnavailableError,
    HTTPStatus.BAD_GATEWAY: UnavailableError,
    HTTPStatus.SERVICE_UNAVAILABLE: UnavailableError,
    HTTPStatus.GATEWAY_TIMEOUT: UnavailableError,
}


def make_request_error(status: int, message: str, operation: str) -> RequestError:
    """Return the error for an answer with this status."""
    return _CLASSES.get(status, RequestError)(status, message, operation)
