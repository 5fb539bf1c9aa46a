"""The demo's fleet is as documented, stays near the present, and spares other databases."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
import pytest_twisted

from mig.demo.fleet import load_fleet, renew_fleet
from mig.demo.machines import FIRST_ID
from tests.support.api import Api
from tests.support.demo import NOW, Demo
from tests.support.postgres import TestDatabase


def count_fleet(database: TestDatabase) -> tuple[int, ...]:
    [counts] = database.execute(
        "select (select count(*) from agents),"
        " (select count(*) from actions where validfrom > '2015-01-01'),"
        " (select count(*) from commands where starttime > '2015-01-01'),"
        " (select count(distinct status) from commands),"
        " (select count(distinct os) from agents),"
        " (select count(distinct threat->>'family') from actions)"
    )
    return counts


@pytest_twisted.ensureDeferred
async def test_the_fleet_is_as_documented(api: Api, database: TestDatabase) -> None:
    assert count_fleet(database) == (501, 40, 20_040, 7, 3, 4)
    for table in ("agents", "actions", "commands"):
        [(old_ids, ids)] = database.execute(
            f"select count(*) filter (where scale(id) = 17), count(*) from {table}"
        )
        assert 0 < old_ids < ids, "some ids are as the programs of 2013 to 2015 wrote them"
    whole = await api.get(
        "/search?type=command&threatfamily=compliance&status=done&report=complianceitems"
        "&limit=100000"
    )
    assert whole.body.count(b'"name":"compliance item"') > 10_000
    assert b"unreadable" not in whole.body
    for resource in ("command", "agent", "action", "investigator"):
        found = await api.get(f"/search?type={resource}&limit=100000")
        assert b"unreadable" not in found.body
        assert found.document["items"][0]["data"][0]["name"] == resource


@pytest.mark.parametrize("steps", [1, 5], ids=["stopped", "running"])
def test_the_fleet_stays_near_the_present(database: TestDatabase, steps: int) -> None:
    later = NOW + timedelta(days=70)
    for step in range(steps):
        renew_fleet(database.dsn, later - (steps - 1 - step) * timedelta(hours=7))
    assert count_fleet(database) == (501, 40, 20_040, 7, 3, 4)
    [(newest, oldest)] = database.execute(
        "select max(validfrom), min(validfrom) from actions where validfrom > '2015-01-01'"
    )
    assert later - newest < timedelta(hours=4) and later - oldest < timedelta(days=7)
    silences = dict(
        database.execute(
            "select status, max(%s::timestamptz - heartbeattime) from agents group by status",
            (later,),
        )
    )
    assert silences["heartbeating"] < timedelta(minutes=4)
    assert silences["inactive"] < timedelta(days=2)
    assert silences["destroyed"] < timedelta(days=7)
    [(running, ahead)] = database.execute(
        "select max(%s::timestamptz - starttime), count(*) filter (where heartbeattime > %s)"
        " from agents",
        (later, later),
    )
    assert running < timedelta(days=60) and ahead == 0


@pytest_twisted.ensureDeferred
async def test_recurring_actions_go_on_and_end(demo: Demo) -> None:
    await demo.run_scheduler(timedelta(minutes=30))

    def list_statuses(at: datetime) -> list[tuple[str, int]]:
        return demo.database.execute(
            "select status, count(*) from actions where validfrom > '2015-01-01'"
            " and expireafter > %s group by status",
            (at,),
        )

    assert list_statuses(demo.now) == [("inflight", 1)]
    running = demo.now
    await demo.run_scheduler(timedelta(hours=6))
    assert list_statuses(running) == [("completed", 1)]


def test_the_fleet_of_an_earlier_version_is_replaced(database: TestDatabase) -> None:
    database.execute(
        "update investigators set name = 'Bob Kelso' where id = 1;"
        " insert into actions (id, name, target, validfrom, expireafter)"
        f" values ({FIRST_ID + 7}, 'old', 't', now(), now());"
        f" insert into signatures values ({FIRST_ID + 7}, 1, 's');"
        " insert into commands (id, actionid, agentid, status, starttime)"
        f" values ({FIRST_ID + 9}, {FIRST_ID + 7}, {FIRST_ID}, 'sent', now())"
    )
    load_fleet(database.dsn, NOW + timedelta(days=1))
    assert database.execute("select 1 from actions where name = 'old'") == []
    assert database.execute("select name from investigators where id = 1") == [("Bob Smith",)]


def test_a_new_fleet_is_told_from_one_that_is_there(empty_database: TestDatabase) -> None:
    assert load_fleet(empty_database.dsn, NOW) is True
    first = count_fleet(empty_database)
    assert load_fleet(empty_database.dsn, NOW) is False
    assert count_fleet(empty_database) == first


def test_a_database_with_other_agents_is_not_used_for_a_demo(
    empty_database: TestDatabase,
) -> None:
    empty_database.execute(
        "insert into agents (id, name, queueloc, version, pid, starttime, heartbeattime)"
        " values (1, 'a', 'q', 'v', 1, now(), now())"
    )
    with pytest.raises(ValueError, match="agents that are not the demo's"):
        load_fleet(empty_database.dsn, NOW)
    assert empty_database.execute("select count(*) from agents") == [(1,)]
