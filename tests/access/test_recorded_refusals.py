"""Refusals are recorded once a minute, and the record is bounded, safe, and in nobody's way."""

from __future__ import annotations

import re
import urllib.request
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError

import msgspec
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import make_dsn, parse_dsn
from twisted.internet.task import Clock

from mig.access.apikeys import make_key
from mig.access.caller import ANONYMOUS, Caller
from mig.access.refusals import (
    MinuteCounter,
    RefusalRecorder,
    Tally,
    describe_refusal,
    is_recorded,
)
from mig.database.database import Database
from mig.database.schema.declaration import API_ROLE
from mig.errors import UnauthorizedError
from mig.limits import Limits
from mig.model.permissions import Permission
from mig.web.request import Request, RequestEnded
from tests.support.api import Api
from tests.support.audit import CAROL, FixedCaller, read_audit
from tests.support.daemon import Daemon
from tests.support.postgres import TestDatabase, hold_transaction
from tests.support.reactor import LogRecorder, reactor, record_log, wait_until
from tests.support.request_events import make_request_ended

READER = replace(CAROL, permissions=Permission.SEARCH)


@asynccontextmanager
async def recorder_of(
    database: TestDatabase, limits: Limits | None = None
) -> AsyncIterator[tuple[RefusalRecorder, Clock]]:
    """Run a recorder under a clock that the test moves; stop it at the end of the block."""
    opened, clock = Database(reactor, database.dsn), Clock()
    recorder = RefusalRecorder(clock, opened, limits or Limits())
    yield recorder, clock
    await recorder.stop()
    opened.stop()
    assert clock.getDelayedCalls() == []


def make_refusal(
    reason: str = "no", *, caller: Caller | None = CAROL, **changes: object
) -> RequestEnded:
    event: dict[str, object] = {
        "method": b"POST",
        "route": "/action/create/",
        "sender": caller,
        "status": 400,
        "refusal": reason,
    }
    return make_request_ended(**{**event, **changes})


@pytest.fixture
def caller() -> FixedCaller:
    return FixedCaller(READER)


@pytest_twisted.async_yield_fixture
async def service(database: TestDatabase, caller: FixedCaller) -> AsyncIterator[Api]:
    running = Api(database.dsn, handoff="none", authenticate=caller)
    yield running
    await running.stop()


@pytest_twisted.ensureDeferred
async def test_refusals_of_one_caller_route_and_reason_are_one_row(
    service: Api, database: TestDatabase, caller: FixedCaller
) -> None:
    """It counts them, and names the first one; a search that is wrong is not a refusal."""
    answers = [await service.get("/audit") for _ in range(3)]
    assert [answer.code for answer in answers] == [403] * 3
    for name in ("a", "b"):
        data = {"name": name, "publickey": "x"}
        answer = await service.request("POST", "/investigator/create/", data=data)
        assert answer.code == 403
    caller.caller = replace(CAROL, name="Dora", investigator_id=8, key_id=None)
    answer = await service.request("POST", "/investigator/update/", data={"id": "0"})
    assert answer.code == 400
    assert (await service.get("/search?limit=0")).code == 400
    assert (await service.get("/agent?agentid=5")).code == 404
    await service.refusals.stop()
    first, second, third = read_audit(database)
    assert first == {
        "operation": answers[0].get_header("X-Request-Id"),
        "caller": 7,
        "callername": "Carol",
        "key": 3,
        "client": "127.0.0.1",
        "method": "GET",
        "path": "/audit",
        "object": "audit",
        "objectid": None,
        "before": None,
        "after": None,
        "outcome": "refused with 403: this request needs the permission investigator_update",
        "count": 3,
    }
    assert (second["path"], second["object"]) == ("/investigator/create/", "investigator")
    assert second["outcome"].endswith("needs the permission investigator_create")
    assert (second["method"], second["count"]) == ("POST", 2)
    assert (third["caller"], third["callername"], third["key"]) == (8, "Dora", None)
    assert third["outcome"].startswith("refused with 400: id must be a whole number")


