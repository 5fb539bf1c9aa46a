"""Actions that are read from files, and what is said about them before they are submitted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Final

from mig.client.signer import Action, InvalidActionError, make_dates
from mig.errors import InvalidInputError
from mig.migctl.exits import CommandError, UsageError
from mig.values import parse_json

if TYPE_CHECKING:
    from mig.client.blocking import MIGClient

DEFAULT_EXPIRY: Final = "1h"
MAX_NAMED_AGENTS: Final = 5
_DATES: Final = ("validfrom", "expireafter")


def read_action(text: str, expires: str | None) -> Action:
    """Return the action in the text of a file, signed or not.

    :param expires: how long an unsigned action is valid from now on; by default the dates of the
        file count, and one hour where it has none.
    :raises InvalidActionError: when it is none.
    :raises UsageError: when the dates of a signed action would change.
    """
    try:
        found = parse_json(text, "the action")
    except InvalidInputError as reason:
        raise InvalidActionError(str(reason)) from None
    if not isinstance(found, dict):
        raise InvalidActionError("an action is a JSON object")
    # programs of 2014 write null for what is not there
    members = {name: value for name, value in found.items() if value is not None}
    if members.get("pgpsignatures"):
        if expires:
            raise UsageError("the dates of a signed action cannot change: --expires has no effect")
    elif expires or not any(name in members for name in _DATES):
        dates = make_dates(expires or DEFAULT_EXPIRY, time.time)
        members |= dict(zip(_DATES, dates, strict=True))
    return Action.parse(json.dumps(members))


def check_expiry(action: Action) -> None:
    """Check that an action is still valid.

    :raises CommandError: when it has expired.
    """
    try:
        end = datetime.fromisoformat(action.expireafter)
    except ValueError:
        raise InvalidActionError("expireafter is not a date") from None
    if end.timestamp() <= time.time():
        hint = "" if action.pgpsignatures else "give it new dates: --expires 1h"
        raise CommandError(f"the action has expired: {action.expireafter}", hint)


def describe_action(action: Action) -> dict[str, str]:
    """Return what somebody wants to know who signs an action."""
    return {
        "name": action.name,
        "target": action.target,
        "modules": ", ".join(str(each.get("module")) for each in action.operations),
        "valid": f"{action.validfrom} to {action.expireafter}",
    }


def count_agents(client: MIGClient, target: str) -> tuple[int, str]:
    """Return how many agents a target matches, and that in words, with the first names."""
    agents = client.targets(target)
    names = [agent.name for agent in islice(agents, MAX_NAMED_AGENTS)]
    others = _count(agents)
    text = f"{len(names) + others}"
    if names:
        text += f": {', '.join(names)}" + (f" and {others} others" if others else "")
    return len(names) + others, text


def _count(agents: Iterable[object]) -> int:
    return sum(1 for _ in agents)
