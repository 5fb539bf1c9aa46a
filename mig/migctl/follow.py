"""Actions that are followed to their end, and what the agents have answered."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mig.migctl.exits import CommandError, InterruptedCommandError
from mig.migctl.output import open_writer
from mig.migctl.progress import show_action
from mig.migctl.terminal import print_notice

if TYPE_CHECKING:
    from mig.client.blocking import MIGClient
    from mig.client.records import Action

_SUCCESS: Final = "success"
_COMPLETED: Final = "completed"
BEGINNING: Final = "0001-01-01T00:00:00Z"
"""Before every record: commands of old actions are outside the default window."""


def follow_action(
    client: MIGClient, action: Action, format_name: str, path: Path | None, agents: int = 0
) -> None:
    """Wait until an action has ended, and print the answers of its agents.

    :param agents: how many will be asked, if that is known.
    :raises CommandError: when the action is invalid, or an agent did not answer with success.
    """
    try:
        with show_action(action.name, agents) as show:
            ended = client.wait(action, on_change=show)
    except KeyboardInterrupt:
        hint = f"migctl action follow {action.id}"
        raise InterruptedCommandError("interrupted; the action goes on", hint) from None
    statuses: Counter[str] = Counter()
    with open_writer("answer", format_name, path) as writer:
        for command in client.search("command", actionid=action.id, after=BEGINNING):
            statuses[command.status] += 1
            writer.write(command)
    _print_summary(ended, statuses)
    if ended.status != _COMPLETED:
        raise CommandError(f"the action is {ended.status}")
    others = statuses.total() - statuses[_SUCCESS]
    if others:
        raise CommandError(f"{others} of {statuses.total()} agents did not answer with success")


def _print_summary(action: Action, statuses: Counter[str]) -> None:
    counts = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    print_notice(f"action {action.id} {action.status}: {counts or 'no agent was asked'}")