@pytest.mark.parametrize(
    ("changes", "recorded"),
    [
        ({}, True),
        ({"status": 409}, True),
        ({"status": 408}, True),
        ({"status": 503}, False),
        ({"status": 500, "refusal": None}, False),
        ({"status": 202, "refusal": None}, False),
        ({"method": b"GET"}, False),
        ({"method": b"GET", "status": 403}, True),
        ({"method": b"HEAD", "status": 429}, True),
        ({"method": b"GET", "status": 401}, True),
        ({"method": b"DELETE", "route": None, "status": 405}, False),
    ],
)
def test_what_would_change_something_is_recorded(
    changes: dict[str, object], recorded: bool
) -> None:
    """So is what a caller may not do, or not now, or without credentials."""
    event = msgspec.structs.replace(make_refusal(), **changes)
    assert is_recorded(event) == recorded


@pytest_twisted.ensureDeferred
async def test_a_row_is_written_when_its_minute_ends(database: TestDatabase) -> None:
    """Its time is that of the first refusal."""
    async with recorder_of(database) as (recorder, clock):
        recorder(make_refusal())
        clock.advance(40)
        recorder(make_refusal())
        recorder(make_refusal("another reason"))
        clock.advance(19)
        assert read_audit(database) == []
        clock.advance(1)
        await wait_until(lambda: read_audit(database))
        recorder(make_refusal())
        clock.advance(40)
        await wait_until(lambda: len(read_audit(database)) == 2)
        clock.advance(20)
        await wait_until(lambda: len(read_audit(database)) == 3)
    assert [row["count"] for row in read_audit(database)] == [2, 1, 1]
    ages = "select round(extract(epoch from clock_timestamp() - at) / 10) from audit order by id"
    assert [int(age) for [age] in database.execute(ages)] == [6, 6, 6]


@pytest_twisted.ensureDeferred
async def test_nobody_can_fill_the_audit_with_reasons(database: TestDatabase) -> None:
    """Beyond some reasons, those of a caller are counted together; another one is not concerned."""
    limits = Limits()
    dora = replace(CAROL, name="Dora", investigator_id=8)
    async with recorder_of(database, limits) as (recorder, _):
        for n in range(5_000):
            recorder(make_refusal(f"unknown field 'x{n}'"))
        recorder(make_refusal("no", caller=dora))
        recorder(make_refusal("unknown field 'x3'"))
    rows = read_audit(database)
    assert len(rows) == limits.refusal_reasons + 2
    assert rows[3]["count"] == 2
    other = rows[-2]
    assert (other["outcome"], other["count"]) == (
        "refused for other reasons",
        5_000 - limits.refusal_reasons,
    )
    assert (other["method"], other["path"], other["object"]) == (None, None, "request")
    assert (rows[-1]["callername"], rows[-1]["count"]) == ("Dora", 1)


@pytest_twisted.ensureDeferred
async def test_the_oldest_row_is_written_when_there_are_too_many(database: TestDatabase) -> None:
    async with recorder_of(database, Limits(refusals=3)) as (recorder, _):
        for n in range(5):
            recorder(make_refusal(caller=replace(CAROL, investigator_id=n + 1)))
        await wait_until(lambda: len(read_audit(database)) == 2)
        assert [row["caller"] for row in read_audit(database)] == [1, 2]
    assert [row["caller"] for row in read_audit(database)] == [1, 2, 3, 4, 5]


def deny_connections(database: TestDatabase, denied: bool) -> None:
    """Let the server refuse connections to the database, and end those that there are."""
    name = parse_dsn(database.dsn)["dbname"]
    admin = TestDatabase(dsn=make_dsn(database.dsn, dbname="postgres"))
    admin.execute(f"alter database {name} with allow_connections {not denied}")
    sql = "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s"
    admin.execute(sql, (name,))


