"""Actions as they are served."""

from __future__ import annotations

from typing import Any

from mig.records.investigator import SIGNERS_OF_ACTION, signers
from mig.records.stored import Row, number, stored_json
from mig.values import rfc3339

COLUMNS = (
    "a.id::text, a.name, a.target, a.description::text, a.threat::text, a.validfrom::text,"
    " a.expireafter::text, a.operations::text, a.pgpsignatures::text, a.status,"
    f" a.starttime::text, a.finishtime::text, a.lastupdatetime::text, a.syntaxversion,"
    f" {SIGNERS_OF_ACTION}"
)
WIDTH = 15

BY_IDS = f"select {COLUMNS} from actions a where a.id = any(%s::numeric[])"


def value(row: Row, counters: dict[str, int]) -> dict[str, Any]:
    """The action of a row of :data:`COLUMNS`."""
    (
        id,
        name,
        target,
        description,
        threat,
        validfrom,
        expireafter,
        operations,
        pgpsignatures,
        status,
        starttime,
        finishtime,
        lastupdatetime,
        syntaxversion,
        investigators,
    ) = row
    return {
        "id": number(id),
        "name": name,
        "target": target,
        "description": stored_json(description),
        "threat": stored_json(threat),
        "validfrom": rfc3339(validfrom),
        "expireafter": rfc3339(expireafter),
        "operations": stored_json(operations, "[]"),
        "pgpsignatures": stored_json(pgpsignatures or None, "[]"),
        "investigators": signers(investigators),
        "status": status or "",
        "starttime": rfc3339(starttime),
        "finishtime": rfc3339(finishtime),
        "lastupdatetime": rfc3339(lastupdatetime),
        "counters": counters,
        "syntaxversion": syntaxversion or 0,
    }
