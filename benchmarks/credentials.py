"""What the check of credentials costs a small request."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Final

import psycopg2

from benchmarks.bench import Bench, Scenario, make_id_requests, make_measurement
from benchmarks.load import ClientGroup, Request
from benchmarks.measurements import Measurement
from benchmarks.signing import INVESTIGATOR
from mig.access.apikeys import hash_key, make_key
from mig.model.permissions import ALL_PERMISSIONS

CONNECTIONS: Final = (1, 16, 256)
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


CREDENTIAL_SCENARIOS: Final = (
    Scenario(
        name="agent-with-credentials",
        about="GET /agent with an API key, and with a token that is known",
        kind="file",
        measure=_measure_agents,
        signs=True,
    ),
)