@pytest_twisted.ensureDeferred
async def test_rows_wait_for_a_database_that_cannot_be_reached(database: TestDatabase) -> None:
    """Those that do not fit, and those that remain at the stop, are lines of the log."""
    with record_log() as log:
        async with recorder_of(database, Limits(refusals=3)) as (recorder, clock):
            deny_connections(database, True)
            for n in range(5):
                recorder(make_refusal(caller=replace(CAROL, investigator_id=n + 1)))
            clock.advance(60)
            await wait_until(lambda: find_lines(log, "refusals wait to be recorded"))
            await wait_until(lambda: len(find_lines(log, "is not in the audit")) == 2)
            deny_connections(database, False)
            clock.advance(5)
            await wait_until(lambda: len(read_audit(database)) == 3)
            deny_connections(database, True)
            recorder(make_refusal("\x1b[2J\u202e", caller=replace(CAROL, name="a\nb\u202e")))
        deny_connections(database, False)
    assert [row["caller"] for row in read_audit(database)] == [3, 4, 5]
    assert len(find_lines(log, "refusals wait to be recorded")) == 2
    *_, last = find_lines(log, "is not in the audit")
    assert last.isprintable() and '"callername":"a\\nb\\u202e"' in last
    assert log.failures == []


def find_lines(log: LogRecorder, text: str) -> list[str]:
    return [line for line in log.lines if text in line]


@pytest_twisted.ensureDeferred
async def test_a_row_that_the_database_refuses_is_a_line_of_the_log(
    database: TestDatabase,
) -> None:
    database.execute("alter table audit add check (callername <> 'Carol')")
    with record_log() as log:
        async with recorder_of(database) as (recorder, _):
            recorder(make_refusal())
            recorder(make_refusal(caller=replace(CAROL, name="Dora", investigator_id=8)))
    assert len(find_lines(log, "is not in the audit")) == 2
    assert log.failures == ["refusals cannot be recorded in the audit"]


@pytest_twisted.ensureDeferred
async def test_no_request_waits_for_the_record_of_a_refusal(
    database: TestDatabase, caller: FixedCaller
) -> None:
    """While another transaction locks the audit, refusals are answered as before."""
    service = Api(
        database.dsn, handoff="none", limits=Limits(refusal_seconds=0.01), authenticate=caller
    )
    with hold_transaction(database, "lock table audit in access exclusive mode"):
        for n in range(10):
            caller.caller = replace(READER, investigator_id=n + 1)
            assert (await service.get("/audit")).code == 403
    await service.stop()
    assert {row["caller"] for row in read_audit(database)} == set(range(1, 11))


@pytest_twisted.ensureDeferred
async def test_refusals_without_a_known_caller_are_one_line_for_each_address(
    database: TestDatabase,
) -> None:
    """They are not in the audit: anyone could fill it."""
    with record_log() as log:
        async with recorder_of(database, Limits(refusal_addresses=2)) as (recorder, clock):
            for client in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
                recorder(make_refusal(status=401, caller=None, client=client))
            recorder(make_refusal(caller=ANONYMOUS, client="192.0.2.1"))
            assert find_lines(log, "refused") == []
            recorder(make_refusal(status=401, caller=None, client="2001:db8::1"))
            assert len(find_lines(log, "refused")) == 1
            clock.advance(60)
            assert len(find_lines(log, "refused")) == 3
            recorder(make_refusal(status=401, caller=None, client="192.0.2.1"))
    assert find_lines(log, "refused") == [
        "3 requests of no known caller from 192.0.2.1 were refused in 0 s",
        "1 requests of no known caller from 192.0.2.2 were refused in 60 s",
        "1 requests of no known caller from 2001:db8::1 were refused in 60 s",
        "1 requests of no known caller from 192.0.2.1 were refused in 0 s",
    ]
    assert read_audit(database) == []


