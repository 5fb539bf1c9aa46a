"""What the items of a report are grouped by in a summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

CHECK: Final = "check"
DAY: Final = "day"
OS: Final = "os"
VERSION: Final = "version"
TAG: Final = "tag."
ACTION_NAMES: Final = ("policy", "level", "action")
"""What depends on the action of a command alone."""
GROUP_NAMES: Final = ("policy", "level", CHECK, "action", OS, VERSION, f"{TAG}NAME", DAY)
OF_COMMANDS: Final = ("action", DAY)
"""What an agent without a command has not, so that it belongs to no such group."""
DEFAULT_NAMES: Final = ("policy", CHECK)

GroupValues = tuple[str | None, ...]
"""The values of a group, in the order of the names."""


@dataclass(frozen=True)
class Grouping:
    """The names of the values that the items of a group share."""

    names: tuple[str, ...]

    @property
    def of_actions(self) -> tuple[str, ...]:
        """Those of the names that depend on the action."""
        return tuple(name for name in self.names if name in ACTION_NAMES)

    @property
    def of_agents(self) -> tuple[str, ...]:
        """Those of the names that depend on the agent."""
        return tuple(name for name in self.names if name in (OS, VERSION) or name.startswith(TAG))

    def order_values(self, values: Mapping[str, str | None]) -> GroupValues:
        """Return values by name in the order of the names."""
        return tuple(values[name] for name in self.names)


# gc=False: it is part of no cycle, and a hundred thousand of them would take long to visit
class Population(msgspec.Struct, eq=False, gc=False):
    """The agents that have the same values of what they are grouped by.

    ``size`` is how many have been seen.
    """

    values: GroupValues
    size: int = 0
