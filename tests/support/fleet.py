"""The recorded fleet (tests/vectors/fleet.json) and rows of any kind for a database."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import psycopg2

from tests.support.json_types import Json, JsonObject

VECTORS = Path(__file__).parents[1] / "vectors"
FLEET = json.loads((VECTORS / "fleet.json").read_text())
KEYS = {1: "bob", 2: "sher", 3: "mallory"}
NOT_YET = "9998-01-11T11:11:11Z"
NOT_DESTROYED = "0001-01-01T00:00:00Z"
TABLES = ("agents", "investigators", "actions", "commands")
ANY_TIME = "after=0001-01-01T00:00:00Z"


def write_id(number: int) -> int | str:
    """Return an id as its row has it: an odd one as the programs of 2013 to 2015 wrote it."""
    return f"{number}.00000000000000000" if number % 2 else number


def write_reference(number: int) -> int | str:
    """Return the id of another row, written in the other form than in that row."""
    return number if number % 2 else f"{number}.00000000000000000"


def read_recording(name: str) -> Json:
    """Return a recorded exchange with the original API."""
    return json.loads((VECTORS / "responses" / f"{name}.json").read_text())


def insert_rows(dsn: str, table: str, rows: Iterable[Mapping[str, Json]]) -> None:
    """Insert rows; dicts and lists become JSON."""
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        for row in rows:
            values = [json.dumps(v) if isinstance(v, dict | list) else v for v in row.values()]
            places = ", ".join(["%s"] * len(values))
            cursor.execute(f"insert into {table} ({', '.join(row)}) values ({places})", values)


def load_fleet(dsn: str) -> None:
    """Load the recorded fleet as tests/vectors/README.md says."""
    insert_rows(
        dsn,
        "agents",
        (
            {
                **a,
                "id": write_id(a["id"]),
                "destructiontime": a["destructiontime"] or NOT_DESTROYED,
            }
            for a in FLEET["agents"]
        ),
    )
    insert_rows(
        dsn,
        "investigators",
        (
            {**i, "publickey": (VECTORS / "keys" / f"{KEYS[i['id']]}.asc").read_bytes()}
            for i in FLEET["investigators"]
        ),
    )
    actions = [
        {**{k: v for k, v in a.items() if k != "signers"}, "id": write_id(a["id"])}
        for a in FLEET["actions"]
    ]
    insert_rows(dsn, "actions", actions)
    insert_rows(
        dsn,
        "signatures",
        (
            {
                "actionid": write_reference(a["id"]),
                "investigatorid": write_reference(signer),
                "pgpsignature": signature,
            }
            for a in FLEET["actions"]
            for signer, signature in zip(a["signers"], a["pgpsignatures"], strict=True)
        ),
    )
    insert_rows(
        dsn,
        "commands",
        (
            {
                **c,
                "id": write_id(c["id"]),
                "actionid": write_reference(c["actionid"]),
                "agentid": write_reference(c["agentid"]),
                "results": c["results"] or [],
                "finishtime": c["finishtime"] or NOT_YET,
            }
            for c in FLEET["commands"]
        ),
    )


def make_agent(agent_id: int, **other: Json) -> JsonObject:
    return {
        "id": write_id(agent_id),
        "name": f"agent{agent_id}.example.net",
        "queueloc": f"linux.agent{agent_id}",
        "version": "1",
        "pid": 1,
        "starttime": "2026-01-01T00:00:00Z",
        "heartbeattime": "2026-01-01T00:00:00Z",
        "status": "heartbeating",
        **other,
    }


def make_action(action_id: int, module: str = "file", **other: Json) -> JsonObject:
    return {
        "id": write_id(action_id),
        "name": f"action {action_id}",
        "target": "true",
        "description": {},
        "threat": {"family": "compliance"},
        "operations": [{"module": module, "parameters": {}}],
        "validfrom": "2026-01-01T00:00:00Z",
        "expireafter": "2026-01-02T00:00:00Z",
        "status": "completed",
        "pgpsignatures": [],
        "syntaxversion": 2,
        **other,
    }


def make_command(
    command_id: int | str, actionid: int | None, agentid: int | None, **other: Json
) -> JsonObject:
    return {
        "id": write_id(command_id) if isinstance(command_id, int) else command_id,
        "actionid": None if actionid is None else write_reference(actionid),
        "agentid": None if agentid is None else write_reference(agentid),
        "status": "success",
        "results": [],
        "starttime": "2026-01-01T00:00:00Z",
        "finishtime": "2026-01-01T00:00:01Z",
        **other,
    }


def make_hit(file: str = "/etc/a", **search: Json) -> JsonObject:
    return {"file": file, "search": search, "fileinfo": {"size": 1}}


def make_results(*hits: Mapping[str, Json], label: str = "check") -> list[JsonObject]:
    """Return the results of one operation of the module file."""
    return [{"foundanything": True, "success": True, "elements": {label: list(hits)}}]
