"""Links from a record to related records."""

from __future__ import annotations

from collections.abc import Sequence

from mig.hypermedia.document import Link
from mig.hypermedia.urls import Urls
from mig.values import UNSET_TIME


def link_commands(
    urls: Urls, action_id: int, commands: Sequence[tuple[str, str | None]], *, has_more: bool
) -> list[Link]:
    """Return the links of an action: to its first commands and, if it has more, to a search."""
    links = [
        Link(rel=f"Command ID {command} on agent {agent}", href=urls.for_command(command))
        for command, agent in commands
    ]
    if has_more:
        search = [("type", "command"), ("actionid", str(action_id)), ("after", UNSET_TIME)]
        links.append(Link(rel="commands", href=urls.for_search(search)))
    return links


def link_action(urls: Urls, action_id: str | None) -> Sequence[Link]:
    """Return the links of a command, to its action."""
    return () if action_id is None else (Link(rel="action", href=urls.for_action(action_id)),)


def link_owner(urls: Urls, investigator_id: str) -> Sequence[Link]:
    """Return the links of an API key, to its investigator."""
    return (Link(rel="investigator", href=urls.for_investigator(investigator_id)),)


def link_history(urls: Urls, investigator_id: str) -> Sequence[Link]:
    """Return the links of an investigator, to the last actions that they signed."""
    return (Link(rel="investigator history", href=urls.for_actions_of(investigator_id)),)
