"""How an accepted action gets to the scheduler."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from mig.errors import UnavailableError
from mig.model.row import make_row_reader
from mig.model.statement import QueryFunction, Statement

NO_HANDOFF: Final = (
    "no action can be handed over: set a spool ([directories] spool) or [scheduler] handoff ="
    " database"
)


class _TypeRow(NamedTuple):
    is_varchar: bool


# The schedulers of 2014 declared this column as json, and took actions from a spool.
_SELECT_SIGNATURES_TYPE = Statement(
    """
    select atttypid = 'varchar'::regtype
    from pg_attribute
    where attrelid = to_regclass('actions') and attname = 'pgpsignatures'
    """,
    make_row_reader(_TypeRow),
)


async def has_database_scheduler(query: QueryFunction) -> bool:
    """Return whether the tables are those of the schedulers of 2017, which poll the database."""
    return any(row.is_varchar for row in await query(_SELECT_SIGNATURES_TYPE))


class Handoff(Protocol):
    """A way to the scheduler: its spool, the database, or none.

    :class:`mig.actions.outbox.Outbox` is the way through the spool.
    """

    @property
    def initial_status(self) -> str:
        """The status of a new action."""

    @property
    def uses_spool(self) -> bool:
        """Whether a new action waits in ``submissions``, with its document for the spool."""

    def start(self) -> None:
        """Start handing over."""

    async def stop(self) -> None:
        """Stop handing over; return when the current hand-off has ended or takes too long."""

    def check_available(self) -> None:
        """Refuse actions while they would not reach the scheduler.

        :raises UnavailableError: with the reason.
        """

    async def flush(self, action_id: int) -> None:
        """Hand over a new action; return when that has succeeded, failed, or takes too long."""


class DatabaseHandoff:
    """The hand-off to a scheduler that polls the database for actions of status ``pending``."""

    initial_status: Final = "pending"
    uses_spool: Final = False

    def start(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""

    def check_available(self) -> None:
        """Accept: a stored action is within the scheduler's reach."""

    async def flush(self, action_id: int) -> None:
        """Do nothing: the scheduler finds the action when it polls."""


class NoHandoff:
    """The absence of a hand-off: actions are refused, and everything else works."""

    initial_status: Final = "pending"
    uses_spool: Final = False

    def start(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""

    def check_available(self) -> None:
        """Refuse every action.

        :raises UnavailableError: always, with what the configuration lacks.
        """
        raise UnavailableError(NO_HANDOFF)

    async def flush(self, action_id: int) -> None:
        """Do nothing: no action is ever accepted."""
