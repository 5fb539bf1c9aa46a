"""The recurring actions of the demo's fleet: one every four hours, on every machine.

A run is made from its number alone, so those of the past week can be made up at any time. Some ids
are written as the programs of 2013 to 2015 wrote them, with a fraction of zeros.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final

import msgspec

from mig.actions.submission import NOT_FINISHED
from mig.demo.bulk_copy import SqlRow
from mig.demo.machines import FIRST_ID, MACHINES, Machine
from mig.demo.outcomes import choose_recurring_outcome
from mig.demo.results import Operation, make_results

INTERVAL: Final = timedelta(hours=4)
KEPT_RUNS: Final = 40
"""The runs of a little less than seven days, which is the default window of searches."""

VALIDITY: Final = timedelta(hours=6)
BOB_SMITH: Final = 1
SHER_LOCK: Final = 2
SIGNATURE: Final = "wsBcBAABCAAQBQJrBVB7=AAAA"

ACTION_COLUMNS: Final = (
    "id, name, target, description, threat, operations, validfrom, expireafter, starttime,"
    " finishtime, lastupdatetime, status, pgpsignatures, syntaxversion"
)
COMMAND_COLUMNS: Final = "id, actionid, agentid, status, results, starttime, finishtime"
SIGNATURE_COLUMNS: Final = "actionid, investigatorid, pgpsignature"

_COMMANDS_OF_A_RUN: Final = 1_000  # ids that each run may use
_COMPLIANCE: Final = (
    ("sshd", "/etc/ssh", "sshd_config", "(?i)^loglevel verbose$"),
    ("sudo", "/etc", "sudoers", "^Defaults\\s+requiretty$"),
    ("auditd", "/etc/audit", "audit.rules", "^-w /var/spool/cron/root -p wa"),
    ("sysctl", "/etc", "sysctl.conf", "^net.ipv4.tcp_syncookies\\s*=\\s*1$"),
)
_HUNTS: Final = (
    ("backdoor", "critical", "file", "look for a backdoor in /usr/sbin"),
    ("malware", "high", "memory", "look for malware in the browser's memory"),
    ("connection", "medium", "netstat", "who talks to 172.21.0.6"),
)


def format_id(number: int) -> int | str:
    """Return an id as its row has it: every third as the programs of 2013 to 2015 wrote it."""
    return number if number % 3 else f"{number}.00000000000000000"


def list_runs(now: datetime) -> range:
    """Return the numbers of the runs that the fleet has at ``now``, the newest last."""
    newest = int(now.timestamp() // INTERVAL.total_seconds())
    return range(newest - KEPT_RUNS + 1, newest + 1)


class RecurringAction:
    """One run of a recurring action."""

    def __init__(self, run: int) -> None:
        self.run = run
        self.id = FIRST_ID + run
        self.began = datetime.fromtimestamp(run * INTERVAL.total_seconds(), UTC)
        self.expires = self.began + VALIDITY
        self.signer = (BOB_SMITH, SHER_LOCK)[run % 2]
        self._check = _COMPLIANCE[run % len(_COMPLIANCE)]
        if run % 4 == 3:
            self._family, self._level, self._module, self._name = _HUNTS[run // 4 % len(_HUNTS)]
        else:
            self._family, self._level = "compliance", ("low", "medium", "high")[run % 3]
            self._module = "file" if run % 4 else "filechecker"
            self._name = f"compliance check for {self._check[0]}"

    @property
    def operations(self) -> str:
        """Its operations in JSON."""
        name, folder, file, content = self._check
        search = {"paths": [folder], "names": [f"^{file}$"], "contents": [content]}
        hunt = {"paths": ["/usr/sbin"], "names": ["^.sshd$"]}
        is_hunt = self._family != "compliance"
        parameters: dict[str, object] = {
            "file": {
                "searches": {"a hidden sshd": hunt}
                if is_hunt
                else {f"{name} is configured": search}
            },
            "filechecker": {f"{folder}/{file}": {"regex": {f"{name} is configured": [content]}}},
            "memory": {"searches": {"m": {"names": ["firefox"], "bytes": ["c399c3a9"]}}},
            "netstat": {"neighborip": ["172.21.0.6"]},
        }
        return json.dumps([{"module": self._module, "parameters": parameters[self._module]}])

    def make_row(self, now: datetime) -> SqlRow:
        """Return its row of ``actions`` at ``now``."""
        has_ended = self.expires <= now
        description = {
            "author": "Bob Smith",
            "email": "bob.smith@example.net",
            "url": f"https://policy.example.net/{self._check[0]}.html",
            "revision": 201405291200,
        }
        threat = {
            "level": self._level,
            "family": self._family,
            "type": "system",
            "ref": f"sys{self._check[0]}1",
        }
        return (
            format_id(self.id),
            self._name,
            "agents.name like '%.example.net'",
            json.dumps(description),
            json.dumps(threat),
            self.operations,
            self.began,
            self.expires,
            self.began,
            self.expires if has_ended else NOT_FINISHED,
            self.expires if has_ended else self.began,
            "completed" if has_ended else "inflight",
            json.dumps([SIGNATURE]),
            2,
        )

    def make_signature_row(self) -> SqlRow:
        """Return the row of its signature."""
        return format_id(self.id), format_id(self.signer), SIGNATURE

    def generate_commands(self, now: datetime) -> Iterator[SqlRow]:
        """Yield the rows of its commands at ``now``."""
        for machine in MACHINES:
            started = self.began + timedelta(milliseconds=machine.number)
            outcome = choose_recurring_outcome(machine, self.run)
            status, finished = outcome.find_status(started, self.expires, now)
            yield (
                format_id(FIRST_ID + self.run * _COMMANDS_OF_A_RUN + machine.number),
                format_id(self.id),
                format_id(machine.agent_id),
                status,
                _encode_results(self.operations, machine) if status == "success" else "[]",
                started,
                finished,
            )


def find_run(action_id: int) -> int | None:
    """Return the run whose action has this id; ``None`` for an action of somebody else."""
    run = action_id - FIRST_ID
    return run if 0 <= run < _MAX_RUNS else None


_MAX_RUNS: Final = 1_000_000  # until the year 2426


@cache
def _decode_operations(operations: str) -> list[Operation]:
    return msgspec.json.decode(operations, type=list[Operation])


def _encode_results(operations: str, machine: Machine) -> str:
    return join_results(make_results(_decode_operations(operations), machine))


def join_results(results: list[bytes]) -> str:
    """Return the results of a command as its row has them."""
    return f"[{b','.join(results).decode()}]"
