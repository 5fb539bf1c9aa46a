"""``python -m benchmarks.attacks``: expensive requests, and what other clients notice of them.

While some clients repeat an expensive request, another one asks for /heartbeat every 20 ms, or for
an agent with an API key where the attack is on the check of credentials. The table has its times,
and the memory of the daemon before, at its peak, and after.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import pbkdf2_hmac
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg2
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from benchmarks import fleet, procfs
from benchmarks.__main__ import SETTINGS, create_database, make_folder
from benchmarks.attacker import Attack, run_attack
from benchmarks.child_processes import ChildProcesses
from benchmarks.load import ClientGroup, Outcome, Request, run_load
from benchmarks.servers import Servers
from benchmarks.signing import Signer
from mig.access.adoption import HASH_BYTES, ROUNDS
from mig.access.apikeys import hash_key, make_key
from mig.demo.postgres import EmbeddedPostgres
from mig.limits import Limits
from mig.openpgp.packet import compute_crc24
from mig.reactor import Reactor

PAUSE_SECONDS: Final = 0.02
SETTLE_SECONDS: Final = 3.0
MANY_VALUES: Final = 190_000
"""Just below what an action may have."""
LARGE_ACTIONS: Final = 8
SMALL_BYTES: Final = 16_000
"""Just below what is parsed without another process."""

CREATE: Final = "/action/create/"
JSON: Final = "application/json"
URLENCODED: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data; boundary=b"
EVERYTHING: Final = "after=2000-01-01T00:00:00Z"
WARM_UP: Final = [
    Request(target="/dashboard"),
    Request(target=f"/search?type=command&limit=1000&{EVERYTHING}"),
]


WRONG_CREDENTIALS: Final = 10_000
MANY_ADDRESSES: Final = 10_000
SMALL_SEARCH: Final = "/search?type=agent&limit=1"
AGENT: Final = f"/agent?agentid={fleet.FIRST_ID}"
_INSERT_CALLER: Final = """
    insert into investigators
        (id, name, status, permissions, apikey, apisalt, createdat, lastmodified)
    values (%s, %s, 'active', 63, %s, %s, now(), now())
