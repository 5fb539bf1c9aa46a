"""All our errors in one tree, each with its HTTP status and its message for clients."""

from __future__ import annotations

from enum import StrEnum
from http import HTTPStatus
from math import ceil
from typing import ClassVar, Final

INTERNAL_ERROR_MESSAGE: Final = "the service failed; its log has the reason under this error's code"

RETRY_AFTER_SECONDS: Final = 5


class MigError(Exception):
    """The base class of all our errors.

    One that reaches a client by mistake is a failure of the service; the client sees no details.
    """

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    header_names: ClassVar[tuple[str, ...]] = ()
    """The names of the additional headers of an answer with this error."""

    @property
    def client_message(self) -> str:
        """The message for the client."""
        return INTERNAL_ERROR_MESSAGE

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The additional headers of an answer with this error."""
        return ()


def describe_error(reason: BaseException) -> str:
    """Return the message with the detail for the operator, for logs and terminals."""
    detail = getattr(reason, "detail", "")
    return f"{reason}: {detail}" if detail else str(reason)


def drop_traceback(reason: BaseException | None) -> None:
    """Let an error forget where it was raised, if nobody wants to know.

    A traceback refers to the variables of all functions that the error has passed through, and
    some of these to the error. Such a cycle would keep a large action until Python looks for
    cycles, which a service that is idle does not.
    """
    while reason is not None:
        reason.__traceback__ = None
        reason = reason.__context__


# For clients: answers to a request


class CredentialFault(StrEnum):
    """Why the credentials of a request are refused, as the metrics name it."""

    EXPIRED = "expired"
    CLOCK = "clock"
    UNKNOWN_KEY = "unknown_key"
    BAD_SIGNATURE = "bad_signature"
    API_KEY = "api_key"
    TOO_MANY = "too_many"
    """They were not looked at, after too many wrong ones."""
    OTHER = "other"


class RequestError(MigError):
    """The base class of the errors that a client gets as an answer.

    The message is for people: it says what was wrong, where, and what is accepted.
    ``credential_fault`` is what was wrong with credentials, if that is why.
    """

    credential_fault: CredentialFault | None = None

    @property
    def client_message(self) -> str:
        """The message itself."""
        return str(self)


class InvalidInputError(RequestError):
    """A value in the request is not accepted; ``where`` names the parameter or field."""

    status = HTTPStatus.BAD_REQUEST

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(message)
        self.where = where


class ValueTooLongError(InvalidInputError):
    """A value does not fit into its column."""


class BadSignatureError(InvalidInputError):
    """The signature is of another text, or has been changed."""


class UnauthorizedError(RequestError):
    """The request has no valid credentials; the message says what is wrong or what is taken."""

    status = HTTPStatus.UNAUTHORIZED
    header_names = ("WWW-Authenticate",)

    def __init__(self, message: str, fault: CredentialFault = CredentialFault.OTHER) -> None:
        super().__init__(message)
        self.credential_fault = fault

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The header WWW-Authenticate (RFC 9110, 11.6.1)."""
        return ((b"www-authenticate", b'Bearer realm="mig-api"'),)


class TooManyRequestsError(RequestError):
    """The client has to wait ``seconds`` before the same request can succeed.

    :param limit_headers: what describes the limit.
    """

    status = HTTPStatus.TOO_MANY_REQUESTS
    header_names = ("Retry-After", "RateLimit", "RateLimit-Policy")

    def __init__(
        self, message: str, seconds: float, limit_headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        super().__init__(message)
        self.seconds = seconds
        self._limit_headers = limit_headers

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The header Retry-After, and those of the limit."""
        return ((b"retry-after", b"%d" % ceil(self.seconds)), *self._limit_headers)


class TooManyCredentialsError(TooManyRequestsError):
    """The client has sent too many wrong credentials."""

    credential_fault = CredentialFault.TOO_MANY


class ForbiddenError(RequestError):
    """The caller may not do this, or a browser sent the request for a page of another site."""

    status = HTTPStatus.FORBIDDEN


class NotFoundError(RequestError):
    """Nothing has this id or path."""

    status = HTTPStatus.NOT_FOUND


class NoResultsError(NotFoundError):
    """A search finds nothing, for a client that expects an error then."""

    def __init__(self) -> None:
        super().__init__("no results found")


class MethodNotAllowedError(RequestError):
    """The path does not allow the method; ``allowed`` lists those that it does."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    header_names = ("Allow",)

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"the method {method} is not allowed here; allowed methods: {allowed}")
        self.allowed = allowed

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The header Allow."""
        return ((b"allow", self.allowed.encode()),)


class RequestTimeoutError(RequestError):
    """The request did not arrive in time."""

    status = HTTPStatus.REQUEST_TIMEOUT


class UriTooLongError(RequestError):
    """The first line of the request is too long."""

    status = HTTPStatus.REQUEST_URI_TOO_LONG


class HeadersTooLargeError(RequestError):
    """The first line and the headers of the request are too long together."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


