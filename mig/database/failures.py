"""What a failure of PostgreSQL, or of the connection to it, means to this project."""

from __future__ import annotations

from typing import cast

import psycopg2
from psycopg2.errors import (
    DeadlockDetected,
    DivisionByZero,
    DuplicatePreparedStatement,
    FeatureNotSupported,
    InvalidSqlStatementName,
    LockNotAvailable,
    ReadOnlySqlTransaction,
    StringDataRightTruncation,
    UniqueViolation,
)
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from mig.errors import (
    DuplicateValueError,
    GuardFailedError,
    LockTimeoutError,
    QueryCancelledError,
    StatementError,
    UnavailableError,
    ValueTooLongError,
)

CONFIGURATION_LIMIT_EXCEEDED = "53400"
"""The SQLSTATE of a limit that an administrator has set, such as ``temp_file_limit``."""

UNUSABLE_SESSION_ERRORS = (
    FeatureNotSupported,
    InvalidSqlStatementName,
    DuplicatePreparedStatement,
)
"""Errors of a prepared statement whose tables have changed, or that the session has lost or has had
before: a pooler may hand out the session of another client."""

STALE_CONNECTION_ERRORS = (*UNUSABLE_SESSION_ERRORS, ReadOnlySqlTransaction)
"""Errors after which a new connection may succeed: another server may be the primary by now."""


def translate_failure(failure: Failure, notices: str = "") -> Failure:
    """Return the error of this project for the failure of a statement.

    :param notices: what the server has said before.
    """
    if failure.check(CancelledError):  # txpostgres maps psycopg2's QueryCanceledError to it
        return Failure(
            QueryCancelledError("the query took too long or was cancelled at the database")
        )
    if failure.check(UniqueViolation):
        return Failure(DuplicateValueError("a value that must be unique exists already"))
    if failure.check(StringDataRightTruncation):
        return Failure(ValueTooLongError("a value is too long for its column in the database"))
    # PostgreSQL's message describes the installation: it is for the log (docs/decisions/0007)
    reason = join_lines(notices + failure.getErrorMessage())
    if failure.check(LockNotAvailable, DeadlockDetected):
        message = "another transaction holds a lock that this one needs; try again"
        return Failure(LockTimeoutError(message, reason))
    if failure.check(ReadOnlySqlTransaction):
        return Failure(UnavailableError("the database is read-only", reason))
    if failure.check(*UNUSABLE_SESSION_ERRORS):
        return Failure(UnavailableError("the database has changed; try again", reason))
    if failure.check(psycopg2.OperationalError, psycopg2.InterfaceError, ConnectionDone):
        if getattr(failure.value, "pgcode", None):  # the server itself said why
            return Failure(UnavailableError("the database ended the query; try again", reason))
        return Failure(UnavailableError("the database cannot be reached", reason))
    return failure


def translate_guarded_failure(failure: Failure, notices: str = "") -> Failure:
    """Return the error of this project for the failure of a statement with a guard."""
    if failure.check(DivisionByZero):
        return Failure(GuardFailedError("the condition does not hold"))
    return translate_failure(failure, notices)


def translate_restricted_failure(failure: Failure, notices: str = "") -> Failure:
    """Return the error of this project for the failure of a statement with SQL of a client.

    Everything that the server says about the statement is for the client, who wrote it. Only what
    says that the server has no memory or disk or ends is not.
    """
    code = getattr(failure.value, "pgcode", None) or ""
    is_of_server = code.startswith(("08", "53", "57P")) and code != CONFIGURATION_LIMIT_EXCEEDED
    if not code or is_of_server:
        return translate_failure(failure, notices)
    error = cast(psycopg2.Error, failure.value)
    position = error.diag.statement_position
    message = join_lines(error.diag.message_primary or "the statement failed")
    return Failure(StatementError(message, int(position) if position else None))


def summarize_failure(failure: Failure) -> str:
    """Return the message of a failure in one line."""
    return join_lines(failure.getErrorMessage())


def join_lines(text: str) -> str:
    """Return a text of several lines as one line."""
    return " ".join(text.split())