"""
_INSERT_KEY: Final = """
    insert into apikeys (id, investigatorid, name, keyhash, permissions)
    values (1, 2000, 'other', %s, 63)
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one attack did; memory in megabytes of the daemon alone, workers are its children."""

    attack: Attack
    heartbeat: Outcome
    statuses: dict[str, int]
    before_mb: float
    peak_mb: float
    after_mb: float
    children_mb: float


def list_searches() -> Iterator[Attack]:
    """Yield the attacks that are searches."""
    wild = quote("%a" * 8 + "b")
    yield _search("R1", "8 wildcards", f"type=agent&agentname={wild}&{EVERYTHING}", 4)
    three = f"actionname={wild}&threatfamily={wild}&agentname={'_' * 200}"
    yield _search("R2", "three patterns", f"type=command&{three}&{EVERYTHING}", 4)
    yield _search("R3", "offset 10^12", f"type=command&offset={10**12}&{EVERYTHING}", 8)
    nothing = f"type=command&foundanything=true&agentname=nowhere&{EVERYTHING}"
    yield _search("R4", "foundanything without a hit", nothing, 8)
    found = f"type=command&foundanything=true&offset=49000&limit=1&{EVERYTHING}"
    yield _search("R5", "foundanything behind an offset", found, 8)
    unknown = "&".join(f"{'x' * 200}{n}=1" for n in range(64))
    yield _search("R6", "64 unknown parameters", unknown, 4)
    yield _search("R7", "a parameter's name of 15 kB", f"{'x' * 15_000}=1", 4)
    yield _search("R8", "a value of 15 kB", f"type={'x' * 15_000}", 4)
    report = f"type=command&report=complianceitems&limit=100000&{EVERYTHING}"
    yield _search("R9", "8 reports at once", report, 8)


def _search(name: str, about: str, query: str, connections: int) -> Attack:
    return Attack(
        name=name,
        about=about,
        requests=[Request(target=f"/search?{query}")],
        connections=connections,
    )


def list_submissions(signed: str, size: int) -> Iterator[Attack]:
    """Yield the attacks that submit actions.

    :param signed: a signed action, as JSON: its signature is bad for every other action.
    :param size: the bytes of the largest body.
    """
    units = {
        "R10": ("numbers with an exponent", "1e300"),
        "R11": ("integers over 2**53", str(2**53 + 2)),
        "R12": ("integers of 300 digits", "9" * 300),
        "R13": ("opening brackets", "["),
        "R14": ("empty arrays", "[]"),
        "R15": ("members", '"%x":0'),
        "R16": ("empty operations", "{}"),
        "R17": ("strings", '"a"'),
    }
    for name, (about, unit) in units.items():
        bodies = [_fill_action(signed, unit, size), _fill_action(signed, unit, size, MANY_VALUES)]
        yield _submit(name, about, *bodies)
    escapes = "action=" + "%3C" * (size // 3 - 10)
    yield _submit("R18", "%3C throughout", escapes, media_type=URLENCODED)
    part = '--b\r\nContent-Disposition: form-data; name="action"\r\n\r\n'
    dashes = part + "\r\n-" * (size // 3 - 100) + "\r\n--b--\r\n"
    yield _submit("R19", "a part of line ends and dashes", dashes, media_type=MULTIPART)
    twenty = _fill_action(_add_bad_signatures(signed, 19), '"a"', size, 100)
    yield _submit("R20", "20 bad signatures", twenty, connections=4)
    fitting = _fill_action(signed, '"%x":0', size, MANY_VALUES)
    yield _submit("R21", "a key that is known", fitting, connections=4)
    arrays = _fill_action(signed, "[]", size)
    yield _submit("R22", "60 connections", arrays, connections=60)
    yield _submit("R22 fits", "60 connections within the limits", fitting, connections=60)
    small = _fill_action(signed, "1e300", SMALL_BYTES)
    yield _submit("R22 small", "60 connections with small actions", small, connections=60)


def _submit(
    name: str, about: str, *bodies: str, connections: int = 2, media_type: str = JSON
) -> Attack:
    requests = [
        Request(target=CREATE, method="POST", body=body, media_type=media_type) for body in bodies
    ]
    return Attack(name=name, about=about, requests=requests, connections=connections)


def _fill_action(signed: str, unit: str, size: int, values: int | None = None) -> str:
    """Return an action of ``size`` bytes whose operations consist of ``unit``.

    :param values: how often at most; a long string then fills the body.
    """
    before, after = json.dumps(json.loads(signed) | {"operations": "@"}).split('"@"')
    room = size - len(before) - len(after) - 100
    number = values or room
    items: list[str] = []
    for n in range(number):
        item = unit % n if "%" in unit else unit
        room -= len(item) + (unit != "[")
        if room < 0:
            break
        items.append(item)
    content = ("" if unit == "[" else ",").join(items)
    if unit == "{}":
        return f"{before}[{content}]{after}"
    content = f"{{{content}}}" if ":" in unit else f"[{content}]"
    filler = "x" * room if values else ""
    operation = f'{{"module":"m{filler}","parameters":{content}}}'
    return f"{before}[{operation}]{after}"


def _add_bad_signatures(signed: str, count: int) -> str:
    """Return the action with more signatures, which name the same key and differ in a number."""
    action = json.loads(signed)
    [signature] = action["pgpsignatures"]
    packet = base64.b64decode(signature.rpartition("=")[0])
    for n in range(1, count + 1):
        changed = packet[:-1] + bytes([packet[-1] ^ n])
        check = base64.b64encode(compute_crc24(changed).to_bytes(3))
        action["pgpsignatures"].append((base64.b64encode(changed) + b"=" + check).decode())
    return json.dumps(action)


def list_credentials(token: str) -> Iterator[Attack]:
    """Yield the attacks with wrong credentials, each first from one address and then from many.

    :param token: of an investigator; with another nonce it is bad.
    """
    head, nonce, signature = token.rsplit(";", 2)
    tokens = [f"{head};{nonce}{n:05};{signature}" for n in range(WRONG_CREDENTIALS)]
    yield from _present("T1", "bad tokens", "X-PGPAUTHORIZATION", tokens)
    yield from _present("T2", "the same bad token", "X-PGPAUTHORIZATION", tokens[:1])
    keys = [make_key(n) for n in range(1, 1 + WRONG_CREDENTIALS)]
    yield from _present("T3", "wrong API keys", "X-MIGAPIKEY", keys)
    texts = [f"text {n}" for n in range(WRONG_CREDENTIALS)]
    yield from _present("T4", "wrong keys of an earlier API", "X-MIGAPIKEY", texts)


def _present(name: str, about: str, header: str, values: list[str]) -> Iterator[Attack]:
    requests = [Request(target=SMALL_SEARCH, headers={header: value}) for value in values]
    for addresses in (1, MANY_ADDRESSES):
        yield Attack(
            name=name if addresses == 1 else f"{name} many",
            about=about,
            requests=requests,
            connections=16,
            addresses=addresses,
            is_closed=True,
        )


def enroll_callers(dsn: str) -> str:
    """Insert an investigator with an API key, which is returned, and others with old keys."""
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        for n in range(Limits().adopted_keys):
            salt = hash_key(str(n))[:16]
            hashed = pbkdf2_hmac("sha256", b"old key %d" % n, salt, ROUNDS, HASH_BYTES)
            cursor.execute(_INSERT_CALLER, (2_000 + n, f"caller {n}", hashed, salt))
        text = make_key(1)
        cursor.execute(_INSERT_KEY, (hash_key(text),))
    return text


def measure_attack(
    children: ChildProcesses, servers: Servers, attack: Attack, other: Request, seconds: float
) -> Row:
    """Run one attack, and beside it another client's requests."""
    [pid] = servers.pids
    before = procfs.read_megabytes(pid)
    procfs.reset_peak(pid)
    heartbeats = ClientGroup(
        name="other",
        requests=[other],
        seconds=seconds,
        pause=PAUSE_SECONDS,
    )
    with ThreadPoolExecutor() as pool:
        attacking = pool.submit(run_attack, children, servers.base, attack, seconds)
        [heartbeat] = run_load(children, servers.base, heartbeats)
        statuses = attacking.result()
    time.sleep(SETTLE_SECONDS)
    return Row(
        attack=attack,
        heartbeat=heartbeat,
        statuses=statuses,
        before_mb=before,
        peak_mb=procfs.read_peak_megabytes(pid),
        after_mb=procfs.read_megabytes(pid),
        children_mb=sum(map(procfs.read_megabytes, procfs.list_family(pid)[1:])),
    )


