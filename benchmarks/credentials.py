"""What the check of credentials costs a small request, and actions beside many new tokens."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Final

import psycopg2

from benchmarks.bench import (
    Bench,
    Scenario,
    make_form_request,
    make_id_requests,
    make_measurement,
)
from benchmarks.load import ClientGroup, Request
from benchmarks.measurements import Measurement
from benchmarks.signing import INVESTIGATOR
from mig.access.apikeys import hash_key, make_key
from mig.model.permissions import ALL_PERMISSIONS

CONNECTIONS: Final = (1, 16, 256)
CONSOLES: Final = 50
SUBMITTERS: Final = 4
TOKENS_FOR_EACH_ACTION: Final = 5
FLOOR: Final = "the same without authentication"
_INSERT_KEY: Final = """
    insert into apikeys (id, investigatorid, name, keyhash, permissions)
    values (%s, %s, 'benchmark', %s, %s)
"""


def _insert_api_key(dsn: str) -> str:
    """Insert an API key of the first signer, and return its text."""
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("select nextval('apikeys_id_seq')")
        [[key_id]] = cursor.fetchall()
        text = make_key(key_id)
        values = (key_id, INVESTIGATOR, hash_key(text), int(ALL_PERMISSIONS))
        cursor.execute(_INSERT_KEY, values)
    return text


def _measure_credentials(noun: str, bench: Bench) -> list[Measurement]:
    """Measure requests with a key and with a token; the floor is a daemon that requires none."""
    if bench.signer is None:
        raise RuntimeError("there is no signer")
    plain = make_id_requests(f"/{noun}", bench.sample_ids(noun))
    key, token = _insert_api_key(bench.dsn), bench.signer.sign_token()
    rows = []
    with bench.start_closed_daemon() as servers:
        closed = replace(bench, servers=servers)
        for count in CONNECTIONS:
            without = _measure_kind(bench, f"{noun}-without", plain, {}, count)
            for kind, headers in (
                ("key", {"X-MIGAPIKEY": key}),
                ("token", {"X-PGPAUTHORIZATION": token}),
            ):
                row = _measure_kind(closed, f"{noun}-with-{kind}", plain, headers, count)
                rows.append(replace(row, floor=without.rate, floor_is=FLOOR))
            rows.append(without)
    return rows


def _measure_kind(
    bench: Bench, name: str, plain: list[Request], headers: dict[str, str], count: int
) -> Measurement:
    group = ClientGroup(
        name=name,
        requests=[replace(request, headers=headers) for request in plain],
        connections=count,
        seconds=bench.seconds,
    )
    bench.warm_up(group)
    [outcome], usage = bench.load_daemons(group)
    return make_measurement(bench, group, outcome, usage)


def _measure_agents(bench: Bench) -> list[Measurement]:
    return _measure_credentials("agent", bench)


def _measure_consoles(bench: Bench) -> list[Measurement]:
    """Measure 50 clients with a new token for each request, beside posts of actions."""
    if bench.signer is None:
        raise RuntimeError("there is no signer")
    key = {"X-MIGAPIKEY": _insert_api_key(bench.dsn)}
    posts = [
        replace(make_form_request("action", one.body, "/action/create/"), headers=key)
        for one in bench.signer.sign_actions(bench.sign)
    ]
    tokens = bench.signer.sign_tokens(TOKENS_FOR_EACH_ACTION * bench.sign)
    plain = make_id_requests("/agent", bench.sample_ids("agent"))
    searches = [
        replace(plain[n % len(plain)], headers={"X-PGPAUTHORIZATION": token})
        for n, token in enumerate(tokens)
    ]
    groups = [
        ClientGroup(name="consoles", requests=searches, connections=CONSOLES),
        ClientGroup(name="actions-beside", requests=posts, connections=SUBMITTERS, expect=202),
    ]
    with bench.start_closed_daemon() as servers:
        closed = replace(bench, servers=servers)
        outcomes, usage = closed.load_daemons(*groups)
    return [
        make_measurement(closed, group, outcome, usage, note="new tokens beside new actions")
        for group, outcome in zip(groups, outcomes, strict=True)
    ]


CREDENTIAL_SCENARIOS: Final = (
    Scenario(
        name="agent-with-credentials",
        about="GET /agent with an API key, and with a token that is known",
        kind="file",
        measure=_measure_agents,
        signs=True,
    ),
    Scenario(
        name="consoles-beside-actions",
        about=f"{CONSOLES} clients with a new token for each request, beside new actions",
        kind="file",
        measure=_measure_consoles,
        signs=True,
    ),
)
