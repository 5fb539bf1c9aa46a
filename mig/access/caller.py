"""The caller of the API: who sent a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mig.model.permissions import ALL_PERMISSIONS, Permission
from mig.model.statement import Guard
from mig.values import escape_unprintable

MAX_LABEL_CHARACTERS: Final = 64
"""How much of a name is in the log, where the id follows it."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who sent a request: an investigator, by a token or a key, or anyone.

    ``name`` is that of the investigator. ``permissions`` are those of this request: those of the
    key, if there is one, as far as the investigator has them, too.

    ``investigator_id`` is ``None`` for a caller who needed no credentials. ``key_id`` is that of
    the API key, and ``key_expiry`` when it expires, in Unix seconds, if it does.

    ``guard`` is set while nobody has checked that all this still holds: the statement of the answer
    checks it. No handler gets such a caller without the means to do that.
    """

    name: str
    permissions: Permission
    investigator_id: int | None = None
    key_id: int | None = None
    key_expiry: float | None = None
    guard: Guard | None = None

    @property
    def identity(self) -> int | None:
        """Whose limits are used up: those of the investigator, with all their credentials."""
        return self.investigator_id

    @property
    def label(self) -> str:
        """The caller in the log, in one word: ``NAME/ID``, or ``NAME/ID/KEY``; ``-`` for anyone."""
        if self.investigator_id is None:
            return "-"
        name = escape_unprintable(self.name)[:MAX_LABEL_CHARACTERS]
        key = "" if self.key_id is None else f"/{self.key_id}"
        return f"{name.replace(' ', '_')}/{self.investigator_id}{key}"


ANONYMOUS: Final = Caller(name="anonymous", permissions=ALL_PERMISSIONS)
"""Anyone who can reach a service that does not require credentials."""

UNKNOWN: Final = Caller(name="anonymous", permissions=Permission(0))
"""Anyone who asks for an open route of a service that requires credentials for the others."""