def format_row(row: Row) -> str:
    """Return a line of the table."""
    beat = row.heartbeat
    times = " ".join(f"{value or 0:7.0f}" for value in (beat.p50_ms, beat.p95_ms, beat.max_ms))
    memory = " ".join(
        f"{value:7.0f}" for value in (row.before_mb, row.peak_mb, row.after_mb, row.children_mb)
    )
    seen = " ".join(f"{count}x{status}" for status, count in sorted(row.statuses.items()))
    about = f"{row.attack.about} ({row.attack.connections})"
    return f"{row.attack.name:9} {about:42} {times} {memory}  {seen}"


HEADINGS: Final = (
    f"{'':9} {'':42} {'p50 ms':>7} {'p95 ms':>7} {'max ms':>7}"
    f" {'before':>7} {'peak':>7} {'after':>7} {'workers':>7}  answers"
)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    parser.add_argument("attacks", nargs="*", metavar="NAME", help="such as R10; by default all")
    parser.add_argument("--commands", type=int, default=50_000, help="commands in the fleet")
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each attack")
    parser.add_argument(
        "--bytes", type=int, default=Limits().action_body_bytes, help="the largest body"
    )
    parser.add_argument(
        "--twistd",
        type=Path,
        action="append",
        help="the twistd that runs the daemon; several are compared in one run",
    )
    return parser.parse_args()


async def main(reactor: Reactor, options: argparse.Namespace) -> None:
    """Measure the attacks that ``options`` name."""
    children = ChildProcesses()
    try:
        with make_folder() as folder:
            postgres = EmbeddedPostgres(reactor, folder / "postgres", SETTINGS)
            postgres.lock_folder()
            try:
                await postgres.start()
                dsn = await create_database(reactor, postgres, "attacked")
                size = fleet.FleetSize.from_commands(options.commands)
                await deferToThread(fleet.load_fleet, children, dsn, size, "file")
                await deferToThread(_measure_all, children, folder, dsn, options)
            finally:
                await postgres.stop()
    finally:
        children.stop()


def _measure_all(
    children: ChildProcesses, folder: Path, dsn: str, options: argparse.Namespace
) -> None:
    with Signer.create(children, folder / "gnupg") as signer:
        signer.enroll_investigators(dsn)
        [signed] = signer.sign_actions(1)
        policy = [{"module": "scribe", "parameters": {"text": "x" * (options.bytes - 4_096)}}]
        large = signer.sign_actions(LARGE_ACTIONS, operations=policy)
        attacks = [
            *list_searches(),
            *list_submissions(signed.body, options.bytes),
            _submit("V1", "valid actions of the largest size", *(one.body for one in large)),
            *list_credentials(signer.sign_token()),
        ]
        agent = Request(target=AGENT, headers={"X-MIGAPIKEY": enroll_callers(dsn)})
        heartbeat = Request(target="/heartbeat")
        print(HEADINGS)
        for attack in attacks:
            if not options.attacks or attack.name in options.attacks:
                for twistd in options.twistd or [Path(sys.executable).parent / "twistd"]:
                    with Servers.start_daemons(
                        *(children, folder, twistd.absolute(), dsn, 1),
                        authentication=attack.is_closed,
                    ) as servers:
                        # the connections to the database are open, with all their buffers
                        requests = [replace(one, headers=agent.headers) for one in WARM_UP * 8]
                        warm = ClientGroup(name="warm", requests=requests, connections=8)
                        run_load(children, servers.base, warm)
                        other = agent if attack.is_closed else heartbeat
                        row = measure_attack(children, servers, attack, other, options.seconds)
                    print(format_row(row), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    arguments = _parse_arguments()
    task.react(lambda reactor: Deferred.fromCoroutine(main(reactor, arguments)))
