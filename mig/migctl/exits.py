"""The exit statuses of ``migctl``, and what each error becomes."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple


class ExitStatus(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    INTERRUPTED = 130


MEANINGS: Final = {
    ExitStatus.OK: "everything worked",
    ExitStatus.FAILED: "not compliant, or failed: an invalid action or signature, an action that"
    " did not end or was not answered by every agent, records that cannot be read, a closed pipe",
    ExitStatus.USAGE: "wrong usage or configuration",
    ExitStatus.REFUSED: "refused by the service",
    ExitStatus.UNREACHABLE: "no answer, no whole answer, or the service cannot answer now",
    ExitStatus.INTERRUPTED: "interrupted",
}

NO_PATH: Final = "there is nothing at this path"
"""What the service says of a path that it does not have."""
URL_HINT: Final = "is the URL right? It has a path, as in https://mig.example.com/api/v1"


class CommandError(Exception):
    """A command that cannot go on; ``hint`` says what may help."""

    status = ExitStatus.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(CommandError):
    """Options, arguments or a configuration that cannot work."""

    status = ExitStatus.USAGE


class InterruptedCommandError(CommandError):
    """A command that the user has interrupted in the middle of something that goes on."""

    status = ExitStatus.INTERRUPTED


class Ending(NamedTuple):
    """How an error ends a command: the status, what was wrong, and what may help."""

    status: ExitStatus
    message: str
    hint: str = ""


def describe_error(error: Exception) -> Ending | None:
    """Return how an error ends a command; ``None`` for one that nobody has expected."""
    if isinstance(error, CommandError):
        return Ending(error.status, str(error), error.hint)
    if isinstance(error, OSError):
        return Ending(ExitStatus.FAILED, str(error))
    if isinstance(error, UnicodeDecodeError):
        hint = "a key must be armored: gpg --armor --export"
        return Ending(ExitStatus.FAILED, f"the file is not text: {error}", hint)
    return _describe_client_error(error)


def _describe_client_error(error: Exception) -> Ending | None:
    # here, since completion does not need the library
    from mig.client import errors

    if not isinstance(error, errors.MIGClientError):
        return None
    message = str(error)
    if isinstance(error, errors.InsecureURLError):
        return Ending(ExitStatus.USAGE, message)
    if isinstance(error, errors.UnavailableError):
        return Ending(ExitStatus.UNREACHABLE, message, "try again later")
    if isinstance(error, errors.UnauthorizedError):
        hint = "set MIG_API_KEY, or an API key or a keyid with `migctl config init`"
        return Ending(ExitStatus.REFUSED, message, hint)
    if isinstance(error, errors.ForbiddenError):
        return Ending(ExitStatus.REFUSED, message, "an administrator can give the permission")
    if isinstance(error, errors.NotFoundError) and error.message == NO_PATH:
        return Ending(ExitStatus.REFUSED, message, URL_HINT)
    if isinstance(error, errors.RequestError):
        return Ending(ExitStatus.REFUSED, message)
    if isinstance(error, errors.ConnectionFailedError):
        return Ending(ExitStatus.UNREACHABLE, message, "is the URL right, and the service running?")
    if isinstance(error, errors.IncompleteResponseError):
        hint = "what arrived is not everything: run it again"
        return Ending(ExitStatus.UNREACHABLE, message, hint)
    if isinstance(error, errors.InvalidResponseError):
        return Ending(ExitStatus.UNREACHABLE, message)
    return Ending(ExitStatus.FAILED, message)
