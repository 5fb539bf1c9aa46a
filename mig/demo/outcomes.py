"""When an agent of the demo gets its command, and when and how the command ends.

Both depend on the machine and, for a recurring action, on the run: so the commands of the past can
be made up, and a command that was running when the demo was stopped goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from mig.demo.machines import Machine

UNFINISHED: Final = ("prepared", "sent")

_RECURRING: Final = ("success",) * 16 + ("timeout", "cancelled", "expired", "failed")
_TIMEOUT: Final = timedelta(seconds=6)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """When a command changes its status, from its start on, and its final ``status``.

    A delay of ``None`` means that this does not happen before the action expires.
    """

    status: str
    sent: timedelta | None
    ended: timedelta | None

    def find_status(
        self, started: datetime, expires: datetime, now: datetime
    ) -> tuple[str, datetime | None]:
        """Return the status at ``now``, and when the command ended, if it has.

        :param started: when the scheduler made the command.
        :param expires: when its action expires.
        """
        if self.ended is not None and started + self.ended <= min(now, expires):
            return self.status, started + self.ended
        if expires <= now:
            return "expired", expires
        if self.sent is not None and started + self.sent <= now:
            return "sent", None
        return "prepared", None


def choose_outcome(machine: Machine) -> Outcome:
    """Return the outcome of a command of an action that somebody posted: it ends after seconds."""
    n = machine.number
    sent = timedelta(milliseconds=100 + n * 13 % 700)
    if n % 41 == 13:
        return Outcome(status="timeout", sent=sent, ended=_TIMEOUT)
    status = "failed" if n % 97 == 57 else "success"
    return Outcome(status=status, sent=sent, ended=timedelta(milliseconds=1_000 + n * 37 % 4_000))


def choose_recurring_outcome(machine: Machine, run: int) -> Outcome:
    """Return the outcome of a command of a recurring action.

    Some machines are away: their commands wait, prepared or sent, until the action expires.
    """
    n = machine.number
    sent = timedelta(milliseconds=100)
    status = _RECURRING[(n * 7 + run) % len(_RECURRING)]
    if status == "expired":
        return Outcome(status=status, sent=sent if n // len(_RECURRING) % 2 else None, ended=None)
    number = run * 1_000 + n
    duration = timedelta(milliseconds=200 + number * 37 % 9_000, microseconds=number % 977)
    return Outcome(status=status, sent=sent, ended=duration)
