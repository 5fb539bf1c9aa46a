"""Descriptions of a database's tables that can be compared."""

from __future__ import annotations

from mig.database.schema.declaration import load_schema
from tests.support.postgres import TestDatabase

TABLES = [table.name for table in load_schema().tables if table.columns]
"""The declared tables; a partition has the columns of its table."""


def list_columns(database: TestDatabase) -> dict[tuple[str, str], tuple[str, bool, str]]:
    """Return each column's type, whether it must be set, and its default."""
    rows = database.execute(
        "select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,"
        " coalesce(pg_get_expr(d.adbin, d.adrelid), '')"
        " from pg_attribute a join pg_class c on c.oid = a.attrelid"
        " left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum"
        " where c.relname = any(%s) and a.attnum > 0 and not a.attisdropped",
        (TABLES,),
    )
    return {(table, column): tuple(properties) for table, column, *properties in rows}


def list_indexes(database: TestDatabase, tables: list[str] = TABLES) -> set[tuple[str, bool, str]]:
    """Return each valid index: its table, whether it is unique, and what it is on."""
    rows = database.execute(
        "select indrelid::regclass::text, indisunique,"
        " substring(pg_get_indexdef(indexrelid) from 'USING.*')"
        " from pg_index where indisvalid and indrelid::regclass::text = any(%s)",
        (tables,),
    )
    return set(rows)


def list_invalid_indexes(database: TestDatabase) -> list[str]:
    """Return the names of the unfinished indexes."""
    rows = database.execute("select indexrelid::regclass::text from pg_index where not indisvalid")
    return [name for [name] in rows]


def describe_all(database: TestDatabase) -> tuple[object, ...]:
    """Return columns, indexes and privileges."""
    privileges = database.execute(
        "select relname, relacl::text, relowner::regrole::text,"
        " (select array_agg(attname || attacl::text order by attnum) from pg_attribute"
        "  where attrelid = c.oid and attacl is not null)"
        " from pg_class c where relnamespace = 'public'::regnamespace and relkind in ('r', 'S')"
        " order by relname"
    )
    return list_columns(database), list_indexes(database), privileges
