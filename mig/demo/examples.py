"""The fixed part of the demo's fleet: what the example requests of the specification find.

It has the ids and the dates of 2014 that the specification uses, and the compliance item that it
shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

import msgspec

from mig.demo.bulk_copy import SqlRow
from mig.demo.machines import MACHINES, SERVER1
from mig.demo.recurring import BOB_SMITH, SIGNATURE, join_results
from mig.demo.results import Operation, make_results

COMPLIANCE_ID: Final = 6_019_232_215_298_562_584
BACKDOOR_ID: Final = 6_018_714_912_031_670_272
FIRST_COMMAND_ID: Final = 6_019_232_259_520_546_404
SERVER1_COMMAND_ID: Final = 6_019_232_265_601_776_819

SERVER1_FINISHED: Final = datetime(2014, 5, 30, 14, 55, 41, 907_745, UTC)
"""The timestamp of the compliance item in the specification."""

VALIDITY: Final = timedelta(hours=6)
_PATH: Final = "/etc/ssh/sshd_config"
_CHECKS: Final = {
    "check for verbose logging (logs fingerprints)": ["(?i)^loglevel verbose$"],
    "check that root cannot log in": ["(?i)^permitrootlogin no$"],
}
_SEARCH: Final = {"paths": ["/usr/sbin", "/usr/local/sbin"], "names": ["^.sshd$"]}
# the machines of 2014: some of the web servers, and the one that the specification names
_MACHINES: Final = (
    *islice((machine for machine in MACHINES if machine.kind == "web"), 19),
    SERVER1,
)


@dataclass(frozen=True, kw_only=True)
class FixedAction:
    """An action of 2014, which has ended, and the ids of its commands."""

    id: int
    name: str
    url: str
    threat: Mapping[str, str]
    operations: str
    began: datetime
    first_command_id: int
    server1_command_id: int

    def make_row(self) -> SqlRow:
        """Return its row of ``actions``."""
        ended = self.began + timedelta(minutes=2)
        description = {
            "author": "Bob Smith",
            "email": "bob.smith@example.net",
            "url": self.url,
            "revision": 201405291200,
        }
        return (
            self.id,
            self.name,
            "agents.name like '%.prod.example.net'",
            json.dumps(description),
            json.dumps(self.threat),
            self.operations,
            self.began,
            self.began + VALIDITY,
            self.began,
            ended,
            ended,
            "completed",
            json.dumps([SIGNATURE]),
            2,
        )

    def make_signature_row(self) -> SqlRow:
        """Return the row of its signature."""
        return self.id, BOB_SMITH, SIGNATURE

    def generate_commands(self) -> Iterator[SqlRow]:
        """Yield the rows of its commands."""
        operations = msgspec.json.decode(self.operations, type=list[Operation])
        for n, machine in enumerate(_MACHINES):
            is_server1 = machine is SERVER1
            started = self.began + timedelta(seconds=1, milliseconds=n)
            finished = started + timedelta(seconds=2 + n, microseconds=n * 4_271)
            if self.id == COMPLIANCE_ID and is_server1:
                finished = SERVER1_FINISHED
            yield (
                self.server1_command_id if is_server1 else self.first_command_id + n,
                self.id,
                machine.agent_id,
                "success",
                join_results(make_results(operations, machine)),
                started,
                finished,
            )


FIXED_ACTIONS: Final = (
    FixedAction(
        id=COMPLIANCE_ID,
        name="compliance check for openssh",
        url="https://link.to.compliance.reference/index.html",
        threat={"level": "medium", "family": "compliance", "type": "system", "ref": "sysopenssh1"},
        operations=json.dumps(
            [{"module": "filechecker", "parameters": {_PATH: {"regex": _CHECKS}}}]
        ),
        began=datetime(2014, 5, 30, 14, 54, 50, tzinfo=UTC),
        first_command_id=FIRST_COMMAND_ID,
        server1_command_id=SERVER1_COMMAND_ID,
    ),
    FixedAction(
        id=BACKDOOR_ID,
        name="look for a backdoor in sshd",
        url="https://policy.example.net/backdoor.html",
        threat={"level": "high", "family": "backdoor", "type": "system", "ref": "sysbackdoor1"},
        operations=json.dumps(
            [{"module": "file", "parameters": {"searches": {"a hidden sshd": _SEARCH}}}]
        ),
        began=datetime(2014, 5, 19, 9, 30, tzinfo=UTC),
        first_command_id=BACKDOOR_ID + 1_000,
        server1_command_id=BACKDOOR_ID + 1_999,
    ),
)
