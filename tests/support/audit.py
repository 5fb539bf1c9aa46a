"""The audit, as its table has it."""

from __future__ import annotations

from dataclasses import dataclass, field

from mig.access.caller import Caller
from mig.model.permissions import ALL_PERMISSIONS
from mig.web.request import Request
from tests.support.json_types import JsonObject
from tests.support.postgres import TestDatabase

CAROL = Caller(name="Carol", permissions=ALL_PERMISSIONS, investigator_id=7, key_id=3)
"""A caller whose key has the id 3."""


@dataclass
class FixedCaller:
    """An authenticator that takes everybody for one caller, which a test may change."""

    caller: Caller = field(default=CAROL)

    def __call__(self, request: Request) -> Caller:
        return self.caller


def read_audit(database: TestDatabase) -> list[JsonObject]:
    """Return the rows of the audit, the oldest first, without their times and own ids."""
    rows = database.execute(
        "select (to_jsonb(a) - 'at' - 'id')::text::json from audit a order by at, id"
    )
    return [row for [row] in rows]


def list_audited_actions(database: TestDatabase) -> list[str]:
    """Return the ids of the actions that were stored, by the audit."""
    sql = "select objectid::text from audit where object = 'action' and outcome = 'done'"
    return [action_id for [action_id] in database.execute(sql)]
