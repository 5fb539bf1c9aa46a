"""The recorded fleet (tests/vectors/fleet.json), and rows of any kind, put into a database."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import psycopg2

from tests.support.documents import Json, JsonObject

VECTORS = Path(__file__).parents[1] / "vectors"
FLEET = json.loads((VECTORS / "fleet.json").read_text())
KEYS = {1: "bob", 2: "sher", 3: "mallory"}
NOT_YET = "9998-01-11T11:11:11Z"
NOT_DESTROYED = "0001-01-01T00:00:00Z"
TABLES = ("agents", "investigators", "actions", "commands")
ALWAYS = "after=0001-01-01T00:00:00Z"


def recorded(name: str) -> Json:
    """A recorded exchange with the original API."""
    return json.loads((VECTORS / "responses" / f"{name}.json").read_text())


def insert(dsn: str, table: str, rows: Iterable[Mapping[str, Json]]) -> None:
    """Insert rows; dicts and lists become JSON."""
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        for row in rows:
            values = [json.dumps(v) if isinstance(v, dict | list) else v for v in row.values()]
            places = ", ".join(["%s"] * len(values))
            cursor.execute(f"insert into {table} ({', '.join(row)}) values ({places})", values)


def load(dsn: str) -> None:
    """Load the recorded fleet as tests/vectors/README.md says."""
    insert(
        dsn,
        "agents",
        ({**a, "destructiontime": a["destructiontime"] or NOT_DESTROYED} for a in FLEET["agents"]),
    )
    insert(
        dsn,
        "investigators",
        (
            {**i, "publickey": (VECTORS / "keys" / f"{KEYS[i['id']]}.asc").read_bytes()}
            for i in FLEET["investigators"]
        ),
    )
    actions = [{k: v for k, v in a.items() if k != "signers"} for a in FLEET["actions"]]
    insert(dsn, "actions", actions)
    insert(
        dsn,
        "signatures",
        (
            {"actionid": a["id"], "investigatorid": signer, "pgpsignature": signature}
            for a in FLEET["actions"]
            for signer, signature in zip(a["signers"], a["pgpsignatures"], strict=True)
        ),
    )
    insert(
        dsn,
        "commands",
        (
            {**c, "results": c["results"] or [], "finishtime": c["finishtime"] or NOT_YET}
            for c in FLEET["commands"]
        ),
    )


def agent(id: int, **other: Json) -> JsonObject:
    return {
        "id": id,
        "name": f"agent{id}.example.net",
        "queueloc": f"linux.agent{id}",
        "version": "1",
        "pid": 1,
        "starttime": "2026-01-01T00:00:00Z",
        "heartbeattime": "2026-01-01T00:00:00Z",
        "status": "heartbeating",
        **other,
    }


def action(id: int, module: str = "file", **other: Json) -> JsonObject:
    return {
        "id": id,
        "name": f"action {id}",
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


def command(id: int | str, actionid: int | None, agentid: int | None, **other: Json) -> JsonObject:
    return {
        "id": id,
        "actionid": actionid,
        "agentid": agentid,
        "status": "success",
        "results": [],
        "starttime": "2026-01-01T00:00:00Z",
        "finishtime": "2026-01-01T00:00:01Z",
        **other,
    }


def hit(file: str = "/etc/a", **search: Json) -> JsonObject:
    return {"file": file, "search": search, "fileinfo": {"size": 1}}


def found(*hits: Mapping[str, Json], label: str = "check") -> list[JsonObject]:
    """The results of one operation of the module file."""
    return [{"foundanything": True, "success": True, "elements": {label: list(hits)}}]