class ConflictError(RequestError):
    """The requested object exists already, or must not exist twice.

    ``existing_id`` is the id of the existing one.
    """

    status = HTTPStatus.CONFLICT

    def __init__(self, message: str, existing_id: str = "") -> None:
        super().__init__(message)
        self.existing_id = existing_id


class DuplicateValueError(ConflictError):
    """A value that must be unique exists already."""


class BodyTooLargeError(RequestError):
    """The body of the request is larger than the route accepts.

    ``limit`` is in bytes; ``advice`` is what the client can do.
    """

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    def __init__(self, limit: int, advice: str = "") -> None:
        message = f"the body of this request must be at most {limit} bytes"
        super().__init__(f"{message}; {advice}" if advice else message)


class UnsupportedMediaTypeError(RequestError):
    """The body of the request has a media type that the route does not accept."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class ExpectationFailedError(RequestError):
    """The header Expect asks for something that the service does not do."""

    status = HTTPStatus.EXPECTATION_FAILED


class UnavailableError(RequestError):
    """The request cannot be answered now; the same request may succeed later.

    ``detail`` is only for the operator: it may name hosts, folders and roles.
    """

    status = HTTPStatus.SERVICE_UNAVAILABLE
    header_names = ("Retry-After",)

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The header Retry-After."""
        return ((b"retry-after", b"%d" % RETRY_AFTER_SECONDS),)


class LockTimeoutError(UnavailableError):
    """A statement gave up on a lock that another transaction holds."""


class QueryCancelledError(UnavailableError):
    """The database cancelled a statement: it took too long, or an administrator ended it."""


class HttpVersionError(RequestError):
    """The answer needs a newer version of HTTP than the client uses."""

    status = HTTPStatus.HTTP_VERSION_NOT_SUPPORTED


# Handled within the service


class UnreadableError(MigError):
    """A stored record cannot be read; the message is the reason, which clients may see."""


class GuardFailedError(MigError):
    """The condition of a :class:`mig.model.statement.Guard` does not hold; nothing was done."""


class StatementError(MigError):
    """PostgreSQL refuses a statement with SQL of a client; the message is PostgreSQL's own.

    ``position`` is where in the statement, in characters from 1; ``None`` if PostgreSQL does not
    say.
    """

    def __init__(self, message: str, position: int | None) -> None:
        super().__init__(message)
        self.position = position


class ClientStalledError(MigError):
    """The client did not read what was written in time."""


# For the operator: the message is one line


class ConfigError(MigError):
    """The configuration file cannot be used; the message names all of its errors."""


class ListenerError(MigError, ValueError):
    """The text does not name a listener that can be used."""


class CertificateError(MigError):
    """The certificate of a listener, or its key, cannot be used."""


class LogError(MigError):
    """The log cannot be written to its destination."""


class SchemaError(MigError):
    """The schema cannot be used or brought up to date."""


class OtherRoleNeededError(SchemaError):
    """Some steps need another role of the database; ``sql`` is the script for that role."""

    def __init__(self, message: str, sql: str) -> None:
        super().__init__(message)
        self.sql = sql


class PoolerError(MigError):
    """A pooler gives the sessions of the database to several connections."""

    def __init__(self) -> None:
        super().__init__(
            "--database leads to a pooler that shares sessions between connections; use session"
            " pooling (in pgbouncer pool_mode = session) or connect to PostgreSQL itself"
        )


class SpoolError(MigError):
    """The spool cannot be used."""


class PostgresError(MigError):
    """The embedded PostgreSQL cannot be used."""


class StartupError(MigError):
    """The service cannot start."""
