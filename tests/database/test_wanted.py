"""The description that databases are compared with is the text that sets one up."""

from __future__ import annotations

import pytest

from mig.database.schema.declared import SHARED, read, wanted


def test_tables_columns_and_indexes_are_read() -> None:
    schema = read(
        "-- a comment; with a semicolon\n"
        "create sequence s;\n"
        "create table t (\n    id numeric primary key, -- why\n    name varchar(9) not null,\n"
        "    unique (id, name)\n);\n"
        "create index t_name on t (name, id);\n"
    )
    assert schema.sequences == ("s",)
    [table] = schema.tables
    assert table.columns == {"id": "numeric primary key", "name": "varchar(9) not null"}
    [index] = schema.indexes
    assert (index.name, index.table, index.columns) == ("t_name", "t", ("name", "id"))


@pytest.mark.parametrize(
    "sql",
    [
        "alter table t add column c text",
        "create index i on t (lower(name))",
        "create unique index i on t (name)",
        "create index i on t (name) where name is not null",
    ],
)
def test_what_could_not_be_compared_is_no_schema(sql: str) -> None:
    with pytest.raises(ValueError, match="no statement for a schema that is compared"):
        read(sql)


def test_the_private_key_is_granted_to_nobody() -> None:
    assert not any("privatekey" in grant.sql for grant in wanted().grants)
    assert {table.name for table in wanted().tables} > set(SHARED)
