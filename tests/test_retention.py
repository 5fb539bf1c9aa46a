"""Old rows are deleted by the owner, in batches, and nothing else is."""

from __future__ import annotations

from datetime import timedelta

import pytest
import pytest_twisted
from psycopg2.extensions import make_dsn

from mig.access.audit import Actor
from mig.database.schema.declaration import API_ROLE
from mig.errors import SchemaError
from mig.retention import Pruned, RetentionPolicy, prune
from tests.support.migration import call_with_database
from tests.support.postgres import TestDatabase

ACTOR = Actor.of_command_line("prune")
DAYS_400 = RetentionPolicy(commands=timedelta(days=400))
EVERYTHING = RetentionPolicy(
    commands=timedelta(days=400), actions=timedelta(days=800), audit=timedelta(days=2000)
)


@pytest.fixture
def old(database: TestDatabase) -> TestDatabase:
    """Return a database with an action a month for 40 months, each with 30 commands."""
    database.execute("""
        insert into agents (id, name, queueloc, version, pid, starttime, heartbeattime)
        values (1, 'a', 'q', 'v', 1, now(), now());
        insert into investigators (id, name, status, createdat, lastmodified)
        values (1, 'i', 'active', now(), now());
        insert into actions (id, name, target, validfrom, expireafter)
        select n, 'n', 't', now() - n * interval '1 month',
            now() - n * interval '1 month' + interval '10 days'
        from generate_series(0, 39) n;
        insert into signatures select id, 1, 's' from actions;
        insert into submissions (identity, actionid, handedover)
        select id::text::bytea, id, now() from actions;
        insert into commands (id, actionid, agentid, status, starttime)
        select a.id * 100 + n, a.id, 1, 'success', a.validfrom
        from actions a, generate_series(1, 30) n;
    """)
    return database


async def run(database: TestDatabase, policy: RetentionPolicy, *, dry_run: bool = False) -> Pruned:
    return await call_with_database(
        database.dsn, lambda opened: prune(opened, policy, ACTOR, dry_run=dry_run)
    )


def count(database: TestDatabase) -> tuple[int, ...]:
    [counts] = database.execute(
        "select (select count(*) from commands), (select count(*) from actions),"
        " (select count(*) from signatures), (select count(*) from submissions)"
    )
    return counts


@pytest_twisted.ensureDeferred
async def test_old_commands_are_deleted_in_batches(old: TestDatabase) -> None:
    [[kept]] = old.execute(
        "select count(*) from commands where starttime >= now() - interval '400 days'"
    )
    progress: list[int] = []
    policy = RetentionPolicy(commands=timedelta(days=400), commands_per_batch=50)
    pruned = await call_with_database(
        old.dsn,
        lambda d: prune(d, policy, ACTOR, on_progress=lambda p: progress.append(p.commands)),
    )
    assert pruned == Pruned(commands=1200 - kept)
    assert count(old) == (kept, 40, 40, 40)
    assert len(progress) == -(-pruned.commands // 50) and progress == sorted(progress)
    assert old.execute("select min(starttime) >= now() - interval '400 days' from commands") == [
        (True,)
    ]


@pytest_twisted.ensureDeferred
async def test_a_dry_run_counts_what_a_run_deletes(old: TestDatabase) -> None:
    before = count(old)
    expected = await run(old, EVERYTHING, dry_run=True)
    assert count(old) == before
    assert old.execute("select count(*) from audit") == [(0,)]
    assert expected.commands and expected.actions
    assert await run(old, EVERYTHING) == expected


@pytest_twisted.ensureDeferred
async def test_an_action_is_kept_while_it_has_a_command_or_may_run(old: TestDatabase) -> None:
    """Its signatures go with it, and the row that guards against a second run."""
    old.execute("update commands set starttime = now() where id = 3901")
    old.execute("delete from commands where actionid in (0, 38)")
    policy = RetentionPolicy(commands=timedelta(days=400), actions=timedelta(0))
    pruned = await run(old, policy)
    left = {int(number) for [number] in old.execute("select id from actions")}
    with_commands = {int(n) for [n] in old.execute("select distinct actionid from commands")}
    assert left == with_commands | {0}
    assert 39 in left
    assert pruned.actions == 40 - len(left)
    assert count(old)[1:] == (len(left),) * 3


@pytest_twisted.ensureDeferred
async def test_old_months_of_the_audit_are_detached(old: TestDatabase) -> None:
    """Their rows are no longer served, but kept for the owner; the default partition stays."""
    old.execute(
        "create table audit_2019_01 partition of audit"
        " for values from ('2019-01-01Z') to ('2019-02-01Z')"
    )
    old.execute(
        "insert into audit (at, operation, callername, object, outcome)"
        " values ('2019-01-31Z', '1', 'x', 'y', 'done'), ('2018-01-31Z', '1', 'x', 'y', 'done')"
    )
    assert (await run(old, EVERYTHING)).months == ("audit_2019_01",)
    assert old.execute("select count(*) from audit_2019_01") == [(1,)]
    assert old.execute("select count(*) from audit where at < '2020-01-01'") == [(1,)]
    assert (await run(old, EVERYTHING)).months == ()


@pytest_twisted.ensureDeferred
async def test_a_run_is_in_the_audit_before_it_deletes(old: TestDatabase) -> None:
    await run(old, EVERYTHING)
    await run(old, DAYS_400)
    rows = old.execute(
        "select callername, path, object, objectid, after::text from audit order by id"
    )
    assert [row[1:4] for row in rows] == [("mig-api prune", "retention", None)] * 2
    assert rows[0][0] == ACTOR.callername
    assert '"audit":null' in rows[1][4] and '"audit":"20' in rows[0][4]


@pytest_twisted.ensureDeferred
async def test_a_role_that_is_not_the_owner_is_refused(old: TestDatabase) -> None:
    before = count(old)
    daemon = TestDatabase(dsn=make_dsn(old.dsn, user=API_ROLE))
    with pytest.raises(SchemaError, match=r"^migapi may not delete: run this as "):
        await run(daemon, EVERYTHING)
    assert count(old) == before
