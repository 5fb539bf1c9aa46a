"""The machines of the demo's fleet, each with one agent.

They depend on nothing but their number. The last one is the machine that the specification's
examples name, so that its examples have an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MACHINE_COUNT: Final = 501
FIRST_ID: Final = 6_019_232_215_298_560_000  # above 2**53: clients must read ids exactly
SERVER1_ID: Final = 6_074_883_012_002_259_968

_SYSTEMS: Final = (
    ("linux", "web", "prod", "RedHatEnterpriseServer 6.5 Santiago"),
    ("linux", "db", "prod", "Ubuntu 14.04 trusty"),
    ("darwin", "desktop", "corp", "10.9.3"),
    ("windows", "winbuild", "corp", "Server 2008 R2"),
    ("linux", "mail", "prod", "CentOS 6.5 Final"),
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine, and the id and the ``status`` of its agent."""

    number: int
    agent_id: int
    name: str
    os: str
    kind: str
    ident: str
    status: str

    @property
    def address(self) -> str:
        """Its address in the fleet's network."""
        return f"10.{self.number % 5}.{self.number // 250}.{self.number % 250 + 1}"


def _make_machine(n: int) -> Machine:
    os, kind, zone, ident = _SYSTEMS[n % len(_SYSTEMS)]
    name = f"{kind}{n // len(_SYSTEMS) + 1}.{zone}.example.net"
    agent_id = FIRST_ID + n
    if n == MACHINE_COUNT - 1:
        name, agent_id = "server1.prod.example.net", SERVER1_ID
    status = "heartbeating"
    if n % 50 == 7:
        status = "inactive"
    if n % 100 == 42:
        status = "destroyed"
    return Machine(
        number=n, agent_id=agent_id, name=name, os=os, kind=kind, ident=ident, status=status
    )


MACHINES: Final = tuple(_make_machine(n) for n in range(MACHINE_COUNT))
SERVER1: Final = MACHINES[-1]
MACHINES_BY_AGENT: Final = {machine.agent_id: machine for machine in MACHINES}
