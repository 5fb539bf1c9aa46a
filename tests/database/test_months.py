"""The partitions by month of the audit."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg2
import pytest
import pytest_twisted
from psycopg2.extensions import make_dsn

from mig.database.schema.declaration import API_ROLE
from mig.database.schema.migrate import ensure_schema, migrate, plan_migration
from tests.support.migration import call_with_database
from tests.support.postgres import TestDatabase

PARTITIONS = """
select c.relname::text
from pg_inherits h join pg_class c on c.oid = h.inhrelid
where h.inhparent = 'audit'::regclass
order by c.relname = 'audit_default' desc, c.relname
"""
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
INSERT = "insert into audit (at, operation, callername, object, outcome) values"
COUNT = "select count(*) from audit"


def list_partitions(database: TestDatabase) -> list[str]:
    return [name for [name] in database.execute(PARTITIONS)]


def test_a_new_database_has_the_months_of_two_years(database: TestDatabase) -> None:
    default, *months = list_partitions(database)
    assert (default, len(months)) == ("audit_default", 25)
    [[first, last]] = database.execute(
        "select 'audit_' || to_char(m, 'YYYY_MM'),"
        " 'audit_' || to_char(m + interval '24 months', 'YYYY_MM')"
        " from (select now() at time zone 'UTC' as m) s"
    )
    assert (months[0], months[-1]) == (first, last)


def test_rows_go_to_the_partition_of_their_month_in_utc(database: TestDatabase) -> None:
    """Those of the far past or future go to the default partition."""
    database.execute("set timezone = 'America/New_York'")
    database.execute(
        f"{INSERT} (date_trunc('month', now() at time zone 'UTC') at time zone 'UTC',"
        " '1', 'x', 'y', 'done'), ('2020-01-01', '1', 'x', 'y', 'done'),"
        " ('9999-12-31', '1', 'x', 'y', 'done')"
    )
    [[current]] = database.execute(
        "select 'audit' || to_char(now() at time zone 'UTC', '_YYYY_MM')"
    )
    assert database.execute("select tableoid::regclass::text from audit order by at") == [
        ("audit_default",),
        (current,),
        ("audit_default",),
    ]


@pytest_twisted.ensureDeferred
async def test_a_migration_makes_the_missing_months(database: TestDatabase) -> None:
    """Rows that the default partition has of them move there; a daemon starts without them."""
    *_, last = list_partitions(database)
    database.execute(f"drop table {last}")
    database.execute(f"{INSERT} (now() + interval '24 months', '1', 'x', 'y', 'done')")
    await call_with_database(database.dsn, lambda d: ensure_schema(d, upgrade=False))
    [step] = await call_with_database(database.dsn, plan_migration)
    assert step.description == "create the months of audit"
    await call_with_database(database.dsn, lambda d: migrate(d, lambda _: None))
    assert last in list_partitions(database)
    assert database.execute(f"select count(*) from {last}") == [(1,)]
    assert database.execute(COUNT) == [(1,)]
    assert await call_with_database(database.dsn, plan_migration) == []


@pytest_twisted.ensureDeferred
async def test_the_owner_detaches_a_month_as_the_documentation_says(
    database: TestDatabase,
) -> None:
    """Its rows are in a table of their own, new ones are recorded, and a migration works."""
    _, current, *_ = list_partitions(database)
    database.execute(f"{INSERT} (now(), '1', 'x', 'y', 'done'), ('2020-01-01', '2', 'x', 'y', 'z')")
    [sql] = re.findall(r"```sql\n(.*? detach partition .*?)```", OPERATIONS.read_text(), re.DOTALL)
    database.execute(re.sub(r"audit_\d{4}_\d{2}", current, sql))
    assert current not in list_partitions(database)
    assert database.execute(f"select operation from {current}") == [("1",)]
    limited = TestDatabase(dsn=make_dsn(database.dsn, user=API_ROLE))
    limited.execute(f"{INSERT} (now(), '3', 'x', 'y', 'done')")
    assert limited.execute("select operation from audit order by at") == [("2",), ("3",)]
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        limited.execute(f"select operation from {current}")
    await call_with_database(database.dsn, lambda d: ensure_schema(d, upgrade=False))
    await call_with_database(database.dsn, lambda d: migrate(d, lambda _: None))
    assert limited.execute(COUNT) == [(2,)]
