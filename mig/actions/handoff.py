"""How an accepted action gets to the scheduler."""

from __future__ import annotations

from typing import Final, Protocol

from mig.errors import UnavailableError


class Handoff(Protocol):
    """A way to the scheduler: through its spool (:class:`mig.actions.outbox.Outbox`), the database,
    or none."""

    @property
    def initial_status(self) -> str:
        """The status of a new action."""

    @property
    def uses_spool(self) -> bool:
        """Whether a new action waits in the outbox, with the document for the spool."""

    def start(self) -> None:
        """Begin to hand over."""

    async def stop(self) -> None:
        """Return when nothing is being handed over any more."""

    def check_available(self) -> None:
        """Refuse to take actions that would not reach the scheduler.

        :raises UnavailableError: saying why.
        """

    async def flush(self, action_id: int) -> None:
        """Hand over a new action; return when that is done, has failed, or takes too long."""


class DatabaseHandoff:
    """The scheduler polls the database for actions of status pending: there is nothing to do."""

    initial_status: Final = "pending"
    uses_spool: Final = False

    def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def check_available(self) -> None:
        pass

    async def flush(self, action_id: int) -> None:
        pass


class NoHandoff:
    """Nothing says where the spool is: no action is taken, everything else works."""

    initial_status: Final = "pending"
    uses_spool: Final = False

    def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def check_available(self) -> None:
        raise UnavailableError(
            "no action can be handed over: the configuration has no spool ([directories] spool),"
            " and [scheduler] handoff is not database"
        )

    async def flush(self, action_id: int) -> None:
        pass
