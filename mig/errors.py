"""Every error of ours, and what a client is told of it."""

from __future__ import annotations


class Refusal(Exception):
    """What a client is told instead of an answer.

    The message is for people: it says what was wrong, where, and what is accepted.
    """


class InvalidInput(Refusal):
    """The request holds a value that is not accepted. ``where`` names the parameter or field."""

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(message)
        self.where = where


class NotFound(Refusal):
    """Nothing is known under this id or path."""


class Conflict(Refusal):
    """What is asked for is there already, or cannot be once more. *id* is what stands there."""

    def __init__(self, message: str, id: str = "") -> None:
        super().__init__(message)
        self.id = id


class Unavailable(Refusal):
    """The answer cannot be given now; the same request may succeed later.

    *detail* is for the operator alone: it may name hosts, folders and roles.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


def explained(reason: BaseException) -> str:
    """What went wrong, with the detail that is for the operator: for logs and terminals."""
    detail = getattr(reason, "detail", "")
    return f"{reason}: {detail}" if detail else str(reason)


class Unreadable(Exception):
    """A stored document cannot be read; the message is the reason, fit for a client."""