@pytest_twisted.ensureDeferred
async def test_bad_credentials_are_counted_in_the_log(database: TestDatabase) -> None:
    def refuse(request: Request) -> Caller:
        raise UnauthorizedError("the API key is not valid")

    service = Api(database.dsn, handoff="none", authenticate=refuse)
    with record_log() as log:
        for _ in range(3):
            assert (await service.get("/dashboard")).code == 401
        await service.stop()
    [line] = find_lines(log, "no known caller")
    assert line.startswith("3 requests of no known caller from 127.0.0.1 ")
    assert read_audit(database) == []


def test_a_daemon_that_is_stopped_records_what_it_has_counted(
    database: TestDatabase, tmp_path: Path
) -> None:
    dsn = make_dsn(database.dsn, user=API_ROLE)
    daemon = Daemon("--database", dsn, "--listen", "tcp:0", cwd=tmp_path)
    for _ in range(3):
        with pytest.raises(HTTPError, match="400"):
            urllib.request.urlopen(f"{daemon.base}action/create/", b"action=")
    assert "no known caller" not in daemon.log.read_text()
    daemon.stop()
    assert "3 requests of no known caller from 127.0.0.1 were refused" in daemon.log.read_text()


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@given(TEXTS, st.integers(1, 2**63 - 1), st.binary(min_size=32, max_size=80), TEXTS)
def test_a_reason_has_no_part_of_a_secret(
    before: str, key_id: int, signature: bytes, after: str
) -> None:
    """Also when the client has put it where it does not belong, and a message quotes it."""
    key, encoded = make_key(key_id), b64encode(signature).decode()
    token = f"1;2026-01-02T03:04:05Z;42;{encoded}"
    for secret in (key, encoded, token):
        for quoted in (secret, repr(secret), repr(secret[:40]), f"{secret}\n{secret}"):
            outcome = describe_refusal(make_refusal(f"{before} {quoted} {after}"))
            secrets = key.split("_")[2:] if secret == key else [encoded.rstrip("=")]
            for part in (text[n : n + 16] for text in secrets for n in range(len(text) - 15)):
                if re.search("[A-Z0-9]", part) and not part.isdigit():
                    assert part not in outcome


@given(TEXTS)
def test_an_outcome_is_one_short_visible_line(reason: str) -> None:
    """Its column holds it, whatever the reason contains."""
    outcome = describe_refusal(make_refusal(reason))
    assert outcome.isprintable() and len(outcome) <= 256
    assert outcome.startswith("refused with 400: ")


@pytest.mark.parametrize(
    "reason",
    [
        "this request needs the permission investigator_update",
        "this action was accepted as 9007199254740991 and has been deleted since",
        "limit must be a whole number from 1 to 9223372036854775807, not 'ten'",
        "the body must be application/x-www-form-urlencoded",
    ],
)
def test_a_reason_keeps_words_ids_and_names(reason: str) -> None:
    assert describe_refusal(make_refusal(reason)) == f"refused with 400: {reason}"


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 100)), max_size=60))
def test_every_event_is_counted_once_and_in_time(events: list[tuple[int, int]]) -> None:
    """The table is bounded, and no tally lasts longer than its time."""
    clock = Clock()
    ended: list[Tally[int, float]] = []

    def report(tallies: list[Tally[int, float]]) -> None:
        for tally in tallies:
            assert clock.seconds() - tally.began <= 60
        ended.extend(tallies)

    counter: MinuteCounter[int, float] = MinuteCounter(clock, seconds=60, size=4, report=report)
    for key, pause in events:
        if not counter.count_again(key):
            counter.start(key, clock.seconds())
        clock.pump([1] * pause)
        assert len(clock.getDelayedCalls()) <= 1
    counter.end_all()
    assert clock.getDelayedCalls() == []
    for key in range(9):
        total = sum(tally.count for tally in ended if tally.key == key)
        assert total == sum(each == key for each, _ in events)
    assert [tally.began for tally in ended] == sorted(tally.began for tally in ended)
