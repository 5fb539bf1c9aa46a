"""Every error of ours in one tree, each with its HTTP status and what a client is told of it."""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar, Final

INTERNAL_ERROR_MESSAGE: Final = "the service failed; its log has the reason under this error's code"

RETRY_AFTER_SECONDS: Final = 5


class MigError(Exception):
    """The base class of every error of ours.

    One that reaches a client by mistake is a failure of the service, of which nothing is shown.
    """

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR

    @property
    def client_message(self) -> str:
        """What a client is told."""
        return INTERNAL_ERROR_MESSAGE

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that an answer with this error has besides those of every answer."""
        return ()


def describe_error(reason: BaseException) -> str:
    """What went wrong, with the detail that is for the operator: for logs and terminals."""
    detail = getattr(reason, "detail", "")
    return f"{reason}: {detail}" if detail else str(reason)


# What a client is told instead of an answer


class RequestError(MigError):
    """What a client is told instead of an answer.

    The message is for people: it says what was wrong, where, and what is accepted.
    """

    @property
    def client_message(self) -> str:
        return str(self)


class InvalidInputError(RequestError):
    """The request holds a value that is not accepted. ``where`` names the parameter or field."""

    status = HTTPStatus.BAD_REQUEST

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(message)
        self.where = where


class ValueTooLongError(InvalidInputError):
    """A value does not fit into its column."""


class BadSignatureError(InvalidInputError):
    """The signature was made over another text, or has been changed."""


class ForbiddenError(RequestError):
    """The caller may not do this, or the page of another site made the client's browser send it."""

    status = HTTPStatus.FORBIDDEN


class NotFoundError(RequestError):
    """Nothing is known under this id or path."""

    status = HTTPStatus.NOT_FOUND


class MethodNotAllowedError(RequestError):
    """The path does not know the method; ``allowed`` are those that it does."""

    status = HTTPStatus.METHOD_NOT_ALLOWED

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"the method {method} is not allowed here; allowed are {allowed}")
        self.allowed = allowed

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return ((b"allow", self.allowed.encode()),)


class RequestTimeoutError(RequestError):
    """The request did not come in time."""

    status = HTTPStatus.REQUEST_TIMEOUT


class ConflictError(RequestError):
    """What is asked for is there already, or cannot be once more.

    *existing_id* is the id of what exists.
    """

    status = HTTPStatus.CONFLICT

    def __init__(self, message: str, existing_id: str = "") -> None:
        super().__init__(message)
        self.existing_id = existing_id


class DuplicateValueError(ConflictError):
    """A value that must be unique is there already."""


class BodyTooLargeError(RequestError):
    """The request's body is longer than the route takes; *limit* is in bytes."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request's body must be of at most {limit} bytes here")


class UnsupportedMediaTypeError(RequestError):
    """The request's body is of a kind that the route does not take."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class ExpectationFailedError(RequestError):
    """The header Expect asks for what the service does not do."""

    status = HTTPStatus.EXPECTATION_FAILED


class UnavailableError(RequestError):
    """The answer cannot be given now; the same request may succeed later.

    *detail* is for the operator alone: it may name hosts, folders and roles.
    """

    status = HTTPStatus.SERVICE_UNAVAILABLE

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return ((b"retry-after", b"%d" % RETRY_AFTER_SECONDS),)


class LockTimeoutError(UnavailableError):
    """A statement gave up on a lock that another transaction holds."""


class HttpVersionError(RequestError):
    """The answer needs a newer version of HTTP than the client speaks."""

    status = HTTPStatus.HTTP_VERSION_NOT_SUPPORTED


# What a handler deals with itself


class UnreadableError(MigError):
    """A stored document cannot be read; the message is the reason, fit for a client."""


class ClientStalledError(MigError):
    """The client did not take what was written in time."""


# What the operator is told: the message is one line


class ConfigError(MigError):
    """The file cannot be used; the message is one line with all its faults."""


class ListenerError(MigError, ValueError):
    """The text names no listener that may be used; the message is one line that says why."""


class LogError(MigError):
    """The log cannot go where it should; the message is one line that says why."""


class SchemaError(MigError):
    """The schema cannot be used or brought up to date; the message is one line for people."""


class OtherRoleNeededError(SchemaError):
    """Some steps must be run by another role of the database; *sql* is what that role runs."""

    def __init__(self, message: str, sql: str) -> None:
        super().__init__(message)
        self.sql = sql


class SpoolError(MigError):
    """The spool cannot be used; the message is one line for the operator."""


class PostgresError(MigError):
    """The database cannot be used; the message is one line for the operator."""


class StartupError(MigError):
    """The service cannot start; the message is one line for the operator."""
